"""Which prompts are answered together, in which order, and what happens when memory runs out.

The longest prompts come first. So a batch holds prompts of similar length, memory runs out early if it runs out at all,
and a progress bar estimates too much time rather than too little. A batch has as many rows as fit a budget of tokens
(prompt and answer, padding included). When the device's memory is full, a message says so, the budget shrinks and the
unfinished rows start again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

from converters.common.console import say
from converters.common.errors import UsageError, UserError

if TYPE_CHECKING:
    import numpy as np


Outcome = TypeVar("Outcome")

PASS_FLOP = 1e11
"""Matrix products of one forward pass on a CPU: one to three seconds of a core, so that a progress bar keeps moving.

More at once is no faster: a few hundred tokens already read every weight often enough to hide the cost of loading it.
"""


def tokens_of_pass(parameters: int) -> int:
    """Return how many tokens one forward pass on a CPU takes; fixed, so that the same rows make the same batches.

    Args:
        parameters: of the model; a token costs two floating-point operations for each.
    """
    return max(1, int(PASS_FLOP / (2 * max(1, parameters))))


def check_prompts(prompts: Mapping[int, list[int]]) -> dict[int, int]:
    """Return the number of tokens of every prompt, by the prompt's number.

    Raises:
        UsageError: a prompt is empty.
    """
    lengths = {index: len(prompt) for index, prompt in prompts.items()}
    for index, length in lengths.items():
        if length == 0:
            raise UsageError(f"prompt {index} has no tokens")
    return lengths


def uniforms(indices: Sequence[int], count: int, seed: int) -> np.ndarray:
    """Return the random numbers that tokens are drawn with.

    Args:
        indices: numbers of the rows.
        count: the most tokens of an answer.
        seed: of the run.

    Returns:
        float32 [rows, count] in [0, 1). A row's numbers depend on the seed and the row's number alone, so they are the
        same in any batch and on either backend.
    """
    import numpy as np

    # Philox is keyed: every (seed, row) is a stream of its own, whatever other rows draw
    rows = [np.random.Generator(np.random.Philox(key=[seed, index])).random(count, np.float32) for index in indices]
    return np.stack(rows)


def plan_batches(
    lengths: Mapping[int, int], max_new_tokens: int, batch_tokens: int, most_rows: int | None = None
) -> list[list[int]]:
    """Group rows, longest first, into batches of at most ``batch_tokens`` tokens (never less than one row).

    Args:
        lengths: tokens of every prompt, by its number.
        max_new_tokens: room kept for each answer.
        batch_tokens: rows of the batch times its longest prompt and answer.
        most_rows: of a batch; None sets no limit of its own.

    Returns:
        The numbers of the rows of each batch.
    """
    batches: list[list[int]] = []
    room = 0
    # the number breaks ties: the same rows always make the same batches
    for index in sorted(lengths, key=lambda index: (-lengths[index], index)):
        if room == 0:
            batches.append([])
            # the first row of a batch is its longest and so decides how many fit
            room = max(1, batch_tokens // (lengths[index] + max_new_tokens))
            room = min(room, most_rows or room)
        batches[-1].append(index)
        room -= 1
    return batches


def run_batches(
    lengths: Mapping[int, int],
    max_new_tokens: int,
    batch_tokens: int,
    run: Callable[[list[int]], Iterator[tuple[int, Outcome]]],
    out_of_memory: type[BaseException],
    free: Callable[[], None] = lambda: None,
    *,
    most_rows: int | None = None,
) -> Iterator[tuple[int, Outcome]]:
    """Run every row through ``run`` in planned batches; halve the budget when memory runs out.

    Args:
        lengths: tokens of every prompt, by its number.
        max_new_tokens: the most tokens of an answer.
        batch_tokens: the budget of :func:`plan_batches`.
        run: answers the rows of one batch, in any order.
        out_of_memory: what ``run`` raises when the device is full.
        free: gives cached memory back to the device after that.
        most_rows: as :func:`plan_batches` takes it.

    Yields:
        ``(number of the row, what run made of it)``, every row once, in the order in which they are finished.

    Raises:
        UserError: a single row does not fit.
    """
    batches = plan_batches(lengths, max_new_tokens, batch_tokens, most_rows)
    while batches:
        batch = batches.pop(0)
        left = dict.fromkeys(batch)  # a set that keeps its order
        try:
            for index, outcome in run(batch):
                del left[index]
                yield index, outcome
            continue
        except out_of_memory:
            # left without the exception: its traceback would keep the tensors of the failed batch alive
            pass
        free()
        longest = lengths[batch[0]] + max_new_tokens
        if len(batch) == 1:
            raise UserError(
                f"out of memory with a single row of {lengths[batch[0]]} prompt tokens and {max_new_tokens} new ones: "
                "lower --max-new-tokens or take a smaller --dtype"
            )
        # half of what this batch took: the budget itself may be far above that
        batch_tokens = longest * (len(batch) // 2)
        say(f"out of memory with {len(batch)} rows of {longest} tokens: going on with batches of {batch_tokens} tokens")
        undone = {index: lengths[index] for index in chain(left, *batches)}
        batches = plan_batches(undone, max_new_tokens, batch_tokens, most_rows)
