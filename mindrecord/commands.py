"""What ``python -m mindrecord`` does with MindRecord files: ``write``, ``info``, ``read``."""

from __future__ import annotations

import json
import re
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.common.console import say
from converters.common.errors import UsageError, UserError

if TYPE_CHECKING:
    from converters.tokenizers.base import Tokenizer


def write(args: Namespace) -> int:
    """Write conversations as a MindRecord file, with index and sidecar."""
    from converters.common.files import sha256_file
    from converters.text.conversation import read_conversations
    from converters.text.template import get_template
    from converters.tokenizers.load import load_tokenizer
    from mindrecord.file.writer import check_name, write_rows
    from mindrecord.tokens.encode import encode
    from mindrecord.tokens.pack import pack_rows

    out = Path(args.out)
    check_name(out)
    if not 0 <= args.max_unsupervised <= 1:
        raise UsageError(f"--max-unsupervised is {args.max_unsupervised}; it is a share, from 0 to 1")
    start = time.monotonic()
    template = get_template(args.template)
    tokenizer = load_tokenizer(args.tokenizer)
    conversations = [row for file in args.conversations for row in read_conversations(file)]
    rows, audit = encode(conversations, template, tokenizer, seq_length=args.seq_length, over_length=args.over_length)
    for line in audit.lines():
        say(line)
    audit.check(args.max_unsupervised)
    kept = len(rows)
    if args.pack:
        rows = pack_rows(rows, args.seq_length + 1, tokenizer.bos_id)
        say(f"packed into {len(rows):,} rows, {audit.tokens / len(rows) / (args.seq_length + 1):.1%} full")
    sidecar = {
        "files": [{"path": str(file), "sha256": sha256_file(file)} for file in args.conversations],
        "template": template.to_json(),
        "tokenizer": {"source": str(tokenizer.source), "hash": tokenizer.hash},
        "audit": audit.to_dict(),
        "packed": {"conversations": kept, "bos_id": tokenizer.bos_id} if args.pack else None,
    }
    write_rows(rows, out, seq_length=args.seq_length, pad_id=tokenizer.pad_id, sidecar=sidecar)
    seconds = time.monotonic() - start
    say(f"{out}: {len(rows):,} rows of {args.seq_length + 1} ids, {out.stat().st_size:,} bytes, {seconds:.1f} s")
    return 0


def info(args: Namespace) -> int:
    """Print what a file is and where its rows come from."""
    from mindrecord.file.layout import read_layout, sidecar_of
    from mindrecord.file.reader import row_length

    path = Path(args.file)
    layout = read_layout(path)
    sidecar = _sidecar(sidecar_of(path))
    columns = {name: _column_type(column) for name, column in layout.columns.items()}
    header = layout.header
    facts: dict[str, Any] = {
        "file": str(path),
        "bytes": path.stat().st_size,
        "format": f"MindRecord {header.get('version', '')}".strip(),
        "pages": len(header["page"]),
        "page_size": header["page_size"],
        "header_size": header["header_size"],
        "rows": layout.rows,
        "columns": columns,
        "row_length": row_length(path) if layout.trainable else None,
        "sidecar": sidecar,
    }
    if args.json:
        print(json.dumps(facts, ensure_ascii=False, indent=2))
        return 0
    print(f"{path}: {facts['format']}, {facts['rows']:,} rows, {facts['bytes']:,} bytes")
    print(f"columns      {', '.join(f'{name} {kind}' for name, kind in columns.items())}")
    print(f"pages        {facts['pages']} of {facts['page_size']:,} bytes, header {facts['header_size']:,}")
    if facts["row_length"]:
        print(f"seq_length   {facts['row_length'] - 1} (rows of {facts['row_length']} ids)")
    for line in _sidecar_lines(sidecar) if sidecar else [f"no {sidecar_of(path).name}: template and tokenizer unknown"]:
        print(line)
    return 0


def _column_type(column: dict[str, Any]) -> str:
    return column["type"] + ("" if "shape" not in column else str(column["shape"]))


def _sidecar(file: Path) -> dict[str, Any]:
    from converters.common.reader import read_json

    return read_json(file) if file.is_file() else {}


def _sidecar_lines(sidecar: dict[str, Any]) -> list[str]:
    from mindrecord.tokens.audit import Audit

    lines = []
    template, tokenizer, packed = (sidecar.get(key) or {} for key in ("template", "tokenizer", "packed"))
    if template:
        lines.append(f"template     {template.get('name')} {template.get('hash', '')[:12]}")
    if tokenizer:
        lines.append(f"tokenizer    {tokenizer.get('source')} {tokenizer.get('hash', '')[:12]}")
    lines.append(f"pad          {sidecar.get('pad_id')}")
    lines.append(f"packed       {packed['conversations']:,} conversations" if packed else "packed       no")
    lines.append(f"rows_sha256  {sidecar.get('rows_sha256')}")
    lines += [f"from         {file['path']} {file['sha256'][:12]}" for file in sidecar.get("files", [])]
    if "audit" in sidecar:
        lines += Audit.from_dict(sidecar["audit"]).lines()
    return lines


def read(args: Namespace) -> int:
    """Print rows as JSON lines: text and trained text, or integers."""
    from mindrecord.file.reader import read_rows
    from mindrecord.show import marked_text

    path = Path(args.file)
    start, end = row_range(args.rows)
    rows = read_rows(path, start, end)
    tokenizer = None if args.ids else _tokenizer_of(path, args.tokenizer)
    for i in range(len(rows)):
        ids, labels = rows.row(i)
        if tokenizer is None:
            value: dict[str, Any] = {"row": rows.ids[i], "input_ids": ids.tolist(), "labels": labels.tolist()}
        else:
            pieces = marked_text(rows, i, tokenizer)
            text = "".join(piece for piece, _ in pieces)
            value = {"row": rows.ids[i], "text": text, "trained": [piece for piece, marked in pieces if marked]}
        print(json.dumps(value, ensure_ascii=False))
    return 0


def _tokenizer_of(path: Path, given: str | None) -> Tokenizer:
    """Load the tokenizer that rows were written with: the one given, or where the sidecar says it was."""
    from converters.tokenizers.load import load_tokenizer
    from mindrecord.file.layout import sidecar_of

    recorded = _sidecar(sidecar_of(path)).get("tokenizer") or {}
    source = given or recorded.get("source")
    if source is None or not Path(source).exists():
        raise UsageError(f"{path}: name its tokenizer with --tokenizer DIR for text; --ids prints integers without one")
    tokenizer = load_tokenizer(source)
    if recorded and recorded.get("hash") != tokenizer.hash:
        raise UserError(
            f"{path}: written with tokenizer {recorded.get('source')} {str(recorded.get('hash'))[:12]}; "
            f"{source} is {tokenizer.hash[:12]}"
        )
    return tokenizer


def row_range(text: str | None) -> tuple[int, int | None]:
    """Read ``a:b`` (rows a up to, without, b, counted from 0; either may be left out) or one row's number.

    Raises:
        UsageError: it is neither.
    """
    if text is None:
        return 0, None
    match = re.fullmatch(r"(\d*):(\d*)|(\d+)", text)
    if match is None:
        raise UsageError(f"--rows {text}: a range a:b, counted from 0, or one row's number is expected")
    if match[3]:
        return int(match[3]), int(match[3]) + 1
    start, end = int(match[1] or 0), int(match[2]) if match[2] else None
    if end is not None and end < start:
        raise UsageError(f"--rows {text}: it ends before it begins")
    return start, end
