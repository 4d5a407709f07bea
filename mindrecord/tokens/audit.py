"""Counts what encoding did to the rows, so that none is dropped, cut or left without a target unnoticed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.common.errors import UserError

_EXAMPLES = 5  # row ids that are remembered of each sort
_BARS = 10  # classes of the length histogram, at most
_BAR_WIDTH = 40  # letters of the longest bar


@dataclass
class Audit:
    """Counts over the rows of one encoding.

    Attributes:
        rows: rows given.
        kept: rows that came out.
        tokens: ids in the rows kept, BOS and end tokens included.
        supervised: those of them that are trained on.
        seq_length: the limit asked for, in tokens of model input (a row holds one id more); None: no limit.
        longest: ids of the longest row given.
        dropped: rows left out because they were over length.
        truncated: rows cut at the limit; with the cut end they lost their end token.
        unsupervised: rows kept that have nothing to train on.
        empty: rows kept whose answers are all empty: they teach to end at once.
        unknown: ids of the unknown token, where the vocabulary could not spell the text.
        histogram: ``(shortest, longest, rows given)`` of classes of equal width, lengths in ids.
        examples: the first few row ids of each sort that is not as it should be.
    """

    rows: int = 0
    kept: int = 0
    tokens: int = 0
    supervised: int = 0
    seq_length: int | None = None
    longest: int = 0
    dropped: int = 0
    truncated: int = 0
    unsupervised: int = 0
    empty: int = 0
    unknown: int = 0
    histogram: list[tuple[int, int, int]] = field(default_factory=list)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def note(self, sort: str, ids: list[str], chosen: NDArray[np.bool_]) -> None:
        """Count the chosen rows and remember the ids of the first few.

        Args:
            sort: the attribute that takes the count.
            ids: ids of the rows, n of them.
            chosen: which of them count, bool [n].
        """
        where = np.flatnonzero(chosen)
        setattr(self, sort, len(where))
        if len(where):
            self.examples[sort] = [ids[i] for i in where[:_EXAMPLES]]

    def measure(self, lengths: NDArray[np.int64]) -> None:
        """Fill in the length histogram of the rows given."""
        if not len(lengths):
            return
        shortest, self.longest = int(lengths.min()), int(lengths.max())
        # rounded up: with narrower classes there would be more than _BARS of them
        width = -(-(self.longest - shortest + 1) // _BARS)
        counts = np.bincount((lengths - shortest) // width).tolist()
        starts = range(shortest, self.longest + 1, width)
        self.histogram = [
            (start, min(start + width - 1, self.longest), count) for start, count in zip(starts, counts, strict=True)
        ]

    def check(self, max_unsupervised: float = 0.01) -> None:
        """Refuse rows that a run cannot be trained on.

        Raises:
            UserError: no row is left, or more than the share ``max_unsupervised`` of the rows has nothing to train on.
        """
        if not self.kept:
            raise UserError(
                f"no row is left of {self.rows}: {self.dropped} are longer than seq_length={self.seq_length}"
            )
        if self.unsupervised > max_unsupervised * self.kept:
            raise UserError(
                f"{self.unsupervised} of {self.kept} rows ({self.unsupervised / self.kept:.1%}) have no token to train "
                f"on (row {self.examples['unsupervised'][0]} is the first); at most {max_unsupervised:.1%} may. "
                "Raise seq_length, or drop what is over length"
            )

    def lines(self) -> list[str]:
        """Return the audit as text: counts, what needs attention with row ids, lengths as bars."""
        share = self.supervised / self.tokens if self.tokens else 0.0
        lines = [
            f"rows {self.kept:,} of {self.rows:,} · tokens {self.tokens:,} · "
            f"supervised {self.supervised:,} ({share:.1%}) · longest {self.longest:,}"
        ]
        limit = f"over seq_length {self.seq_length}" if self.seq_length is not None else "no length limit"
        sorts = {
            "dropped": f"dropped ({limit})",
            "truncated": f"truncated ({limit}), end token lost",
            "unsupervised": "without a supervised token",
            "empty": "with an empty answer",
        }
        for sort, label in sorts.items():
            ids = self.examples.get(sort, [])
            more = ", …" if getattr(self, sort) > len(ids) else ""
            rows = f" (rows {', '.join(ids)}{more})" if ids else ""
            lines.append(f"{getattr(self, sort):,} {label}{rows}")
        if self.unknown:
            lines.append(f"{self.unknown:,} tokens the vocabulary cannot spell (unknown token)")
        most = max((count for *_, count in self.histogram), default=0)
        digits = len(f"{self.longest:,}")
        for low, high, count in self.histogram:
            # a class with only a few rows must not look empty
            bar = "█" * round(_BAR_WIDTH * count / most) or ("▏" if count else "")
            lines.append(f"{low:>{digits},}–{high:<{digits},} {bar} {count:,}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**vars(self), "histogram": [list(entry) for entry in self.histogram]}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Audit:
        """Rebuild an audit from what `to_dict` returned."""
        return cls(**{**value, "histogram": [(low, high, count) for low, high, count in value["histogram"]]})
