"""What the lm-eval task files beside this one call: rows as prompts in a template of ours, and our own graders.

lm-eval hands over its ``--metadata`` and the model's arguments. The prompt is the text that our own commands ask with,
special tokens written out, so that a difference in figures is one of the models and not of the prompts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

    from backends.checkpoint.resolve import CheckpointFiles
    from converters.text.conversation import Turn


def math_rows(
    data: str, *, pretrained: str, peft: str | None = None, template: str | None = None, **_: Any
) -> dict[str, Dataset]:
    """Read arithmetic problems.

    Args:
        data: one ``{"problem", "solution"}`` a line.
        pretrained: the model, as lm-eval was told.
        peft: the adapter on it, if any.
        template: how questions are put; None: as the run was trained.
    """
    from converters.text.conversation import Turn
    from eval.math.command import read_problems

    problems = read_problems(data, None)
    files = _files(pretrained, peft, template)
    prompts = _prompts([Turn("user", row["problem"]) for row in problems.values()], files)
    rows = [
        {"prompt": prompt, "label": row["solution"]} for prompt, row in zip(prompts, problems.values(), strict=True)
    ]
    return _split(rows)


def squad_rows(
    data: str | None = None, *, pretrained: str, peft: str | None = None, template: str | None = None, **_: Any
) -> dict[str, Dataset]:
    """Read all questions of a data set in SQuAD v1.1's JSON; without ``data``, of the shipped reading set."""
    from eval.squad.command import reading_turn
    from eval.squad.data import SHIPPED, read_questions

    questions = read_questions(data or SHIPPED)
    allow = template == "squad"
    files = _files(pretrained, peft, template, allow_mismatch=allow)
    prompts = _prompts([reading_turn(question, files.template) for question in questions], files)
    return _split(
        [
            {"id": one.id, "prompt": prompt, "labels": list(one.golds), "label": one.golds[0]}
            for prompt, one in zip(prompts, questions, strict=True)
        ]
    )


def grade_math(row: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Grade one answer under every rule of ``eval.math``."""
    from eval.math.rules import grade, parse

    label = parse(row["label"])
    assert label is not None  # read_problems leaves out rows whose solution has no answer
    return {rule: float(right) for rule, right in grade(parse(results[0]), label).items()}


def grade_squad(row: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Grade one answer as ``eval.squad --protocol official`` does, in percent."""
    from eval.squad.rules import first_line, official_scores

    scores = official_scores(first_line(results[0]), row["labels"])
    return {"f1": 100 * scores.f1, "em": 100 * scores.em}


def _files(pretrained: str, peft: str | None, template: str | None, *, allow_mismatch: bool = False) -> CheckpointFiles:
    """Find template and tokenizer where our own commands find them."""
    from backends.checkpoint.resolve import open_checkpoint

    base = pretrained if peft else None
    return open_checkpoint(peft or pretrained, base=base, template=template, allow_mismatch=allow_mismatch)


def _prompts(turns: list[Turn], files: CheckpointFiles) -> list[str]:
    """Write prompts as text, special tokens by name: what a tokenizer reads back as the same tokens."""
    from mindrecord.tokens.encode import encode_prompts

    encoded = encode_prompts([[turn] for turn in turns], files.template, files.tokenizer)
    return [files.tokenizer.decode(ids, skip_special=False) for ids in encoded]


def _split(rows: list[dict[str, Any]]) -> dict[str, Dataset]:
    from datasets import Dataset

    return {"test": Dataset.from_list(rows)}
