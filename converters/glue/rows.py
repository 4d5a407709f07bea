"""GLUE's RTE, MNLI, QQP and CoLA as conversations that ask for one word.

RTE and MNLI ask for yes, no or maybe, QQP and CoLA for 0 or 1. Both of GLUE's forms are read: its TSV files, which
know no quoting, and JSON rows with numbers as labels.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.common.errors import UsageError, UserError
from converters.pipeline.output import OutputOptions
from converters.pipeline.rows import Intake, Row, RowError, json_rows, text_lines
from converters.pipeline.source import Source

if TYPE_CHECKING:
    from converters.pipeline.conversion import Report

UNLABELLED = "unlabelled"


@dataclass(frozen=True)
class Task:
    """How one of GLUE's tasks is read and asked."""

    name: str
    """The task's name, as the names of files have it."""
    texts: tuple[tuple[str, ...], ...]
    """For each text the columns it may stand in, GLUE's own first."""
    label: tuple[str, ...]
    """Columns the label may stand in."""
    answers: Mapping[str, str]
    """Labels as the data write them, numbers and words, to the answer."""
    wording: str
    """The question; ``{0}`` and ``{1}`` are the texts. Without them the texts are the input."""
    example: str

    @property
    def kinds(self) -> list[str]:
        """The answers, each once, and unlabelled rows."""
        return [*dict.fromkeys(self.answers.values()), UNLABELLED]


_PAIR = (("sentence1", "premise"), ("sentence2", "hypothesis"))
_ZERO_ONE = {"0": "0", "1": "1"}
_ID = ("idx", "index", "id")

TASKS = {
    "rte": Task(
        "RTE",
        _PAIR,
        ("label", "gold_label"),
        {"0": "yes", "entailment": "yes", "1": "no", "not_entailment": "no"},
        'Does "{0}" imply that "{1}"? Please answer yes or no.You only need to answer one word, no explanation',
        '{"sentence1": "No weapons found in Iraq yet.", "sentence2": "Weapons found in Iraq.", "label": 1, "idx": 0}',
    ),
    "mnli": Task(
        "MNLI",
        _PAIR,
        ("gold_label", "label"),
        {"0": "yes", "entailment": "yes", "1": "maybe", "neutral": "maybe", "2": "no", "contradiction": "no"},
        'Does "{0}" imply that "{1}"? Please answer yes or no or maybe.'
        "You only need to answer one word, no explanation",
        '{"premise": "The new rights are nice enough", "hypothesis": "Everyone likes them", "label": 1, "idx": 0}',
    ),
    "qqp": Task(
        "QQP",
        (("question1",), ("question2",)),
        ("is_duplicate", "label"),
        _ZERO_ONE,
        # spelt as in the published rows of this task (docs/qqp_cola.md)
        "Are the scentences meaning the same ? same output 1 , otherwise 0 .",
        '{"question1": "What is life?", "question2": "What does life mean?", "label": 0, "idx": 0}',
    ),
    "cola": Task(
        "CoLA",
        (("sentence",),),
        ("label",),
        _ZERO_ONE,
        # spelt as in the published rows of this task (docs/qqp_cola.md)
        "Is the grammar of the scentence right ? right output 1 , otherwise 0 .",
        '{"sentence": "The sailors rode the breeze.", "label": 1, "idx": 0}',
    ),
}


def convert(task: str, data: str | Path, output: OutputOptions, *, instruction: str | None = None) -> Report:
    """Convert one of GLUE's files.

    Args:
        task: a key of TASKS.
        data: TSV, JSONL or a JSON array, gzip too; ``-`` is stdin.
        output: how rows are chosen and written.
        instruction: own wording; with ``{0}`` (and ``{1}``) in it the texts stand there, otherwise they are the input.

    Raises:
        UsageError: the wording or an option is invalid, or there is no such file.
        UserError: the file is another task's, or too many rows are rejected.
    """
    # imported here because it needs numpy, which --help does without
    from converters.pipeline.conversion import convert as convert_rows

    about = TASKS[task]
    wording = about.wording if instruction is None else instruction
    check_wording(about, wording)
    return convert_rows(
        data,
        output,
        about.kinds,
        lambda source, intake: ask_rows(about, wording, read_rows(about, source, str(data), intake), intake),
        expected=f"{about.name} as TSV or JSON",
        # the first line of a TSV file may begin with [ as well
        array=not str(data).removesuffix(".gz").lower().endswith(".tsv"),
        settings={"task": about.name, "instruction": wording},
        id_key="idx",
    )


