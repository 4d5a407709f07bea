"""Tasks with few possible answers, yes/no/maybe, 0/1, A to D: accuracy, F1 and Matthews correlation.

An answer is found in one of two ways. ``generate`` lets the model write and takes the first whole word that is a
choice. ``loglik`` takes the choice whose tokens have the highest summed log-probability; one forward pass scores all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.common.console import say
from converters.common.errors import UsageError, UserError
from converters.common.files import write_text
from converters.text.conversation import Conversation, Turn, read_conversations
from eval.choice.rules import UNPARSED, Choices, Scores, choices_of, label_of
from eval.predictions import read_answer_lines, read_predictions
from eval.results import Figures, percent, share_figures, wilson
from eval.task import Row, Task

if TYPE_CHECKING:
    from backends.checkpoint.resolve import CheckpointFiles

MAX_NEW_TOKENS = 16  # a choice comes in the first words or not at all
POINTS = 70  # what the QQP and CoLA contest gives for an accuracy of 1
WAYS = ("generate", "loglik")


class ChoiceTask(Task):
    """Conversations whose last answer, if there is one, is the label.

    Args:
        choices: the possible answers, also as comma-separated text; None takes the labels of the data, with a message.
        positive: the class whose F1 is reported; None takes ``1``, ``yes`` or ``true`` if it is a choice.
        way: ``generate`` or ``loglik``.
        answers: file of labels, one per line, for predictions that have none.
        score_002: add the score of the QQP and CoLA contest, 70 points times the accuracy.
    """

    name = "choice"
    asks_the_data = True

    def __init__(
        self,
        choices: Choices | str | None = None,
        positive: str | None = None,
        way: str = "generate",
        answers: str | Path | None = None,
        score_002: bool = False,
    ) -> None:
        if way not in WAYS:
            raise UsageError(f"--way {way}: {' or '.join(WAYS)} is expected")
        self.choices = Choices.of(choices) if isinstance(choices, str) else choices
        self.positive = positive
        self.way = way
        self.answers = answers
        self.score_002 = score_002
        self.max_new_tokens = MAX_NEW_TOKENS

    def read_data(self, path: Path, limit: int | None) -> list[Row]:
        """Read questions; Alpaca rows may lack ``output``, or have an empty one."""
        found: list[tuple[str, tuple[Turn, ...], str]] = []
        for conversation in read_conversations(path, unanswered=True):
            turns = conversation.turns
            answered = turns[-1].role == "assistant"
            found.append((conversation.id, turns[:-1] if answered else turns, turns[-1].text if answered else ""))
        # from all labels, not those within the limit: the choices must not depend on it
        choices = self._find_choices(path, [label for _, _, label in found])
        rows = []
        for number, (row_id, asked, label) in enumerate(found[:limit], start=1):
            rows.append(Row(number - 1, asked, _label(f"{path}: row {number}", label, choices), {"id": row_id}))
        if not rows:
            raise UsageError(f"{path}: no row is left with --limit {limit}")
        return rows

    def candidates(self, rows: Sequence[Row], files: CheckpointFiles) -> dict[str, list[int]] | None:
        """Return the tokens of every choice for ``loglik``; None for ``generate``."""
        return None if self.way == "generate" else choice_ids(rows[0].turns, self._known().names, files)

    def grade_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``parsed``, the choice that the answer names, if any, and ``correct``, None without a label."""
        parsed = self._known().find(row["predict"])
        return {"parsed": parsed, "correct": None if row["label"] is None else parsed == row["label"]}

    def read_predictions(
        self, path: Path, *, data: Path | None, limit: int | None, meta: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Read answers and grade them; labels come from the rows, or from the file of ``answers``."""
        if data is not None:
            raise UsageError("--data goes with --ckpt; labels for --predictions come from --answers")
        rows = read_predictions(path, labelled=False)
        # the choices that were asked for, which the labels of a part of the data may not show
        kept = meta.get("identity", {}).get("choices")
        if self.choices is None and kept:
            self.choices = Choices(tuple(kept))
        choices = self._find_choices(path, [row["label"] or "" for row in rows])
        rows = [
            {**row, "label": _label(f"{path}: row {number}", row["label"], choices)}
            for number, row in enumerate(rows, start=1)
        ][:limit]
        if self.answers is not None:
            rows = add_labels(rows, self.answers, choices)
        return [{**row, **self.grade_row(row)} for row in rows]

    def figures(self, rows: Sequence[Mapping[str, Any]], meta: Mapping[str, Any], source: str) -> Figures | None:
        """Return accuracy, F1 and Matthews correlation of the rows that have a label."""
        choices = self._known()
        labelled = [row for row in rows if row["label"] is not None]
        unlabelled = len(rows) - len(labelled)
        if not labelled:
            parsed = [row["parsed"] for row in rows]
            counts = ", ".join(f"{name or UNPARSED} {parsed.count(name)}" for name in (*choices.names, None))
            # a data set to predict, as contests hand out: answers are wanted, figures are not
            say(f"{len(rows)} rows answered, none has a label to grade by: {counts}")
            return None
        if unlabelled:
            say(f"{source}: {unlabelled} of {len(rows)} rows have no label and are not graded")
        scores = self.scores(labelled)
        positive = self.positive or choices.positive
        points = POINTS if self.score_002 else None
        task = f"choice_{Path(source).name.split('.')[0]}"
        measures = {"acc": scores.accuracy, "macro_f1": scores.macro_f1, "mcc": scores.mcc}
        if positive is not None:
            # 0 where the class occurs nowhere: eval.retention needs a number under every measure
            measures["f1"] = scores.f1(choices.names.index(positive)) or 0.0
        if points is not None:
            measures["score_002"] = points * scores.accuracy
        entry = {"alias": task, **{f"{name},none": value for name, value in measures.items()}}
        entry |= {**share_figures("acc", scores.right, scores.n), "unparsed,none": scores.unparsed / scores.n}
        way = meta.get("identity", {}).get("way")
        # lm-eval's names for the two ways
        config = {"output_type": "multiple_choice" if way == "loglik" else "generate_until", "way": way}
        whole = {"n": scores.n, "right": scores.right, UNPARSED: scores.unparsed, "without label": unlabelled}
        confusion = {
            label: dict(zip((*choices.names, UNPARSED), counts, strict=True))
            for label, counts in zip(choices.names, scores.confusion, strict=True)
        }
        header, table = table_rows(scores)
        return Figures(
            header=header,
            table=table,
            lines=summary_lines(scores, positive, points),
            results={task: entry},
            configs={task: {**config, "doc_to_choice": list(choices.names), "positive": positive}},
            higher_is_better={task: dict.fromkeys(measures, True)},
            samples={task: (len(rows), scores.n)},
            extra={"counts": {task: whole, "confusion": confusion}},
            title=task,
        )

    def settings(self) -> dict[str, Any]:
        """Return choices and way."""
        return {"choices": list(self._known().names), "way": self.way}

    def folder_name(self, data: Path, template: str | None) -> str:
        """Return ``choice-WAY-DATA``."""
        return f"choice-{self.way}-{data.name.split('.')[0]}"

    def scores(self, rows: Sequence[Mapping[str, Any]]) -> Scores:
        """Count graded rows that have a label."""
        pairs = [(row["label"], row["parsed"]) for row in rows if row["label"] is not None]
        return Scores.of(self._known(), pairs)

    def _known(self) -> Choices:
        assert self.choices is not None  # reading data or predictions has found them
        return self.choices

    def _find_choices(self, path: Path, labels: Sequence[str]) -> Choices:
        """Return the choices, those of the labels where none were named."""
        if self.choices is None:
            try:
                self.choices = choices_of(labels)
            except UsageError as error:
                raise UsageError(f"{path}: {error}") from None
            say(f"{path}: its labels are the choices: {', '.join(self.choices.names)}")
        if self.positive is not None and self.positive not in self.choices.names:
            raise UsageError(f"--positive {self.positive!r} is none of the choices {', '.join(self.choices.names)}")
        return self.choices


def _label(where: str, text: str | None, choices: Choices) -> str | None:
    """Return the choice that a label names; None without one."""
    try:
        return label_of(text, choices)
    except UsageError as error:
        raise UserError(f"{where}: {error}") from None


def choice_ids(turns: Sequence[Turn], names: Sequence[str], files: CheckpointFiles) -> dict[str, list[int]]:
    """Return the tokens of each choice as the template writes an answer, without the tokens that end it.

    Args:
        turns: any question; a template tokenises answers separately, so one question stands for all.
        names: the choices.
        files: the checkpoint's template and tokenizer.

    Returns:
        Token ids by choice.

    Raises:
        UserError: two choices have the same tokens.
    """
    from mindrecord.tokens import encode

    # the whole conversation less its prompt: exactly the tokens that training would put there
    [prompt] = encode.encode_prompts([turns], files.template, files.tokenizer)
    answered = [Conversation(name, (*turns, Turn("assistant", name))) for name in names]
    rows, _ = encode.encode(answered, files.template, files.tokenizer, seq_length=None)
    stop = set(files.stop_ids)
    found: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        ids = rows.row(i)[0].tolist()[len(prompt) :]
        # only the choices are compared, not how likely each is to be the end of the answer
        found[name] = ids[: next((place for place, token in enumerate(ids) if token in stop), len(ids))]
    for i, first in enumerate(names):
        for j, second in enumerate(names):
            if i < j and found[first] == found[second]:
                raise UserError(
                    f"this tokenizer writes {first!r} and {second!r} with the same tokens; take --way generate"
                )
            # a sum over more tokens is never higher than the sum over the first of them
            if len(found[first]) < len(found[second]) and found[second][: len(found[first])] == found[first]:
                say(f"note: {second!r} can never win, since its tokens begin with those of {first!r}")
    return found


def add_labels(rows: Sequence[dict[str, Any]], path: str | Path, choices: Choices) -> list[dict[str, Any]]:
    """Return rows with the labels of a file.

    Args:
        rows: rows of predictions; empty answers at the end without a label are left out.
        path: one label per line, in the order of the rows.
        choices: the possible answers.

    Raises:
        UsageError: the file is missing or empty.
        UserError: the file has more or fewer lines than there are rows, or a line is not a choice.
    """
    lines = read_answer_lines(path)
    # a file may end in empty lines; further up an empty label is an error
    while not lines[-1].strip():
        lines.pop()
    rows = list(rows)
    while len(rows) > len(lines) and not rows[-1]["predict"].strip():
        rows.pop()
    if len(lines) != len(rows):
        raise UserError(
            f"{path}: {len(lines)} answers for {len(rows)} predictions; line by line they must be the same rows"
        )
    labelled = []
    for number, (row, line) in enumerate(zip(rows, lines, strict=True), start=1):
        label = _label(f"{path}:{number}", line, choices)
        if label is None:
            raise UserError(f"{path}:{number}: empty; one of {', '.join(choices.names)} is expected")
        labelled.append({**row, "label": label})
    return labelled


def write_labels(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one answer per line; ``unparsed`` if none was found, so that line numbers stay those of the data."""
    write_text(path, "".join(f"{row['parsed'] or UNPARSED}\n" for row in rows))


def table_rows(scores: Scores) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of the table: one row per label with its measures and the counts of every answer."""
    answers = [f"→ {name}" for name in (*scores.choices, UNPARSED)]
    header = ["label", "n", "precision", "recall", "F1", *answers]
    rows = [
        [name, scores.labelled(i), *map(_share, (scores.precision(i), scores.recall(i), scores.f1(i))), *counts]
        for i, (name, counts) in enumerate(zip(scores.choices, scores.confusion, strict=True))
    ]
    return header, rows


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value)


def summary_lines(scores: Scores, positive: str | None, points: int | None = None) -> list[str]:
    """Return the lines under the table: the measures over all rows.

    Args:
        scores: the counts.
        positive: the class whose F1 is reported beside the macro-F1, if any.
        points: points that the contest gives for an accuracy of 1; None leaves its score out.
    """
    low, high = wilson(scores.right, scores.n)
    name, share = scores.commonest
    averages = f"macro-F1: {percent(scores.macro_f1)}; Matthews correlation: {scores.mcc:.4f}"
    if positive is not None:
        averages += f"; F1 of {positive!r}: {_share(scores.f1(scores.choices.index(positive)))}"
    lines = [
        f"accuracy: {percent(scores.accuracy)} % (95 %: {percent(low)} to {percent(high)}), "
        f"{scores.right} of {scores.n} rows; always {name!r} would be {percent(share)} %",
        averages,
        f"unparsed: {scores.unparsed} of {scores.n} rows name no choice and count as wrong",
    ]
    if points is not None:
        worth = f"{scores.accuracy:.4f} * {points} = {points * scores.accuracy:.2f} of {points} points"
        lines.append(f"score 002: {worth}")
    return lines
