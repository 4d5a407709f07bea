"""Loss on held-out text: how well a model still predicts passages that nobody trained it on, in nats a token.

A passage is read as plain text, without a prompt template, so a model before and after tuning reads the same tokens.
Every token but the first of a row is predicted from those before it (teacher forcing); the loss is −log p of the right
one. Few passages hold thousands of tokens, so a change shows here that exact match on as many questions cannot resolve.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.common.errors import UsageError, UserError
from converters.common.reader import MalformedRow, parse_json, read_rows, read_text
from converters.text.conversation import Conversation, Turn
from converters.text.template import NamedTemplate
from eval.predictions import read_predictions
from eval.results import Figures, mean_per_unit, t_quantile
from eval.squad.data import SHIPPED, read_questions
from eval.task import Row, Task

if TYPE_CHECKING:
    from backends.checkpoint.resolve import CheckpointFiles
    from mindrecord.tokens.encode import TokenRows

MAX_TOKENS = 1024
NAME = "loss"
METHOD = "±t·√(k/(k−1)·Σ(dᵢ − m·nᵢ)²)/Σnᵢ over k passages of nᵢ tokens and dᵢ nats, m = Σdᵢ/Σnᵢ, t of k − 1"
"""The interval of a mean loss in words; of a difference, dᵢ are differences (:func:`eval.results.mean_per_unit`)."""

_EMPTY_LINES = re.compile(r"\n(?:[ \t]*\n)+")
# a row is BOS, where the tokenizer has one, and the passage; no end, since a cut passage has none
_TEXT = NamedTemplate(name="text", first="{bos}{user}", first_with_system=None, later=None, answer="{answer}")


class LossTask(Task):
    """Passages of a text, of JSON rows, or of a reading set.

    Args:
        max_tokens: a passage is measured up to so many tokens.
    """

    name = NAME
    plain_text = True
    default_data = SHIPPED

    def __init__(self, max_tokens: int = MAX_TOKENS) -> None:
        if max_tokens < 2:
            raise UsageError(f"--max-tokens {max_tokens}: at least 2 are needed, since the first is not predicted")
        self.max_tokens = max_tokens

    def read_data(self, path: Path, limit: int | None) -> list[Row]:
        """Read the passages; with a limit, so many that lie evenly over the file.

        The first ones would not do: neighbours in a file are often of one article, and then stand for that alone.
        """
        texts = read_passages(path)
        if limit is not None and limit < len(texts):
            texts = [texts[i * len(texts) // limit] for i in range(limit)]
        return [Row(idx, (Turn("user", text),), None, {"id": name}) for idx, (name, text) in enumerate(texts)]

    def token_rows(self, rows: Sequence[Row], files: CheckpointFiles) -> TokenRows:
        """Return the tokens of every passage, all supervised but the first of a row."""
        from mindrecord.tokens.encode import encode

        asked = [
            Conversation(row.fields["id"], (Turn("user", ""), Turn("assistant", row.turns[0].text))) for row in rows
        ]
        # seq_length counts what the model reads, and the last token is a target only
        found, _ = encode(asked, _TEXT, files.tokenizer, seq_length=self.max_tokens - 1, over_length="truncate")
        return found

    def measured_row(self, nats: float, tokens: int) -> dict[str, Any]:
        """Return the fields of a passage's row: the loss in words, for readers of any predictions, and in numbers."""
        said = f"{nats / tokens:.4f} nats a token over {tokens} tokens"
        return {"predict": said, "scores": {NAME: {"nats": nats, "tokens": tokens}}}

    def grade_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return nothing new: what was measured is all there is."""
        return {}

    def read_predictions(
        self, path: Path, *, data: Path | None, limit: int | None, meta: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Read measured losses back."""
        if data is not None:
            raise UsageError("--data goes with --ckpt; measured losses have their passages beside them")
        rows = read_predictions(path, labelled=False)[:limit]
        for row in rows:
            found = row.get("scores", {}).get(NAME)
            if not isinstance(found, dict) or not found.keys() >= {"nats", "tokens"}:
                raise UserError(f"{path}: row {row['idx']}: 'nats' and 'tokens' are expected under scores.{NAME}")
        return rows

    def figures(self, rows: Sequence[Mapping[str, Any]], meta: Mapping[str, Any], source: str) -> Figures:
        """Return the mean loss of a token with its interval, and the perplexity."""
        nats = [row["scores"][NAME]["nats"] for row in rows]
        tokens = [row["scores"][NAME]["tokens"] for row in rows]
        mean, error = mean_per_unit(nats, tokens)
        low, high = interval(mean, error, len(rows))
        entry = {
            "alias": f"loss of {Path(source).name.split('.')[0]}",
            "nats,none": mean,
            "nats_stderr,none": error,
            "nats_95,none": [low, high],
            "perplexity,none": math.exp(mean),
        }
        span = "-" if error is None else f"{low:.4f} to {high:.4f}"
        return Figures(
            header=["passages", "tokens", "nats a token", "95 %", "perplexity"],
            table=[[f"{len(rows):,}", f"{sum(tokens):,}", f"{mean:.4f}", span, f"{math.exp(mean):.3f}"]],
            lines=[f"95 %: {METHOD}", "every passage as plain text, without a template; a lower loss is better"],
            results={NAME: entry},
            # lm-eval's name for the likelihood of whole texts
            configs={NAME: {"output_type": "loglikelihood_rolling", "unit": "nats"}},
            higher_is_better={NAME: {"nats": False}},
            samples={NAME: (len(rows), len(rows))},
            extra={"counts": {NAME: {"passages": len(rows), "tokens": sum(tokens)}}},
            title=f"Loss on text: {Path(source).name}",
        )

    def settings(self) -> dict[str, Any]:
        """Return how much of a passage is measured."""
        return {"max_tokens": self.max_tokens}


