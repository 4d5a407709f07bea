"""Ids of rendered rows: every segment is tokenised on its own, in the place where it stands.

Shapes: n rows, s segments of all rows, t ids of all rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converters.text.base import BOS, EOS, Segment, Template
from converters.text.conversation import problem_row
from converters.tokenizers.base import Place, Tokenizer
from converters.tokenizers.load import load_tokenizer
from converters.tokenizers.templates import find_template


class SegmentEncoder:
    """Gathers the segments of many rows, each different one once, and tokenises them together."""

    def __init__(self, template: Template, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.after_bos: Place = "after_special" if template.joined_bos else "first"
        # code of each different segment, by text and place; special tokens have no place
        self.code_of: dict[tuple[str, Place | None], int] = {}
        # code and supervision of each segment [s], and the number of segments up to each row's end [n]
        self.codes: list[int] = []
        self.supervised: list[bool] = []
        self.row_ends: list[int] = []

    def add(self, segments: Iterable[Segment]) -> None:
        """Add a row, as a template renders it."""
        # the place decides whether SentencePiece tokenizers put a space before the text
        place: Place = "first"
        for text, supervised, special in segments:
            key = (text, None if special else place)
            code = self.code_of.get(key)
            if code is None:
                code = self.code_of[key] = len(self.code_of)
            self.codes.append(code)
            self.supervised.append(supervised)
            place = "inside" if not special else self.after_bos if text == BOS else "after_special"
        self.row_ends.append(len(self.codes))

    def encode(self) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.int64]]:
        """Tokenise the rows added so far.

        Returns:
            The ids int32 [t], whether each is trained on bool [t], and where the rows begin int64 [n + 1].

        Raises:
            UserError: the tokenizer lacks a special token of the template, or a text cannot be tokenised.
        """
        by_place: dict[Place | None, list[tuple[int, str]]] = {}
        for (text, place), code in self.code_of.items():
            by_place.setdefault(place, []).append((code, text))
        ids: list[NDArray[np.int32]] = [np.empty(0, dtype=np.int32)]
        sizes = np.zeros(len(self.code_of), dtype=np.int64)
        starts = np.zeros(len(self.code_of), dtype=np.int64)
        end = 0
        for place, entries in by_place.items():
            texts = [text for _, text in entries]
            found, counts = self._specials(texts) if place is None else self.tokenizer.encode_flat(texts, place)
            codes = np.array([code for code, _ in entries])
            sizes[codes] = counts
            starts[codes] = end + np.cumsum(counts) - counts
            ids.append(found)
            end += len(found)

        codes = np.array(self.codes, dtype=np.int64)
        counts = sizes[codes]
        ends = row_offsets(counts)
        # token j of segment k lies at the start of k's text plus its place within k
        source = np.arange(ends[-1]) + np.repeat(starts[codes] - ends[:-1], counts)
        supervised = np.repeat(np.array(self.supervised, dtype=bool), counts)
        offsets = ends[np.array([0, *self.row_ends], dtype=np.int64)]
        return np.concatenate(ids)[source], supervised, offsets

    def _specials(self, names: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        ids = [self._special(name) for name in names]
        sizes = np.array([len(one) for one in ids], dtype=np.int64)
        return np.array([i for one in ids for i in one], dtype=np.int32), sizes

    def _special(self, name: str) -> list[int]:
        if name == BOS:
            return [] if self.tokenizer.bos_id is None else [self.tokenizer.bos_id]
        return [self.tokenizer.eos_id if name == EOS else self.tokenizer.special_id(name)]


def row_offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where rows of these lengths begin when laid end to end, and the end of the last, int64 [n + 1]."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


@dataclass(frozen=True)
class TokenLimit:
    """The longest row allowed, for converters that choose what they write by it; small enough to send to workers.

    Attributes:
        tokens: ids of the longest row, BOS and EOS included.
        tokenizer: path of the tokenizer.
        template: name of the template.
    """

    tokens: int
    tokenizer: Path
    template: str

    def open(self) -> None:
        """Load the tokenizer before processes are forked, so that they share one.

        Raises:
            UsageError: there is no tokenizer, or no template of that name.
            UserError: the tokenizer cannot be read.
        """
        tokenizer = _opened(self.tokenizer)
        # an unknown name must fail here, not in a worker
        find_template(self.template, tokenizer)
        tokenizer.preload()

    def lengths(self, pairs: Sequence[tuple[str, str]]) -> list[int]:
        """Return the number of ids of the training row of each (question, answer)."""
        tokenizer = _opened(self.tokenizer)
        template = find_template(self.template, tokenizer)
        segments = SegmentEncoder(template, tokenizer)
        for question, answer in pairs:
            segments.add(template.render(problem_row(question, answer, "")))
        return np.diff(segments.encode()[2]).tolist()


# lengths is called for every chunk of rows
_opened = lru_cache(maxsize=2)(load_tokenizer)
