"""A conversation with a model, in the template of the run: the turns so far, and answers piece by piece."""

from __future__ import annotations

from collections.abc import Generator as PieceGenerator
from collections.abc import Iterator
from typing import TYPE_CHECKING

from backends.generation.types import Limits
from converters.common.console import say
from converters.common.errors import UserError
from converters.text.conversation import Turn

if TYPE_CHECKING:
    from backends.checkpoint.resolve import CheckpointFiles
    from backends.generation.base_generator import Generator


class Chat:
    """One conversation with a model: the turns so far, and how to ask for the next.

    Args:
        files: template and tokenizer.
        generator: the model.
        limits: how long answers may and must be.
        system: the system text, if any.
        positions: tokens of prompt and answer that the model was made for; None where it does not say.
    """

    def __init__(
        self,
        files: CheckpointFiles,
        generator: Generator,
        limits: Limits,
        system: str | None = None,
        positions: int | None = None,
    ) -> None:
        self.files, self.generator, self.limits, self.positions = files, generator, limits, positions
        self.turns: list[Turn] = []
        self.asked = 0
        self.reset(system)

    def reset(self, system: str | None) -> None:
        """Forget the turns and take a system text, or none.

        Raises:
            UserError: the template has no place for a system text; the conversation stays as it was.
        """
        check_system(self.files, system)
        self.turns = [Turn("system", system)] if system else []

    @property
    def system(self) -> str | None:
        """The system text in force."""
        return self.turns[0].text if self.turns and self.turns[0].role == "system" else None

    def answer(self, question: str) -> PieceGenerator[str]:
        """Yield the answer piece by piece; if the caller stops early, the pieces so far become the model's turn.

        Args:
            question: the user's turn.

        Raises:
            UserError: the template has no place for this turn, or the model has no positions left for an answer; the
                conversation is unchanged.
        """
        from mindrecord.tokens.encode import encode_prompts

        asked = [*self.turns, Turn("user", question)]
        prompt = encode_prompts([asked], self.files.template, self.files.tokenizer)[0]
        limits = self._room(len(prompt))
        said = ""
        try:
            for text, whole in self._texts(prompt, limits):
                # a text that ends in U+FFFD ends inside a character: wait for its other bytes
                if len(text) > len(said) and (whole or not text.endswith("\ufffd")):
                    said, piece = text, text[len(said) :]
                    yield piece
        finally:
            # in finally: Ctrl-C closes this generator, and what was shown must be what the model is told it said
            self.turns = [*asked, Turn("assistant", said)]

    def _room(self, length: int) -> Limits:
        """Return the limits of an answer after ``length`` tokens of conversation."""
        if self.positions is None or length + self.limits.max_new <= self.positions:
            return self.limits
        room = self.positions - length
        # an answer needs one position even where none is asked for
        if room < max(1, self.limits.min_new):
            raise UserError(
                f"the conversation has {length} tokens of the {self.positions} that the model was made for; /reset "
                "starts anew"
            )
        return Limits(room, self.limits.min_new)

    def _texts(self, prompt: list[int], limits: Limits) -> Iterator[tuple[str, bool]]:
        """Yield, after every token, the answer's text so far and whether the answer is finished."""
        # numbered, so that with --temperature the same question again draws anew
        number = self.asked
        self.asked += 1
        # the whole conversation is read anew for each answer: no cache outlives an answer
        batch = self.generator.start({number: prompt}, self.files.stop_ids, limits)
        while True:
            finished = batch.step()
            ids = finished[0][1].ids if finished else batch.said(number)
            # models put a space before the answer that no reader wants
            yield self.files.tokenizer.decode(ids).lstrip(), bool(finished)
            if not finished:
                continue
            # cut at the limit that was asked for, or (below) at the end of the model's positions?
            if finished[0][1].finish_reason == "length" and limits is self.limits:
                say(f"\n(cut after {limits.max_new} tokens; --max-new-tokens N allows more)")
            elif finished[0][1].finish_reason == "length":
                say(f"\n(cut: the {self.positions} tokens that the model was made for are full; /reset starts anew)")
            elif not ids:
                say("(no answer: the model ended it at once; --min-new-tokens 1 forbids that)")
            return


def check_system(files: CheckpointFiles, system: str | None) -> None:
    """Refuse a system text that the template has no place for.

    Raises:
        UserError: it has none.
    """
    if system:
        # the template itself refuses; the blank line is what a template of passage and question looks for
        files.template.prompt([Turn("system", system), Turn("user", "a\n\nb")])