def interval(mean: float, error: float | None, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a mean over passages; without an error, which one passage has not, no interval."""
    if error is None:
        return mean, mean
    spread = t_quantile(count - 1) * error
    return mean - spread, mean + spread


def read_passages(path: Path) -> list[tuple[str, str]]:
    """Return ``(name, passage)`` of a file's passages, empty ones left out.

    A ``.txt`` or ``.md`` file holds passages between empty lines. JSON lines or a JSON array hold one under ``text`` in
    every row. A reading set in SQuAD v1.1's JSON gives its passages, each once.

    Raises:
        UsageError: the file is missing, or holds no passage.
        UserError: a row has no text, or two have one id.
    """
    found = [(name, text) for name, text in _passages(path) if text.strip()]
    if not found:
        raise UsageError(f"{path}: no passage in it")
    seen: set[str] = set()
    for name, _ in found:
        # passages are paired by their names before and after
        if name in seen:
            raise UserError(f"{path}: the id {name} is there twice")
        seen.add(name)
    return found


def _passages(path: Path) -> Iterator[tuple[str, str]]:
    text = read_text(path)
    if path.name.removesuffix(".gz").endswith((".txt", ".md")):
        for number, passage in enumerate(_EMPTY_LINES.split(text.strip("\n")), start=1):
            yield str(number), passage
        return
    try:
        value = parse_json(text) if text.strip() else None
    except MalformedRow:
        value = None  # JSON lines, or damaged; reading the rows tells
    if isinstance(value, dict) and "data" in value:
        # a passage is known by its first question
        yield from ((one.id, one.context) for one in read_questions(path) if one.first)
        return
    for number, row in read_rows(path):
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            what = ", ".join(row) if isinstance(row, dict) else type(row).__name__
            raise UserError(f"{path}: row {number}: a text under 'text' is expected; found {what[:80]}")
        yield str(row.get("id", number)), row["text"]
