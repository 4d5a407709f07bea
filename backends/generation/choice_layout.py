"""Where the tokens of a few choices lie behind a prompt, so that one forward pass scores them all.

All choices of a row lie behind its prompt in one sequence, each without its last token, which nothing follows::

    [ padding | prompt | choice 1 | choice 2 | … ]

A token of a choice sees the prompt and its own choice, and its position counts from the end of the prompt, so it has
the logits it would have alone. Choices of one token add nothing to the prompt.

Shapes: b rows of the batch, s prompt tokens with padding, k - 1 tokens of all choices behind the prompt, t = s + k - 1
the sequence, n tokens of all choices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from converters.common.errors import UsageError


class ChoiceLayout:
    """Where the tokens of the choices lie and where they are predicted; built once.

    Args:
        choices: the token ids of every choice, each at least one.

    Attributes:
        size: k, logits that are looked at in a row: of the prompt's last token and of the tokens behind it.
        count: how many choices there are.
        tokens: int64 [k - 1], what lies behind the prompt.
        offsets: int64 [k - 1], its positions from the end of the prompt.
        owners: int64 [k - 1], the choice that each belongs to.
        targets: int64 [3, n]: a token, the logits (of the k) that predict it, the choice it belongs to.

    Raises:
        UsageError: a choice has no tokens.
    """

    def __init__(self, choices: Sequence[list[int]]) -> None:
        if not all(choices):
            raise UsageError("a choice has no tokens")
        inside = [(token, place, owner) for owner, ids in enumerate(choices) for place, token in enumerate(ids[:-1])]
        table = np.array(inside, dtype=np.int64).reshape(-1, 3)
        self.tokens, self.offsets, self.owners = table.T
        self.size = len(inside) + 1
        self.count = len(choices)
        # the first token of a choice is predicted by the prompt's last, the others by the one before them
        starts = np.cumsum([0, *(len(ids) - 1 for ids in choices)])
        self.targets = np.array(
            [
                (token, starts[owner] + place if place else 0, owner)
                for owner, ids in enumerate(choices)
                for place, token in enumerate(ids)
            ],
            dtype=np.int64,
        ).T

    def inputs(self, prompts: Sequence[list[int]], pad_id: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ids int64 [b, t], positions int64 [b, t] and what is not padding, bool [b, t]."""
        b, s = len(prompts), max(map(len, prompts))
        t = s + self.size - 1
        ids = np.full((b, t), pad_id, dtype=np.int64)
        real = np.ones((b, t), dtype=bool)
        for i, prompt in enumerate(prompts):
            ids[i, s - len(prompt) : s] = prompt
            real[i, : s - len(prompt)] = False
        ids[:, s:] = self.tokens
        positions = (real[:, :s].cumsum(1) - 1).clip(0)
        behind = positions[:, -1:] + 1 + self.offsets
        return ids, np.concatenate([positions, behind], 1), real

    def sees(self, real: np.ndarray) -> np.ndarray:
        """Return who sees whom, bool [b, t, t]."""
        t = real.shape[1]
        s = t - self.size + 1
        sees = np.tril(np.ones((t, t), dtype=bool))
        sees[s:, s:] &= self.owners[:, None] == self.owners[None, :]
        # padding sees itself: a row that sees nothing would be no number
        return sees & real[:, None, :] | np.eye(t, dtype=bool)
