"""The values that describe generation, without a framework: answers, sampling, limits, and where a model runs.

Prompts are token ids; how they are grouped into batches is said in :mod:`backends.generation.batching`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from converters.common.console import say
from converters.common.errors import UsageError

if TYPE_CHECKING:
    from backends.checkpoint.resolve import CheckpointFiles

BATCH_TOKENS = 16_384
MAX_NEW_TOKENS = 128  # the contest's own limit for its arithmetic

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said to one prompt.

    Attributes:
        ids: the new tokens, without the token that ended them.
        finish_reason: ``stop`` when a stop token ended the answer, ``length`` when the limit cut it.
    """

    ids: list[int]
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen; the default is greedy.

    Attributes:
        temperature: 0 takes the likeliest token; otherwise logits are divided by it.
        top_p: keep the fewest likeliest tokens whose probabilities reach this sum.
        top_k: keep this many likeliest tokens; 0 keeps all.
        repetition_penalty: tokens already in prompt or answer: positive logits divided, negative multiplied by it
            (Keskar et al. 2019, CTRL).
        seed: a row's random numbers depend on the seed and its index only, never on the batch it runs in.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise UsageError(f"temperature is {self.temperature}; 0 (greedy) or more is expected")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p is {self.top_p}; more than 0 and at most 1 is expected")
        if self.top_k < 0:
            raise UsageError(f"top_k is {self.top_k}; 0 (all) or more is expected")
        if self.repetition_penalty <= 0:
            raise UsageError(f"repetition_penalty is {self.repetition_penalty}; more than 0 is expected")


GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class Limits:
    """How long an answer may be, and how long it must be before it can end; in tokens.

    Attributes:
        max_new: the answer is cut after this many tokens.
        min_new: stop tokens are forbidden before this many tokens.
    """

    max_new: int = MAX_NEW_TOKENS
    min_new: int = 0

    def __post_init__(self) -> None:
        if self.max_new < 1 or not 0 <= self.min_new <= self.max_new:
            asked = f"at least {self.min_new} and at most {self.max_new} new tokens"
            raise UsageError(f"{asked}: 0 <= min <= max and 1 <= max is expected")


def answer_limits(files: CheckpointFiles | None, max_new: int | None = None, min_new: int = 0) -> Limits:
    """Return the limits of answers, and print those that are not the default.

    Args:
        files: the checkpoint to ask. Without ``max_new``, answers may be as long as its longest training row, but at
            least ``MAX_NEW_TOKENS``. None stands for a model without a record of its training.
        max_new: an answer is cut after this many tokens.
        min_new: no answer ends before this many tokens.

    Raises:
        UsageError: the limits cannot be meant.
    """
    if max_new is None:
        max_new = max(MAX_NEW_TOKENS, (files.longest_row if files is not None else None) or 0)
        say(f"answers may have {max_new} tokens (--max-new-tokens)")
    limits = Limits(max_new, min_new)
    if min_new:
        say(f"no answer may end before {min_new} tokens (--min-new-tokens)")
    return limits


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where and in which precision a model runs.

    Attributes:
        backend: ``cuda``, ``ascend`` or ``auto``: the one whose card is here, else the one installed.
        device: one of the backend's, or ``auto``: a card, else the CPU.
        dtype: of the weights, or ``auto``: the checkpoint's on a card, float32 on the CPU.
        batch_tokens: rows of a batch times its longest prompt and answer: memory and speed, never the answers.
    """

    backend: str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    batch_tokens: int = BATCH_TOKENS


DEFAULT_RUNTIME = Runtime()