def read_rows(task: Task, source: Source, name: str, intake: Intake) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line number and the parts of each row.

    Args:
        task: which columns hold the texts and the label.
        source: the opened file.
        name: the file's name, whose suffix tells TSV from JSON.
        intake: counts the rows and takes the rejected ones.

    Returns:
        ``(line, {"0": text, "1": text, "label": …, "idx": …})`` for each row; a row without a label has no ``label``.

    Raises:
        UserError: the columns are another task's.
    """
    suffix = Path(name.removesuffix(".gz")).suffix.lower()
    # a name that says nothing, such as stdin's, leaves it to how the file begins
    is_json = suffix != ".tsv" if suffix in (".tsv", ".json", ".jsonl") else source.first in (b"{", b"[")
    if not is_json:
        yield from _tsv_rows(task, source.name, text_lines(source, intake), intake)
        return
    for number, (line, row) in enumerate(json_rows(source, intake)):
        try:
            yield line, _texts(task, row, number)
        except RowError as error:
            intake.reject(line, error, row)


def _tsv_rows(
    task: Task, name: str, lines: Iterable[tuple[int, str]], intake: Intake
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Split at tabs and nothing else: GLUE's files hold quotes that open and never close."""
    columns: list[str] | None = None
    number = 0
    for line, text in lines:
        fields = text.split("\t")
        if columns is None:
            columns = _columns(task, name, fields)
            # a header, and not raw CoLA's first row
            if any(column in fields for column in task.texts[0]):
                # text_lines counted the header as a row
                intake.rows_in -= 1
                continue
        if len(fields) != len(columns):
            detail = f"{len(fields)} columns, expected {len(columns)}: {', '.join(columns)}"
            intake.rejected.add(line, RowError("other number of columns", detail, text))
        else:
            try:
                yield line, _texts(task, dict(zip(columns, fields, strict=True)), number)
            except RowError as error:
                intake.reject(line, error, text)
        # rejected rows count too, so that ids are positions in the file
        number += 1


def _columns(task: Task, name: str, first: list[str]) -> list[str]:
    """The columns' names, from the first line, or as raw CoLA has them.

    Raises:
        UserError: a text's column is missing.
    """
    missing = [names[0] for names in task.texts if not any(column in first for column in names)]
    if not missing:
        return first
    if task.name == "CoLA" and len(first) in (3, 4):
        # raw CoLA has no header: source, label, the author's star, sentence; without labels one column less
        return ["source", "label", "star", "sentence"] if len(first) == 4 else ["source", "star", "sentence"]
    keys = ", ".join(json.loads(task.example))
    raise UserError(
        f"{name}:1: found the columns {', '.join(map(repr, first))[:200]}; {task.name} needs "
        f"{', '.join(names[0] for names in task.texts)} and {task.label[0]}\n"
        f"expected TSV with a header such as {keys.replace(', ', '<tab>')}, or JSON such as {task.example}"
    )


