"""What the lm-eval task files beside this one call: rows as prompts in a template of ours, and our own graders.

lm-eval hands over its ``--metadata`` and the model's arguments. The prompt is the text that our own commands ask with,
special tokens written out, so that a difference in figures is one of the models and not of the prompts.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

    from backends.checkpoint.resolve import CheckpointFiles
    from eval.task import Task


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
    from eval.math.task import MathTask

    return _split(MathTask(), Path(data), _files(pretrained, peft, template))


def squad_rows(
    data: str | None = None, *, pretrained: str, peft: str | None = None, template: str | None = None, **_: Any
) -> dict[str, Dataset]:
    """Read all questions of a data set in SQuAD v1.1's JSON; without ``data``, of the shipped reading set."""
    from eval.squad.data import SHIPPED
    from eval.squad.task import CONTEST_FORM, SquadTask

    files = _files(pretrained, peft, template, allow_mismatch=template == CONTEST_FORM)
    return _split(SquadTask("official"), Path(data or SHIPPED), files)


def grade_math(row: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Grade one answer under every rule of ``eval.math``."""
    from eval.math.rules import grade, parse

    label = parse(row["label"])
    assert label is not None  # MathTask leaves out rows whose solution has no answer
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


def _split(task: Task, data: Path, files: CheckpointFiles) -> dict[str, Dataset]:
    """Return the rows of a task with their prompts as text, special tokens by name.

    A tokenizer reads such a text back as the same tokens.
    """
    from datasets import Dataset

    from mindrecord.tokens.encode import encode_prompts

    rows = task.read_data(data, None)
    encoded = encode_prompts([task.turns(row, files.template) for row in rows], files.template, files.tokenizer)
    prompts = [files.tokenizer.decode(ids, skip_special=False) for ids in encoded]
    found = [
        {"idx": row.idx, "prompt": prompt, "label": row.label, "labels": list(row.labels)}
        for row, prompt in zip(rows, prompts, strict=True)
    ]
    return {"test": Dataset.from_list(found)}
