"""Alpaca and ShareGPT files as conversations, described by LLaMA-Factory's own ``dataset_info.json``, unchanged.

Columns, tags, system, history and several turns mean what they mean there: where ``columns`` or ``tags`` are given, one
that is not named is absent. Tool calls, images, audio, video and preference pairs are not converted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.common.console import say
from converters.common.errors import UsageError, UserError, did_you_mean
from converters.common.reader import read_json
from converters.pipeline.output import OutputOptions
from converters.pipeline.rows import Intake, Row, RowError, json_rows
from converters.pipeline.source import Source
from converters.text.conversation import ShapeError, history_of, messages_of, text_of

if TYPE_CHECKING:
    from converters.pipeline.conversion import Report

INFO = "dataset_info.json"
KINDS = ("one question", "several turns")
ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
SHAREGPT = {"messages": "conversations"}
TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
# columns of LLaMA-Factory that a conversation of texts has no place for
_OTHER_COLUMNS = {
    "tools": "tool calls",
    "images": "images",
    "videos": "video",
    "audios": "audio",
    "chosen": "preference pairs",
    "rejected": "preference pairs",
    "kto_tag": "preference labels",
}


@dataclass(frozen=True)
class Entry:
    """One data set of ``dataset_info.json``: where it lies and which keys mean what; None is absent."""

    name: str
    file: Path | None
    formatting: str = "alpaca"
    columns: Mapping[str, str | None] = field(default_factory=lambda: ALPACA)
    tags: Mapping[str, str | None] = field(default_factory=lambda: TAGS)
    unsupported: str = ""
    """Why it cannot be converted, if it cannot."""
    notes: tuple[str, ...] = ()

    def example(self) -> str:
        """One row as it should be."""
        row: dict[str, Any] = {}
        if self.formatting == "alpaca":
            texts = {
                "prompt": "What is 1 + 1?",
                "query": "",
                "response": "2",
                "system": "",
                "history": [["Hi", "Hello"]],
            }
            row = {self.columns[key] or "": text for key, text in texts.items() if self.columns.get(key)}
        else:
            role, content = self.tags["role_tag"], self.tags["content_tag"]
            turns = [
                {role: self.tags["user_tag"], content: "What is 1 + 1?"},
                {role: self.tags["assistant_tag"], content: "2"},
            ]
            row = {self.columns["messages"] or "": turns}
        return json.dumps(row, ensure_ascii=False)


def convert(
    dataset: str | Path, output: OutputOptions, *, folder: str | Path = "data", formatting: str | None = None
) -> Report:
    """Convert a data set in Alpaca's or ShareGPT's form.

    Args:
        dataset: a name in ``dataset_info.json``, or a JSON or JSONL file.
        output: how rows are chosen and written.
        folder: where ``dataset_info.json`` is.
        formatting: ``alpaca`` or ``sharegpt``, of a file given by its path; by default as its first row shows.

    Raises:
        UsageError: there is no such data set or file, or an option is invalid.
        UserError: the data set cannot be converted, or too many rows are rejected.
    """
    # imported here because it needs numpy, which --help and --list do without
    from converters.pipeline.conversion import convert as convert_rows

    entry = find_entry(str(dataset), Path(folder), formatting)
    # find_entry refuses an entry without a file
    assert entry.file is not None
    # a file given by its path has no description, so its first row has to show the columns
    by_path = entry.file == Path(dataset)
    for note in entry.notes:
        say(note)
    return convert_rows(
        entry.file,
        output,
        KINDS,
        lambda source, intake: read_rows(entry, source, intake, by_path=by_path),
        settings={"dataset": str(dataset)},
    )


def read_info(folder: Path) -> dict[str, Any]:
    """Read ``dataset_info.json``.

    Raises:
        UsageError: it is not there.
        UserError: it is not an object of objects.
    """
    path = folder / INFO
    if not path.is_file():
        raise UsageError(f"{path}: no such file; name its folder with --dataset-dir, or a data file by its path")
    info = read_json(path)
    if not isinstance(info, dict) or not all(isinstance(one, dict) for one in info.values()):
        raise UserError(f'{path}: expected an object of data sets, such as {{"my_data": {{"file_name": "data.json"}}}}')
    return info


def entry_of(name: str, value: Mapping[str, Any], folder: Path) -> Entry:
    """Read one entry of ``dataset_info.json`` as LLaMA-Factory does.

    Args:
        name: of the entry.
        value: what stands under the name.
        folder: where ``dataset_info.json`` is, and with it the data files.

    Returns:
        The entry; one that cannot be converted says why in ``unsupported``.
    """
    formatting = value.get("formatting", "alpaca")
    defaults = {"alpaca": ALPACA, "sharegpt": SHAREGPT}.get(formatting, {})
    # given columns replace the defaults as a whole, as in LLaMA-Factory: one that is not named is absent
    columns, tags = value.get("columns", defaults), value.get("tags", TAGS)
    hub = next((value[key] for key in ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url") if key in value), None)
    file = value.get("file_name")
    path = folder / file if isinstance(file, str) else None
    unsupported = ""
    if formatting not in ("alpaca", "sharegpt"):
        unsupported = f"formatting {formatting!r}; alpaca and sharegpt are read"
    elif not isinstance(columns, dict) or not isinstance(tags, dict):
        unsupported = "columns and tags must be objects"
    elif value.get("ranking"):
        unsupported = "preference pairs are not supported"
    elif other := [key for key in _OTHER_COLUMNS if columns.get(key)]:
        unsupported = f"{_OTHER_COLUMNS[other[0]]} (column {columns[other[0]]!r}) are not supported"
    elif formatting == "alpaca" and not (columns.get("response") and (columns.get("prompt") or columns.get("query"))):
        unsupported = "text for pre-training (no response column), not questions with answers"
    elif formatting == "sharegpt" and not columns.get("messages"):
        unsupported = "its columns name no messages"
    elif path is None:
        unsupported = f"on a hub ({hub}); download it and give the file" if hub else "it has no file_name"
    # Path.suffix of data.json.gz is .gz alone
    elif path.suffix not in (".json", ".jsonl") and not path.name.endswith((".json.gz", ".jsonl.gz")):
        unsupported = f"{path.suffix or 'a folder'}; JSON and JSONL files are read"
    elif not path.is_file():
        unsupported = f"{path} is not there"
    # LLaMA-Factory would sample so many rows; here the command line alone decides
    notes = (f"{INFO} says num_samples {value['num_samples']}: use --rows",) if value.get("num_samples") else ()
    # a tag that is not named is None and matches no turn
    tags = {key: tags.get(key) for key in TAGS} if isinstance(tags, dict) else TAGS
    if not tags["role_tag"] or not tags["content_tag"] or not tags["user_tag"] or not tags["assistant_tag"]:
        unsupported = unsupported or "its tags lack one of role_tag, content_tag, user_tag and assistant_tag"
    return Entry(name, path, formatting, columns if isinstance(columns, dict) else {}, tags, unsupported, notes)


def find_entry(dataset: str, folder: Path, formatting: str | None) -> Entry:
    """Find a data set by its file's path or by its name in ``dataset_info.json``.

    Args:
        dataset: a path that ends in .json, .jsonl or .gz, or a name.
        folder: where ``dataset_info.json`` is.
        formatting: ``alpaca`` or ``sharegpt``, for a path only; None leaves it to the first row.

    Raises:
        UsageError: the name is unknown, or a formatting is given for a name.
        UserError: the entry cannot be converted.
    """
    path = Path(dataset)
    # a file even if it does not exist: the error then names the missing file instead of an unknown data set
    if path.suffix in (".json", ".jsonl", ".gz"):
        return Entry(path.name, path, formatting or "")
    if formatting:
        raise UsageError(f"--formatting goes with a file; {INFO} says it for {dataset}")
    info = read_info(folder)
    if dataset not in info:
        raise UsageError(f"{folder / INFO}: no data set {dataset!r}{did_you_mean(dataset, info)}")
    entry = entry_of(dataset, info[dataset], folder)
    if entry.unsupported:
        raise UserError(f"{dataset}: {entry.unsupported}")
    return entry


def as_shown(entry: Entry, row: Mapping[str, Any]) -> Entry:
    """Complete the entry of a file given by its path: its first row shows the formatting."""
    formatting = entry.formatting or ("sharegpt" if "conversations" in row else "alpaca")
    # the defaults name neither history nor system, and there is no description that could
    columns = SHAREGPT if formatting == "sharegpt" else {**ALPACA, "history": "history"}
    return Entry(entry.name, entry.file, formatting, {**columns, "system": "system"})


def read_rows(entry: Entry, source: Source, intake: Intake, *, by_path: bool) -> Iterator[Row]:
    """Yield the rows of a data set, and reject those that are broken.

    Args:
        entry: which columns and tags mean what.
        source: the opened file.
        intake: counts the rows and takes the rejected ones.
        by_path: the file was given by its path, so its first row shows the formatting.
    """
    for number, (line, row) in enumerate(json_rows(source, intake), start=1):
        if number == 1 and by_path:
            entry = as_shown(entry, row)
        # rows made from GLUE have idx in place of id
        given = row.get("id", row.get("idx"))
        row_id = str(given) if isinstance(given, str | int) else str(number)
        try:
            yield (_alpaca if entry.formatting == "alpaca" else _sharegpt)(entry, row, row_id)
        except (RowError, ShapeError) as error:
            detail = error.detail
            # an example of a right row does not help where tools are not supported at all
            if error.reason != "tool call":
                detail += f"; expected such as {entry.example()}"
            intake.reject(line, RowError(error.reason, detail), row)


def _alpaca(entry: Entry, row: Mapping[str, Any], row_id: str) -> Row:
    columns = entry.columns
    for key in ("prompt", "response"):
        if columns.get(key):
            _require(row, columns[key])
    asked = [text for key in ("prompt", "query") if (text := _text(row, columns.get(key)))]
    answer = _text(row, columns["response"])
    if not asked:
        raise RowError("no question", f"{columns.get('prompt')!r} and {columns.get('query')!r} are empty")
    if not answer:
        raise RowError("no answer", f"{columns['response']!r} is empty")
    history = history_of(row, columns.get("history"))
    # with an empty prompt the query is the question itself, and nothing is left to add
    extra = asked[1] if len(asked) > 1 else ""
    return Row(KINDS[bool(history)], row_id, asked[0], answer, extra, _text(row, columns.get("system")), history)


def _sharegpt(entry: Entry, row: Mapping[str, Any], row_id: str) -> Row:
    key, tags = entry.columns["messages"] or "", entry.tags
    _require(row, key)
    system = _text(row, entry.columns.get("system"))
    role_tag, content_tag = tags["role_tag"] or "", tags["content_tag"] or ""
    texts: list[str] = []
    for place, role, given in messages_of(row, key, role_tag, content_tag):
        text = "" if given is None else text_of(given, content_tag)
        # an absent tag is None, which must not match a row whose role is null
        if role in (tags["observation_tag"], tags["function_tag"]) and role is not None:
            raise RowError("tool call", f"turn {place} is {role!r}: tools are not supported")
        # only the first turn can be the system turn; it overrides the system column
        if place == 1 and role == tags["system_tag"] and role is not None:
            system = text
            continue
        expected = tags["assistant_tag"] if len(texts) % 2 else tags["user_tag"]
        if role != expected:
            raise RowError("wrong turn", f"turn {place}: {role_tag!r} is {role!r} where {expected!r} is expected")
        if not text:
            raise RowError("no answer" if len(texts) % 2 else "no question", f"turn {place} is empty")
        texts.append(text)
    if not texts or len(texts) % 2:
        raise RowError("wrong turn", f"it does not end with {tags['assistant_tag']!r}")
    # the last question and answer are the row itself, the pairs before them its history
    history = tuple(zip(texts[:-2:2], texts[1:-2:2], strict=True))
    return Row(KINDS[bool(history)], row_id, texts[-2], texts[-1], system=system, history=history)


def _require(row: Mapping[str, Any], key: str | None) -> None:
    if key not in row:
        raise RowError("missing key", f"no {key!r}; found {', '.join(map(repr, row)) or 'no key'}")


def _text(row: Mapping[str, Any], key: str | None) -> str:
    """The text under a key; empty where it is absent or null."""
    value = row.get(key) if key else None
    return "" if value is None else text_of(value, key or "")


def entries(folder: Path) -> list[Entry]:
    """Return what each entry of ``dataset_info.json`` is, and why it cannot be converted if it cannot."""
    return [entry_of(name, value, folder) for name, value in read_info(folder).items()]
