"""Where the tokens of a few choices lie behind a prompt, so that one forward pass scores them all.

All choices of a row lie behind its prompt in one sequence. The last token of a choice is left out: it is predicted, but
predicts nothing::

    [ padding | prompt | choice 1 | choice 2 | … ]

A token of a choice attends to the prompt and to its own choice, and its position counts from the end of the prompt. So
it has the logits that it would have if its choice were the only one. Choices of one token add nothing to the prompt.

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
        size: k, positions of a row whose logits are used: the prompt's last token and the k - 1 tokens behind it.
        count: number of choices.
        tokens: int64 [k - 1], the tokens behind the prompt.
        offsets: int64 [k - 1], their positions, counted from the end of the prompt.
        owners: int64 [k - 1], the choice that each of them belongs to.
        targets: int64 [3, n], one column per token of a choice: its id, the position (of the k) that predicts it, and
            the choice it belongs to.

    Raises:
        UsageError: a choice has no tokens.
    """

    def __init__(self, choices: Sequence[list[int]]) -> None:
        if not all(choices):
            raise UsageError("a choice has no tokens")
        inside = [(token, place, owner) for owner, ids in enumerate(choices) for place, token in enumerate(ids[:-1])]
        # without the reshape, choices of one token would leave no columns to unpack
        table = np.array(inside, dtype=np.int64).reshape(-1, 3)
        self.tokens, self.offsets, self.owners = table.T
        self.size = len(inside) + 1
        self.count = len(choices)
        # column 0 of the k is the prompt's last token, column j the j-th token behind it;
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
        """Lay out a batch, padded on the left.

        Args:
            prompts: token ids, at least one each.
            pad_id: token put before shorter prompts.

        Returns:
            Token ids int64 [b, t], positions int64 [b, t], and bool [b, t] that is True where a token is not padding.
        """
        b, s = len(prompts), max(map(len, prompts))
        t = s + self.size - 1
        ids = np.full((b, t), pad_id, dtype=np.int64)
        real = np.ones((b, t), dtype=bool)
        for i, prompt in enumerate(prompts):
            # all prompts end in column s - 1, so that the choices stand in the same columns in every row
            ids[i, s - len(prompt) : s] = prompt
            real[i, : s - len(prompt)] = False
        ids[:, s:] = self.tokens
        positions = (real[:, :s].cumsum(1) - 1).clip(0)
        # every choice starts one position after its prompt, as if it were alone
        behind = positions[:, -1:] + 1 + self.offsets
        return ids, np.concatenate([positions, behind], 1), real

    def sees(self, real: np.ndarray) -> np.ndarray:
        """Return the attention mask of a batch.

        Args:
            real: True where a token is not padding, bool [b, t].

        Returns:
            bool [b, t, t]; [i, q, k] is True where token q of row i may attend to token k.
        """
        t = real.shape[1]
        s = t - self.size + 1
        sees = np.tril(np.ones((t, t), dtype=bool))
        # among the choices, a token attends only to tokens of its own choice
        sees[s:, s:] &= self.owners[:, None] == self.owners[None, :]
        # padding attends to itself: softmax over a row without any visible token would be NaN
        return sees & real[:, None, :] | np.eye(t, dtype=bool)
