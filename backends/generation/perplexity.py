"""Perplexity: how well a model predicts the answers of given conversations.

Perplexity is exp of the mean −log p over supervised tokens, each token counting the same however its rows were batched.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.generation import registry
from backends.generation.types import DEFAULT_RUNTIME, Runtime
from converters.common.console import WorkBar, say
from converters.common.errors import UsageError, UserError

if TYPE_CHECKING:
    from backends.checkpoint.resolve import CheckpointFiles
    from backends.generation.base_generator import Generator
    from mindrecord.tokens.encode import TokenRows


@dataclass(frozen=True)
class Perplexity:
    """A measured perplexity.

    Attributes:
        nll: mean −log p of a supervised token, in nats.
        perplexity: exp(nll).
        tokens: number of supervised tokens.
        rows: number of rows with at least one supervised token.
        dropped: number of rows left out because they were too long.
        hashes: what the figures depend on, by name: hashes of files, backend and dtype.
    """

    nll: float
    perplexity: float
    tokens: int
    rows: int
    dropped: int
    hashes: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return ``results`` and ``hashes``, for machines."""
        figures = asdict(self)
        hashes = figures.pop("hashes")
        return {"results": {"perplexity": figures}, "hashes": hashes}


def perplexity(
    checkpoint: str | Path | CheckpointFiles,
    data: str | Path,
    *,
    runtime: Runtime = DEFAULT_RUNTIME,
    first: int | None = None,
    seq_length: int | None = None,
) -> Perplexity:
    """Measure the perplexity of a checkpoint on conversations, in the template that it was trained in.

    Args:
        checkpoint: run, adapter, model directory or mindformers file; or what ``open_checkpoint`` made of it.
        data: conversations, ShareGPT or Alpaca, each ending in an answer.
        runtime: where and in which precision the model runs.
        first: measure only this many rows, from the start of the file.
        seq_length: leave out rows with more tokens than this, and count them.

    Returns:
        The perplexity over all supervised tokens.

    Raises:
        UsageError: ``first`` is not positive, or the data is missing or empty.
        UserError: a row ends in a question, no row has a supervised token, or a loss is not a number.
    """
    from backends.checkpoint.resolve import open_checkpoint
    from converters.common.files import sha256_file

    files = open_checkpoint(checkpoint)
    if first is not None and first < 1:
        raise UsageError(f"--limit {first}: at least 1 is needed")
    rows, dropped = _read(files, data, first, seq_length)
    supervised = rows.supervised.tolist()
    asked = [i for i, count in enumerate(supervised) if count]
    if not asked:
        raise UserError(f"{data}: no row has a supervised token (the answers are empty, or there is no row left)")
    if without := len(rows) - len(asked):
        say(f"{data}: {without} of {len(rows)} rows have no supervised token and are not measured")
    # before the weights are loaded: it fails at once where no backend can be chosen
    conditions = registry.conditions(runtime)
    generator = registry.load_generator(files, runtime)
    losses: dict[int, float] = {}
    with WorkBar(len(asked), sum(len(rows.row(index)[0]) for index in asked), "rows") as bar:
        for index, loss in row_losses(generator, rows, asked):
            losses[index] = loss
            bar.finish(len(rows.row(index)[0]))
    tokens = sum(supervised)
    # fsum does not round on the way: the order in which batches come back cannot show
    nll = math.fsum(losses.values()) / tokens
    hashes = {**files.identity, "data": sha256_file(data)[:16], "rows": rows.sha256[:16], **conditions}
    return Perplexity(nll, math.exp(nll), tokens, len(asked), dropped, hashes)


def row_losses(generator: Generator, rows: TokenRows, wanted: Iterable[int]) -> Iterator[tuple[int, float]]:
    """Yield ``(number of the row, Σ −log p of its supervised tokens, in nats)`` as rows are finished, each once.

    Args:
        generator: the loaded model.
        rows: token rows.
        wanted: numbers of the rows to measure, each with at least one supervised token.

    Raises:
        UserError: a loss is not a number, or a single row does not fit into memory.
    """
    for index, loss in generator.losses({i: rows.row(i) for i in wanted}):
        # one such row would make any mean useless; its id helps more than the figure
        if not math.isfinite(loss):
            raise UserError(f"row {rows.ids[index]}: its loss is {loss}; try another --dtype")
        yield index, loss


def _read(files: CheckpointFiles, data: str | Path, first: int | None, seq_length: int | None) -> tuple[TokenRows, int]:
    """Return the rows in the template of the run, and how many were too long."""
    from converters.text.conversation import read_conversations
    from mindrecord.tokens.encode import encode

    conversations = read_conversations(data)[:first]
    for number, conversation in enumerate(conversations, start=1):
        if conversation.turns[-1].role != "assistant":
            raise UserError(f"{data}: row {number} ({conversation.id}) ends with a question; an answer is expected")
    rows, audit = encode(conversations, files.template, files.tokenizer, seq_length=seq_length)
    for line in audit.lines():
        say(line)
    return rows, len(conversations) - len(rows)
