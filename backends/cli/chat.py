"""The command ``chat`` of every backend: a conversation in the terminal, in the template of the run.

Answers appear as they are made. Ctrl-C ends an answer and keeps what was said of it; Ctrl-D or ``/exit`` leaves. In a
pipe every line of stdin is a question or a command, and answers alone go to stdout.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from backends.cli.model_arguments import (
    add_checkpoint_arguments,
    add_device_arguments,
    add_limit_arguments,
    add_sampling_arguments,
    checkpoint_from,
    runtime_from,
    sampling_from,
)
from backends.generation.registry import BackendName, load_generator
from backends.generation.types import Generator as Model
from backends.generation.types import Limits, answer_limits
from converters.common.console import say
from converters.common.errors import UserError
from converters.text.conversation import Turn

if TYPE_CHECKING:
    from backends.checkpoint.resolve import CheckpointFiles

EPILOG = """in the chat:
  /reset         forget what was said (the system text stays)
  /system TEXT   set the system text and start anew; without TEXT: drop it
  /exit          leave (also Ctrl-D); Ctrl-C ends an answer

examples:
  python -m backends.{backend} chat --ckpt RUN
  python -m backends.{backend} chat --ckpt RUN --system "Answer with a number only." --temperature 0.7
  python -m backends.{backend} chat --ckpt RUN --prompt "解方程 3x + 6 = 0"
"""

HELP = "commands: /reset, /system TEXT, /exit; Ctrl-C ends an answer"


def add_arguments(parser: argparse.ArgumentParser, backend: BackendName) -> None:
    """Add the options of ``chat``."""
    parser.epilog = EPILOG.format(backend=backend)
    add_checkpoint_arguments(parser)
    parser.add_argument("--system", metavar="TEXT", help="system text (default: the template's own, if any)")
    parser.add_argument("--prompt", metavar="TEXT", help="answer this one question and leave")
    add_limit_arguments(parser, max_new_tokens=512)
    add_sampling_arguments(parser)
    add_device_arguments(parser, backend)


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
        generator: Model,
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

    def answer(self, question: str) -> Generator[str]:
        """Yield the answer piece by piece; what was yielded when the caller stops is what enters the conversation.

        Raises:
            UserError: the template has no place for this turn, or the model no positions; the conversation stays as it
                was.
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
            self.turns = [*asked, Turn("assistant", said)]

    def _room(self, length: int) -> Limits:
        """Return the limits of an answer after ``length`` tokens of conversation."""
        if self.positions is None or length + self.limits.max_new <= self.positions:
            return self.limits
        room = self.positions - length
        if room < max(1, self.limits.min_new):
            raise UserError(
                f"the conversation has {length} tokens of the {self.positions} that the model was made for; /reset "
                "starts anew"
            )
        return Limits(room, self.limits.min_new)

    def _texts(self, prompt: list[int], limits: Limits) -> Iterator[tuple[str, bool]]:
        """Yield the answer's text so far after every token, and whether it is whole."""
        # numbered, so that with --temperature the same question again draws anew
        number = self.asked
        self.asked += 1
        batch = self.generator.start({number: prompt}, self.files.stop_ids, limits)
        while True:
            finished = batch.step()
            ids = finished[0][1].ids if finished else batch.said(number)
            # models put a space before the answer that no reader wants
            yield self.files.tokenizer.decode(ids).lstrip(), bool(finished)
            if not finished:
                continue
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
        files.template.prompt([Turn("system", system), Turn("user", "a\n\nb")])


def run(args: argparse.Namespace) -> int:
    """Talk until the user leaves, or answer ``--prompt``."""
    sampling, limits = sampling_from(args), answer_limits(None, args.max_new_tokens, args.min_new_tokens)
    files = checkpoint_from(args)
    check_system(files, args.system)  # before the weights are loaded, which can take minutes
    chat = Chat(files, load_generator(files, runtime_from(args), sampling), limits, args.system, files.positions)
    if args.prompt is not None:
        _print_answer(chat, args.prompt)
        return 0
    talk(chat, interactive=sys.stdin.isatty())
    return 0


def talk(chat: Chat, *, interactive: bool) -> None:
    """Read questions and commands until the end of stdin or ``/exit``."""
    if interactive:
        import readline  # noqa: F401 - gives input() line editing and history

        say(f"template {chat.files.template.name}; {HELP}")
    while True:
        try:
            line = input("> " if interactive else "").strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            say("\n(Ctrl-D or /exit leaves)")
            continue
        if line == "/exit":
            return
        try:
            if line.startswith("/"):
                _command(chat, line)
            elif line:
                _print_answer(chat, line)
        except UserError as error:
            # a pipe has nobody to mend it
            if not interactive:
                raise
            say(f"error: {error}")


def _command(chat: Chat, line: str) -> None:
    word, _, rest = line.partition(" ")
    if word == "/reset":
        chat.reset(chat.system)
    elif word == "/system":
        chat.reset(rest.strip() or None)
    else:
        say(HELP if word == "/help" else f"unknown command {word}; {HELP}")


def _print_answer(chat: Chat, question: str) -> None:
    answer = chat.answer(question)
    try:
        for piece in answer:
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        say(" (ended)")
    finally:
        answer.close()
    print(flush=True)