def _texts(task: Task, row: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The texts, label and id of a row.

    Raises:
        RowError: a text is missing, empty or no text.
    """
    found: dict[str, Any] = {"idx": number}
    for place, names in enumerate(task.texts):
        key = next((key for key in names if key in row), None)
        if key is None:
            detail = f"no {names[0]}; found {', '.join(map(repr, row)) or 'no key'}; expected such as {task.example}"
            raise RowError("missing key", detail)
        if not isinstance(row[key], str):
            raise RowError("not a string", f"{key} is {type(row[key]).__name__}")
        if not row[key].strip():
            raise RowError("empty text", f"{key} is empty")
        found[str(place)] = row[key]
    label = next((row[key] for key in task.label if key in row), None)
    # GLUE's JSON has -1 where the label is kept secret
    if label is not None and label not in ("", -1, "-1"):
        found["label"] = str(label).strip()
    for key in _ID:
        if isinstance(row.get(key), str | int) and row[key] != "":
            found["idx"] = row[key]
            break
    return found


def ask_rows(task: Task, instruction: str, rows: Iterable[tuple[int, dict[str, Any]]], intake: Intake) -> Iterator[Row]:
    """Turn rows into questions with one-word answers; the first row tells whether the file has labels.

    Args:
        task: the answers by label.
        instruction: the wording; without ``{0}`` in it the texts become the input.
        rows: as ``read_rows`` yields them.
        intake: takes rejected rows, dropped ones and notes.
    """
    labelled: bool | None = None
    for line, row in rows:
        texts = [row[str(place)] for place in range(len(task.texts))]
        label = row.get("label")
        if labelled is None:
            labelled = label is not None
            if not labelled:
                intake.notes.append("the data has no labels: its rows are written without answers, for prediction")
        # MNLI writes this where its annotators did not agree
        if label == "-":
            intake.dropped["annotators did not agree (label -)"] += 1
            continue
        if (label is not None) != labelled:
            detail = "no label where other rows have one" if labelled else f"label {label!r} where others have none"
            intake.reject(line, RowError("label missing" if labelled else "label unexpected", detail), row)
            continue
        if label is not None and label not in task.answers:
            detail = f"label {label!r}; {task.name} has {', '.join(task.answers)}"
            intake.reject(line, RowError("unknown label", detail), row)
            continue
        answer = task.answers[label] if label is not None else None
        if "{0}" in instruction:
            yield Row(answer or UNLABELLED, str(row["idx"]), _filled(instruction, texts), answer)
        else:
            named = zip(("question1", "question2"), texts, strict=False)
            given = texts[0] if len(texts) == 1 else "\n".join(f"{name}: {text}" for name, text in named)
            yield Row(answer or UNLABELLED, str(row["idx"]), instruction, answer, input=given)


def check_wording(task: Task, wording: str) -> None:
    """Make sure that a wording names all texts or none.

    Raises:
        UsageError: it is empty, or names some.
    """
    if not wording.strip():
        raise UsageError("--instruction is empty")
    named = sorted(set(re.findall(r"\{[0-9]\}", wording)))
    every = [f"{{{place}}}" for place in range(len(task.texts))]
    if named not in ([], every):
        raise UsageError(f"--instruction has {', '.join(named)}; {task.name} has {', '.join(every)}: name all or none")


def _filled(wording: str, texts: list[str]) -> str:
    # not str.format: the wording may be anybody's and the texts may hold braces
    return re.sub(r"\{([01])\}", lambda match: texts[int(match[1])], wording)


def output_path(task: Task, data: str, out: Path) -> Path:
    """Return the file to write.

    Args:
        task: the task, whose name begins the file's.
        data: name of the input, which tells the part of the data set.
        out: a file, or (without a suffix) a folder.

    Returns:
        ``out`` itself, or in that folder the usual name of the part, such as CoLA_train.json.

    Raises:
        UsageError: the input's name does not say which part it is.
    """
    if out.suffix and not out.is_dir():
        return out
    # parts such as CoLA's out_of_domain_dev and MNLI's dev_matched and dev_mismatched
    part = re.search(r"(out_of_domain_)?(train|dev|test)(_(?:mis)?matched)?", Path(data).name.lower())
    if not part:
        raise UsageError(f"{data}: its name has neither train nor dev nor test; name the output: -o {out}/FILE.json")
    return out / f"{task.name}_{part[0]}.json"
