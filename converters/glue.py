"""GLUE's RTE, MNLI, QQP and CoLA as conversations that ask for one word.

RTE and MNLI are asked as report 000 asks them (yes/no, yes/maybe/no), QQP and CoLA as report 002 does (0/1). Both of
GLUE's forms are read: its TSV files, which know no quoting, and JSON rows with numbers as labels.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.common.console import run_main
from converters.common.errors import UsageError, UserError
from converters.common.rejected import RowError
from converters.pipeline.options import OutputOptions, add_output_arguments, check_output_arguments, output_options

if TYPE_CHECKING:
    from converters.common.source import Source
    from converters.pipeline.conversion import Row, Tally

UNLABELLED = "unlabelled"
EXAMPLES = """examples:
  python -m converters.glue rte RTE/train.tsv -o rte_train.jsonl
  python -m converters.glue mnli MNLI/train.tsv -o mnli_train.jsonl --rows 40000 --multiple-of 8 --balance uniform
  python -m converters.glue cola CoLA_train.tsv -o pre_data/CoLA/ --rows 4000 --holdout 500 --holdout-out cola_test.json
  python -m converters.glue qqp QQP_dev.tsv -o QQP_dev.json --instruction "Do both ask the same? Answer 1 or 0."
"""


@dataclass(frozen=True)
class Task:
    """How one of GLUE's tasks is read and asked."""

    name: str
    """As files are called."""
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
        "Are the scentences meaning the same ? same output 1 , otherwise 0 .",
        '{"question1": "What is life?", "question2": "What does life mean?", "label": 0, "idx": 0}',
    ),
    "cola": Task(
        "CoLA",
        (("sentence",),),
        ("label",),
        _ZERO_ONE,
        "Is the grammar of the scentence right ? right output 1 , otherwise 0 .",
        '{"sentence": "The sailors rode the breeze.", "label": 1, "idx": 0}',
    ),
}


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m converters.glue",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    for name, task in TASKS.items():
        one = commands.add_parser(name, help=f"{task.name}: {' or '.join(task.kinds[:-1])}")
        one.formatter_class = argparse.RawDescriptionHelpFormatter
        one.description = (
            f"Convert {task.name} to conversations. OUT.report.json has the figures and hashes,\n"
            f"OUT.rejected.jsonl the rejected rows with line number and reason.\n"
            f"Rows without a label come out without an answer.\n\n"
            f"asked as: {task.wording}"
        )
        one.epilog = "\n".join(line for line in EXAMPLES.splitlines() if "examples" in line or f" {name} " in line)
        one.add_argument("data", metavar="DATA", help="TSV, JSONL or a JSON array, .gz too, - for stdin")
        add_output_arguments(
            one,
            layout=None,
            kind=task.kinds[0],
            out_help=f"file to write, or (a name without a suffix) a folder for {task.name}_train.json, "
            f"{task.name}_dev.json, …",
        )
        places = " and ".join(f"{{{place}}}" for place in range(len(task.texts)))
        one.add_argument(
            "--instruction",
            metavar="TEXT",
            default=task.wording,
            help=f"own wording; with {places} in it the texts stand there, otherwise they are the input",
        )
    return parser


def read_rows(task: Task, source: Source, name: str, tally: Tally) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line, {"0": text, "1": text, "label": …, "idx": …})``; a label that nobody gave is left out.

    Raises:
        UserError: the columns are another task's.
    """
    from converters.pipeline.conversion import json_rows, text_lines

    if not is_json(name, source.lines):
        yield from _tsv_rows(task, source.name, text_lines(source, tally), tally)
        return
    for number, (line, row) in enumerate(json_rows(source, tally)):
        try:
            yield line, _texts(task, row, number)
        except RowError as error:
            tally.rejected.add(line, RowError(error.reason, error.detail, json.dumps(row, ensure_ascii=False)))


def is_json(name: str, path: Path) -> bool:
    """Whether a file holds JSON rows: by its name, or else by how it begins."""
    suffix = Path(name.removesuffix(".gz")).suffix.lower()
    if suffix in (".tsv", ".json", ".jsonl"):
        return suffix != ".tsv"
    with path.open("rb") as handle:
        return handle.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")


def _tsv_rows(
    task: Task, name: str, lines: Iterable[tuple[int, str]], tally: Tally
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Split at tabs and nothing else: GLUE's files hold quotes that open and never close."""
    columns: list[str] | None = None
    number = 0
    for line, text in lines:
        fields = text.split("\t")
        if columns is None:
            columns = _columns(task, name, fields)
            if any(column in fields for column in task.texts[0]):
                tally.rows_in -= 1
                continue
        if len(fields) != len(columns):
            detail = f"{len(fields)} columns, expected {len(columns)}: {', '.join(columns)}"
            tally.rejected.add(line, RowError("other number of columns", detail, text))
        else:
            try:
                yield line, _texts(task, dict(zip(columns, fields, strict=True)), number)
            except RowError as error:
                tally.rejected.add(line, RowError(error.reason, error.detail, text))
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


def convert_rows(
    task: Task, instruction: str, rows: Iterable[tuple[int, dict[str, Any]]], tally: Tally
) -> Iterator[Row]:
    """Ask each row; the first one says whether the file has labels."""
    from converters.pipeline.conversion import Row

    labelled: bool | None = None
    for line, row in rows:
        texts = [row[str(place)] for place in range(len(task.texts))]
        label = row.get("label")
        if labelled is None:
            labelled = label is not None
            if not labelled:
                tally.notes.append("the data has no labels: its rows are written without answers, for prediction")
        shown = json.dumps(row, ensure_ascii=False)
        if label == "-":
            tally.dropped["annotators did not agree (label -)"] += 1
            continue
        if (label is not None) != labelled:
            detail = "no label where other rows have one" if labelled else f"label {label!r} where others have none"
            tally.rejected.add(line, RowError("label missing" if labelled else "label unexpected", detail, shown))
            continue
        if label is not None and label not in task.answers:
            detail = f"label {label!r}; {task.name} has {', '.join(task.answers)}"
            tally.rejected.add(line, RowError("unknown label", detail, shown))
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
    """``out``, or in the folder ``out`` the name that the report gives to the part of the data set.

    Raises:
        UsageError: the input's name does not say which part it is.
    """
    if out.suffix and not out.is_dir():
        return out
    part = re.search(r"(out_of_domain_)?(train|dev|test)(_(?:mis)?matched)?", Path(data).name.lower())
    if not part:
        raise UsageError(f"{data}: its name has neither train nor dev nor test; name the output: -o {out}/FILE.json")
    return out / f"{task.name}_{part[0]}.json"


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    args = build_parser().parse_args(argv)
    task = TASKS[args.task]
    args.out = output_path(task, args.data, args.out)
    check_output_arguments(args, args.data)
    from converters.common.source import open_source
    from converters.pipeline.conversion import Tally, convert

    check_wording(task, args.instruction)
    expected = f"{task.name} as TSV or JSON"
    with open_source(args.data, expected, array=not args.data.removesuffix(".gz").lower().endswith(".tsv")) as source:
        tally = Tally()
        rows = convert_rows(task, args.instruction, read_rows(task, source, args.data, tally), tally)
        options = OutputOptions(**output_options(args, task.kinds))
        asked = {"task": task.name, "instruction": args.instruction}
        convert(source, options, task.kinds, rows, tally, asked=asked, id_key="idx")


if __name__ == "__main__":
    run_main(main)
