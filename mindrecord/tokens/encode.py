"""Conversations to token rows: the integers that every backend trains on.

Shapes: n rows, t ids of all rows laid end to end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from converters.common.errors import UsageError, UserError
from converters.text.base import Template
from converters.text.conversation import Conversation, Turn
from converters.tokenizers.base import Tokenizer
from converters.tokenizers.segments import SegmentEncoder, row_offsets
from mindrecord.tokens.audit import Audit

# label of an id that is not trained on: the default of PyTorch's and mindformers' cross-entropy
IGNORE_INDEX = -100

OverLength = Literal["drop", "truncate", "error"]


@dataclass
class TokenRows:
    """Rows of tokens, laid end to end.

    Attributes:
        input_ids: int32 [t].
        labels: int32 [t]; the id itself where it is trained on, −100 elsewhere. Not shifted: the model's loss compares
            the output at one position with the label at the next, so a row's first label is always −100.
        offsets: int64 [n + 1]; row i is ``offsets[i]:offsets[i + 1]``.
        ids: the conversations' ids.
    """

    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    offsets: NDArray[np.int64]
    ids: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    def row(self, i: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return ``(input_ids, labels)`` of one row, as views."""
        place = slice(self.offsets[i], self.offsets[i + 1])
        return self.input_ids[place], self.labels[place]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of ids of each row, int64 [n]."""
        return np.diff(self.offsets)

    @property
    def supervised(self) -> NDArray[np.int64]:
        """Number of ids of each row that are trained on, int64 [n]."""
        before = np.concatenate([[0], np.cumsum(self.labels != IGNORE_INDEX)])
        return before[self.offsets[1:]] - before[self.offsets[:-1]]

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the integers: equal for equal rows, whatever backend or file holds them."""
        identity = hashlib.sha256()
        for part in (self.input_ids, self.labels, self.offsets):
            identity.update(np.ascontiguousarray(part).tobytes())
        return identity.hexdigest()


def encode(
    conversations: Sequence[Conversation],
    template: Template,
    tokenizer: Tokenizer,
    *,
    seq_length: int | None,
    over_length: OverLength = "drop",
) -> tuple[TokenRows, Audit]:
    """Tokenise whole conversations for training.

    Each segment of the template is tokenised on its own, so that the ids of the generation prompt are a prefix of the
    row's ids by construction. Equal segments are tokenised once.

    Args:
        conversations: rows, each ending with an answer.
        template: how they are written.
        tokenizer: text to ids.
        seq_length: longest model input in tokens; rows of up to ``seq_length + 1`` ids fit, since the last id is only a
            target. None: no limit.
        over_length: what happens to longer rows: they are dropped, cut at the limit, or an error.

    Returns:
        The rows kept, in the order of the conversations, and the audit.

    Raises:
        UsageError: ``over_length`` or ``seq_length`` has no valid value.
        UserError: a conversation does not suit the template, the tokenizer lacks one of its tokens, or a row is over
            length and that is to be an error.
    """
    if over_length not in ("drop", "truncate", "error"):
        raise UsageError(f"over_length is {over_length!r}; it can be drop, truncate or error")
    if seq_length is not None and seq_length < 1:
        raise UsageError(f"seq_length is {seq_length}; it must be at least 1")
    segments = SegmentEncoder(template, tokenizer)
    empty = np.zeros(len(conversations), dtype=bool)
    for i, conversation in enumerate(conversations):
        segments.add(template.render(conversation))
        # white space alone counts as empty: templates that trim leave nothing of it
        empty[i] = not any(turn.text.strip() for turn in conversation.turns if turn.role == "assistant")
    input_ids, supervised, offsets = segments.encode()
    ids = [conversation.id for conversation in conversations]
    lengths = np.diff(offsets)
    audit = Audit(rows=len(ids), seq_length=seq_length)
    audit.measure(lengths)

    limit = int(lengths.max(initial=0)) if seq_length is None else seq_length + 1
    over = lengths > limit
    if over.any() and over_length == "error":
        worst = int(lengths.argmax())
        raise UserError(
            f"{int(over.sum())} of {len(ids)} rows are longer than seq_length={seq_length}; the longest, row "
            f"{ids[worst]}, has {lengths[worst]} ids. Raise seq_length, or choose over_length drop or truncate"
        )
    audit.note("truncated" if over_length == "truncate" else "dropped", ids, over)
    if over.any():
        # a dropped row keeps no id, so that both cases go the same way
        stay = np.minimum(lengths, limit) if over_length == "truncate" else np.where(over, 0, lengths)
        # ids are cut off behind: what a row keeps is its beginning
        place_in_row = np.arange(len(input_ids)) - np.repeat(offsets[:-1], lengths)
        keep = place_in_row < np.repeat(stay, lengths)
        input_ids, supervised = input_ids[keep], supervised[keep]
        kept = ~over | (over_length == "truncate")
        ids = [row_id for row_id, is_kept in zip(ids, kept, strict=True) if is_kept]
        lengths, empty = stay[kept], empty[kept]
        offsets = row_offsets(lengths)

    labels = np.where(supervised, input_ids, np.int32(IGNORE_INDEX))
    # nothing stands before a row's first id that could predict it
    labels[offsets[:-1][lengths > 0]] = IGNORE_INDEX
    rows = TokenRows(input_ids, labels, offsets, ids)
    targets = rows.supervised
    audit.kept, audit.tokens, audit.supervised = len(rows), len(input_ids), int(targets.sum())
    if tokenizer.unk_id is not None:
        audit.unknown = int((input_ids == tokenizer.unk_id).sum())
    audit.note("unsupervised", ids, targets == 0)
    audit.note("empty", ids, empty)
    return rows, audit


def encode_prompts(turns: Iterable[Sequence[Turn]], template: Template, tokenizer: Tokenizer) -> list[list[int]]:
    """Tokenise generation prompts; each is a prefix of the training row of a conversation that goes on from it.

    Args:
        turns: of each prompt, ending with the user's.
        template: how they are written.
        tokenizer: text to ids.

    Returns:
        The ids of each prompt.

    Raises:
        UserError: turns do not suit the template; the message has their number, from 1.
    """
    segments = SegmentEncoder(template, tokenizer)
    for number, one in enumerate(turns, start=1):
        try:
            segments.add(template.prompt(one))
        except UserError as error:
            raise UserError(f"prompt {number}: {error}") from None
    input_ids, _, offsets = segments.encode()
    flat = input_ids.tolist()
    return [flat[start:end] for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
