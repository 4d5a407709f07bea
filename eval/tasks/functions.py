"""Functions that the lm-eval task files beside this one call: prompts in our templates, and our own graders.

lm-eval passes its ``--metadata`` and the model's arguments by name. The prompt is the text that our own commands use,
special tokens written out, so that a difference in figures comes from the models and not from the prompts.
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
        data: JSON lines, one ``{"problem", "solution"}`` per line.
        pretrained: the model, as lm-eval was told.
        peft: the adapter on it, if any.
        template: prompt template around each question; None takes the one the run was trained with.

    Returns:
        The split ``test`` with the prompt and the label of every problem.
    """
    from eval.math.task import MathTask

    return _split(MathTask(), Path(data), _files(pretrained, peft, template))


def squad_rows(
    data: str | None = None, *, pretrained: str, peft: str | None = None, template: str | None = None, **_: Any
) -> dict[str, Dataset]:
    """Read all questions of a data set in SQuAD v1.1's JSON.

    Args:
        data: the file; None takes the shipped reading set.
        pretrained: the model, as lm-eval was told.
        peft: the adapter on it, if any.
        template: prompt template around each question; None takes the one the run was trained with.

    Returns:
        The split ``test`` with the prompt and all gold answers of every question.
    """
    from eval.squad.data import SHIPPED
    from eval.squad.task import CONTEST_FORM, SquadTask

    # as in eval.run: the contest's form may be asked whatever the run was trained with
    files = _files(pretrained, peft, template, allow_mismatch=template == CONTEST_FORM)
    return _split(SquadTask("official"), Path(data or SHIPPED), files)


def grade_math(row: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Grade one answer under every rule of ``eval.math``.

    Args:
        row: a row of :func:`math_rows`.
        results: the model's answers to it; lm-eval gives one.
    """
    from eval.math.rules import grade, parse

    label = parse(row["label"])
    assert label is not None  # MathTask leaves out rows whose solution has no answer
    return {rule: float(right) for rule, right in grade(parse(results[0]), label).items()}


def grade_squad(row: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Grade one answer as ``eval.squad --protocol official`` does, in percent.

    Args:
        row: a row of :func:`squad_rows`.
        results: the model's answers to it; lm-eval gives one.
    """
    from eval.squad.rules import first_line, official_scores

    scores = official_scores(first_line(results[0]), row["labels"])
    # percent, as squad_official has it in our results.json; the arithmetic rules are shares there
    return {"f1": 100 * scores.f1, "em": 100 * scores.em}


def _files(pretrained: str, peft: str | None, template: str | None, *, allow_mismatch: bool = False) -> CheckpointFiles:
    """Open the checkpoint as our own commands do, to get its template and tokenizer."""
    from backends.checkpoint.resolve import open_checkpoint

    # with an adapter, lm-eval's "pretrained" is the base below it
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
