"""Rows that recite the tables of ``steps.logarithms``: a model has to know these by heart to work out function values.

The prompt names entries, the answer has them: ``lg 4.03 57`` is answered by ``4.03:060530505`` and ``57:175587486``,
each in a line; ``10^ 443`` by ``442>2766942,06386``, the entry that a function value would use for this mantissa. No
row has a problem in it, so that problems held out stay unseen.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from converters.arithmetic.steps.logarithms import (
    ANTILOGARITHMS,
    BASES,
    FACTORS,
    antilogarithm_entry,
    logarithm_entry,
)
from converters.common.errors import UsageError
from converters.common.files import write_jsonl

ENTRIES = 8
"""Entries of one row."""


def recitations(times: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yield prompt and answer of each row.

    Args:
        times: how often each entry of each table occurs.
        seed: of the order, which is another one every time.
    """
    rng = random.Random(seed)
    for _ in range(times):
        rows = []
        numbers = [*BASES, *FACTORS]
        rng.shuffle(numbers)
        for start in range(0, len(numbers), ENTRIES):
            some = numbers[start : start + ENTRIES]
            rows.append(("lg " + " ".join(map(str, some)), "\n".join(map(logarithm_entry, some))))
        entries = list(ANTILOGARITHMS)
        rng.shuffle(entries)
        for start in range(0, len(entries), ENTRIES):
            drawn = entries[start : start + ENTRIES]
            asked = (f"{entry + rng.randrange(ANTILOGARITHMS.step):03}" for entry in drawn)
            rows.append(("10^ " + " ".join(asked), "\n".join(map(antilogarithm_entry, drawn))))
        rng.shuffle(rows)
        yield from rows


def write_recitations(out: str | Path, times: int, seed: int = 0) -> int:
    """Write rows that recite each entry of the tables ``times`` times, as ShareGPT conversations.

    Args:
        out: the JSONL file to write.
        times: how often each entry occurs.
        seed: the same seed gives the same bytes.

    Returns:
        The rows written.

    Raises:
        UsageError: fewer than one time, or a negative seed.
    """
    if times < 1 or seed < 0:
        raise UsageError("--times must be at least 1 and --seed at least 0")
    count = 0

    def conversations() -> Iterator[dict[str, Any]]:
        nonlocal count
        for prompt, answer in recitations(times, seed):
            turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]
            yield {"id": str(count), "conversations": turns}
            count += 1

    write_jsonl(out, conversations())
    return count
