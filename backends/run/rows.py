"""Training data of a recipe: token rows made from conversations, audited, with the hashes that identify them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.recipe.types import Recipe
from converters.common.console import say
from converters.common.errors import UsageError, UserError
from converters.common.files import sha256_file

if TYPE_CHECKING:
    from converters.text.base import Template
    from converters.tokenizers.base import Tokenizer
    from mindrecord.tokens.encode import TokenRows


NO_DATA = "no training data: set data.train=FILE.jsonl (conversations; `python -m converters.arithmetic` makes some)"


@dataclass(frozen=True)
class TrainingRows:
    """The rows of a run and what is known about them.

    Attributes:
        rows: their ids and labels.
        tokenizer: text to ids.
        template: that they were written in.
        record: what ``data.json`` holds.
    """

    rows: TokenRows
    tokenizer: Tokenizer
    template: Template
    record: dict[str, Any]

    @classmethod
    def of_files(
        cls,
        files: Iterable[str | Path],
        rows: TokenRows,
        tokenizer: Tokenizer,
        template: Template,
        audit: dict[str, Any],
        **more: Any,
    ) -> TrainingRows:
        """Describe rows by the hashes of what made them.

        Args:
            files: that the rows were read from.
            rows: their ids and labels.
            tokenizer: text to ids.
            template: that they were written in.
            audit: what encoding did to them; ``seq_length`` and ``longest`` at least.
            more: further entries of the record.
        """
        record = {
            "files": [{"path": str(file), "sha256": sha256_file(file)} for file in files],
            "rows": len(rows),
            "rows_sha256": rows.sha256,
            **more,
            # by hash as well: a name says nothing about changes of its text
            "template": {"name": template.name, "hash": template.hash},
            "tokenizer": {"source": str(tokenizer.source), "hash": tokenizer.hash},
            "audit": audit,
        }
        return cls(rows, tokenizer, template, record)

    # looked up at every step of training
    @cached_property
    def supervised(self) -> np.ndarray:
        """Tokens of each row that the loss counts, int64[n]."""
        return self.rows.supervised

    @property
    def tokens(self) -> np.ndarray:
        """Input tokens of each row, int64[n]: one less than its ids, since the last is a target only."""
        return self.rows.lengths - 1

    def check_vocabulary(self, size: int) -> None:
        """Refuse rows whose ids the model does not have.

        Raises:
            UserError: an id is ``size`` or more.
        """
        highest = int(self.rows.input_ids.max())
        if highest >= size:
            raise UserError(
                f"token id {highest} is outside the model's vocabulary of {size}: "
                f"{self.tokenizer.source} is not this model's tokenizer"
            )


def row_names(ids: Sequence[str] | np.ndarray, rows: Sequence[int] | np.ndarray) -> str:
    """Name rows by their ids for a message: the first five, and how many more there are.

    Args:
        ids: of all rows.
        rows: indices of the rows to name.
    """
    names = ", ".join(str(ids[int(row)]) for row in rows[:5])
    return f"rows {names}" + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")


def recipe_tokenizer(recipe: Recipe) -> Tokenizer:
    """Load ``data.tokenizer``, or the tokenizer that lies with the weights.

    Raises:
        UsageError: neither is set.
    """
    from converters.tokenizers.load import load_tokenizer

    path = recipe.data.tokenizer or recipe.load_checkpoint
    if not path:
        raise UsageError("no tokenizer: set data.tokenizer=DIR, or load_checkpoint=DIR to a model that has one")
    return load_tokenizer(path)


def recipe_form(recipe: Recipe, *, quiet: bool = False) -> tuple[Template, Tokenizer]:
    """Return template and tokenizer of a recipe, and say where the template differs from the tokenizer's own.

    Args:
        recipe: names both.
        quiet: say nothing (all processes but the first).

    Raises:
        UsageError: there is no tokenizer, or no template of that name.
        UserError: one of them cannot be read.
    """
    from converters.tokenizers.templates import difference, find_template

    tokenizer = recipe_tokenizer(recipe)
    template = find_template(recipe.data.template, tokenizer)
    if not quiet and (found := difference(template, tokenizer)):
        say(f"note: {found}; data.template=tokenizer takes its own")
    return template, tokenizer


def load_rows(recipe: Recipe, *, quiet: bool = False) -> TrainingRows:
    """Read, render and tokenise the rows of ``data.train``.

    Args:
        recipe: names files, template and tokenizer.
        quiet: leave out the audit's lines (all processes but the first).

    Returns:
        The rows that encoding kept, with tokenizer, template and audit.

    Raises:
        UsageError: no data is named, or a file is missing or empty.
        UserError: a row cannot be read, too many rows have nothing supervised, or none is left.
    """
    from converters.text.conversation import read_conversations
    from mindrecord.tokens.encode import encode

    if not recipe.data.train:
        raise UsageError(NO_DATA)
    # all of them before the first is read: a misspelt last one is found at once
    for file in recipe.data.train:
        if not Path(file).is_file():
            raise UsageError(f"data.train: {file}: no such file")
    template, tokenizer = recipe_form(recipe, quiet=quiet)
    conversations = [c for file in recipe.data.train for c in read_conversations(file)]
    rows, audit = encode(
        conversations,
        template,
        tokenizer,
        seq_length=recipe.model.model_config.seq_length,
        over_length=recipe.data.over_length,
    )
    if not quiet:
        for line in audit.lines():
            say(line)
    # after its lines were shown, which explain a refusal
    audit.check(recipe.data.max_unsupervised)
    return TrainingRows.of_files(recipe.data.train, rows, tokenizer, template, audit.to_dict())
