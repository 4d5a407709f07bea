"""What the subcommands of ``python -m mindrecord`` do, as functions: write, describe, read and show token rows."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.common.console import say
from converters.common.errors import UsageError, UserError
from converters.common.files import sha256_file
from converters.text.conversation import read_conversations
from converters.tokenizers.base import Tokenizer
from converters.tokenizers.load import load_tokenizer
from converters.tokenizers.templates import find_template
from mindrecord.file.header import is_mindrecord, read_header, read_sidecar, sidecar_of
from mindrecord.file.reader import check, read_token_rows, row_length
from mindrecord.file.writer import check_name, write_token_rows
from mindrecord.tokens.audit import Audit
from mindrecord.tokens.encode import OverLength, TokenRows, encode
from mindrecord.tokens.pack import pack_rows

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Written:
    """A file that `write_mindrecord` made.

    Attributes:
        path: the data file.
        rows: rows in it.
        row_length: ids of a row, padding included.
        audit: what encoding did to the conversations.
        packed: whether rows hold several conversations.
        size: bytes of the data file.
        seconds: time it took.
    """

    path: Path
    rows: int
    row_length: int
    audit: Audit
    packed: bool
    size: int
    seconds: float

    @property
    def fill(self) -> float:
        """Share of the ids that are not padding."""
        return self.audit.tokens / (self.rows * self.row_length)


def write_mindrecord(
    conversations: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    tokenizer: PathLike,
    template: str,
    seq_length: int = 256,
    over_length: OverLength = "drop",
    max_unsupervised: float = 0.01,
    pack: bool = False,
) -> Written:
    """Write conversations as a MindRecord file, with index and sidecar.

    Args:
        conversations: a file or several, ShareGPT or Alpaca, JSONL or a JSON array.
        out: the file, named ``….mindrecord``.
        tokenizer: directory or file of the tokenizer.
        template: name of the template.
        seq_length: tokens of model input; a row holds one id more.
        over_length: what happens to longer rows.
        max_unsupervised: share of the rows that may have nothing to train on.
        pack: put several conversations into a row.

    Raises:
        UsageError: a file or a template is missing, or an argument is out of range.
        UserError: the rows cannot be read, encoded, packed or written; nothing is left behind.
    """
    path = Path(out)
    check_name(path)
    if not 0 <= max_unsupervised <= 1:
        raise UsageError(f"--max-unsupervised is {max_unsupervised}; it is a share, from 0 to 1")
    start = time.monotonic()
    opened = load_tokenizer(tokenizer)
    form = find_template(template, opened)
    conversations = [conversations] if isinstance(conversations, str | os.PathLike) else conversations
    read = [row for file in conversations for row in read_conversations(file)]
    rows, audit = encode(read, form, opened, seq_length=seq_length, over_length=over_length)
    # said before the check, which refuses rows without saying how long they all are
    for line in audit.lines():
        say(line)
    audit.check(max_unsupervised)
    if pack:
        # one id more than the model input: the last id of a row is only a target
        rows = pack_rows(rows, seq_length + 1, opened.bos_id)
    sidecar = {
        "files": [{"path": str(file), "sha256": sha256_file(file)} for file in conversations],
        "template": form.to_json(),
        "tokenizer": {"source": str(opened.source), "hash": opened.hash},
        "audit": audit.to_dict(),
        "packed": {"conversations": audit.kept, "bos_id": opened.bos_id} if pack else None,
    }
    write_token_rows(rows, path, seq_length=seq_length, pad_id=opened.pad_id, sidecar=sidecar)
    return Written(path, len(rows), seq_length + 1, audit, pack, path.stat().st_size, time.monotonic() - start)


@dataclass(frozen=True)
class Info:
    """Contents of a MindRecord file; sizes are in bytes.

    Attributes:
        file: its path.
        bytes: size of the data file.
        format: MindRecord and its version.
        pages: number of pages.
        page_size: of each page.
        header_size: up to the first page.
        rows: number of rows.
        columns: type of each column.
        row_length: ids of a row; None where the columns are not those of token rows.
        sidecar: what the JSON file beside it says; empty where there is none.
    """

    file: str
    bytes: int
    format: str
    pages: int
    page_size: int
    header_size: int
    rows: int
    columns: dict[str, str]
    row_length: int | None
    sidecar: dict[str, Any]

    def lines(self) -> list[str]:
        """Return it as text: the file, its columns and pages, and where its rows come from."""
        lines = [
            f"{self.file}: {self.format}, {self.rows:,} rows, {self.bytes:,} bytes",
            f"columns      {', '.join(f'{name} {kind}' for name, kind in self.columns.items())}",
            f"pages        {self.pages} of {self.page_size:,} bytes, header {self.header_size:,}",
        ]
        if self.row_length:
            lines.append(f"seq_length   {self.row_length - 1} (rows of {self.row_length} ids)")
        if not self.sidecar:
            return [*lines, f"no {sidecar_of(Path(self.file)).name}: template and tokenizer unknown"]
        template, tokenizer, packed = (self.sidecar.get(key) or {} for key in ("template", "tokenizer", "packed"))
        if template:
            lines.append(f"template     {template.get('name')} {template.get('hash', '')[:12]}")
        if tokenizer:
            lines.append(f"tokenizer    {tokenizer.get('source')} {tokenizer.get('hash', '')[:12]}")
        lines.append(f"pad          {self.sidecar.get('pad_id')}")
        lines.append(f"packed       {packed['conversations']:,} conversations" if packed else "packed       no")
        lines.append(f"rows_sha256  {self.sidecar.get('rows_sha256')}")
        lines += [f"from         {file['path']} {file['sha256'][:12]}" for file in self.sidecar.get("files", [])]
        if "audit" in self.sidecar:
            lines += Audit.from_dict(self.sidecar["audit"]).lines()
        return lines


def info(file: PathLike) -> Info:
    """Describe a MindRecord file and where its rows come from.

    Raises:
        UsageError: there is no such file.
        UserError: it is no MindRecord file, or not whole.
    """
    path = Path(file)
    header = read_header(path)
    values = header.values
    return Info(
        file=str(path),
        bytes=path.stat().st_size,
        format=f"MindRecord {values.get('version', '')}".strip(),
        pages=len(values["page"]),
        page_size=values["page_size"],
        header_size=values["header_size"],
        rows=header.rows,
        columns={name: column["type"] + str(column.get("shape", "")) for name, column in header.columns.items()},
        row_length=row_length(header) if header.trainable else None,
        sidecar=read_sidecar(path),
    )


def read(
    file: PathLike, start: int = 0, end: int | None = None, *, tokenizer: PathLike | None = None, ids: bool = False
) -> Iterator[dict[str, Any]]:
    """Read rows of a MindRecord file as plain values.

    Args:
        file: a MindRecord file.
        start: first row, from 0.
        end: one after the last; None: to the end of the file.
        tokenizer: where its tokenizer is; None: where the sidecar says it was.
        ids: give integers, for which no tokenizer is needed.

    Returns:
        A dict for each row: ``row`` (its number), with ``text`` and ``trained`` (the pieces of the text that are
        trained on), or with ``input_ids`` and ``labels`` without padding.

    Raises:
        UsageError: there is no such file or row, or no tokenizer.
        UserError: the file is not whole or has other columns, or the tokenizer is not that of its rows.
    """
    path = Path(file)
    rows = read_token_rows(path, start, end)
    opened = None if ids else _tokenizer_of(path, tokenizer)
    # not a generator function: faults of the file must show at the call, not at the first row
    return (_plain_row(rows, i, opened) for i in range(len(rows)))


def _plain_row(rows: TokenRows, i: int, tokenizer: Tokenizer | None) -> dict[str, Any]:
    if tokenizer is None:
        ids, labels = rows.row(i)
        return {"row": rows.ids[i], "input_ids": ids.tolist(), "labels": labels.tolist()}
    pieces = marked_text(rows, i, tokenizer)
    text = "".join(piece for piece, _ in pieces)
    return {"row": rows.ids[i], "text": text, "trained": [piece for piece, marked in pieces if marked]}


def _tokenizer_of(path: Path, given: PathLike | None) -> Tokenizer:
    """Load the tokenizer that rows were written with: the one given, or where the sidecar says it was."""
    recorded = read_sidecar(path).get("tokenizer") or {}
    source = given or recorded.get("source")
    # the recorded path may be of another machine
    if source is None or not Path(source).exists():
        raise UsageError(f"{path}: name its tokenizer with --tokenizer DIR for text; --ids prints integers without one")
    tokenizer = load_tokenizer(source)
    if recorded and recorded.get("hash") != tokenizer.hash:
        raise UserError(
            f"{path}: written with tokenizer {recorded.get('source')} {str(recorded.get('hash'))[:12]}; "
            f"{source} is {tokenizer.hash[:12]}"
        )
    return tokenizer


@dataclass(frozen=True)
class Shown:
    """Rows as a model would see them.

    Attributes:
        rows: the rows; all of a file of conversations, the first ones of a MindRecord file.
        tokenizer: of their ids.
        template: name and hash of their template.
        audit: of the whole file; None where a MindRecord file has no sidecar.
    """

    rows: TokenRows
    tokenizer: Tokenizer
    template: tuple[str, str]
    audit: Audit | None


def show(
    file: PathLike,
    *,
    tokenizer: PathLike,
    template: str | None = None,
    rows: int = 3,
    seq_length: int | None = None,
    over_length: OverLength = "drop",
) -> Shown:
    """Encode conversations as training does, or read the first rows of a MindRecord file.

    Args:
        file: conversations, or a MindRecord file.
        tokenizer: directory or file of the tokenizer.
        template: name of the template; None: the one of the MindRecord file.
        rows: how many rows of a MindRecord file are read.
        seq_length: longest model input in tokens; None: no limit, or that of the MindRecord file.
        over_length: what happens to longer conversations.

    Raises:
        UsageError: a file, a template or a tokenizer is missing.
        UserError: the rows cannot be read or encoded, or were written with another template or tokenizer.
    """
    path, opened = Path(file), load_tokenizer(tokenizer)
    form = find_template(template, opened) if template is not None else None
    if is_mindrecord(path):
        sidecar = check(
            path,
            # without a limit asked for, compare the file with itself
            seq_length=seq_length or row_length(read_header(path)) - 1,
            template_hash=form.hash if form else None,
            tokenizer_hash=opened.hash,
            # nothing is trained here, so rows that see each other do no harm
            packed_allowed=True,
        )
        used = sidecar.get("template") or {"name": "unknown", "hash": ""}
        audit = Audit.from_dict(sidecar["audit"]) if "audit" in sidecar else None
        return Shown(read_token_rows(path, 0, rows), opened, (used["name"], used["hash"]), audit)
    if form is None:
        raise UsageError("--template is needed to write conversations; a MindRecord file knows its own")
    encoded, audit = encode(read_conversations(path), form, opened, seq_length=seq_length, over_length=over_length)
    return Shown(encoded, opened, (form.name, form.hash), audit)


def marked_text(rows: TokenRows, i: int, tokenizer: Tokenizer) -> list[tuple[str, bool]]:
    """Return a row's text, cut where training on it begins or ends.

    Args:
        rows: the rows.
        i: which of them, from 0.
        tokenizer: of their ids.

    Returns:
        ``(text, whether it is trained on)`` of each piece; special tokens stand in the text by name.
    """
    ids, labels = rows.row(i)
    marks = (labels >= 0).tolist()
    cuts = [j for j in range(1, len(ids)) if marks[j] != marks[j - 1]]
    pieces = []
    before = ""
    for start, end in zip([0, *cuts], [*cuts, len(ids)], strict=True):
        # decoders may drop the space of a first word: a piece is what it adds to the text before it
        until = tokenizer.decode(ids[:end], skip_special=False)
        pieces.append((until[len(before) :], marks[start]))
        before = until
    return pieces
