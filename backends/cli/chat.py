"""The command ``chat`` of every backend: a conversation in the terminal, in the template of the run.

Answers appear token by token. Ctrl-C ends an answer and keeps the part that was shown; Ctrl-D or ``/exit`` leaves. In a
pipe every line of stdin is a question or a command, and only answers go to stdout.
"""

from __future__ import annotations

import argparse
import sys

from backends.cli.model_arguments import (
    add_checkpoint_arguments,
    add_device_arguments,
    add_limit_arguments,
    add_sampling_arguments,
    checkpoint_from,
    runtime_from,
    sampling_from,
)
from backends.generation.chat import Chat, check_system
from backends.generation.registry import BackendName, load_generator
from backends.generation.types import answer_limits
from converters.common.console import say
from converters.common.errors import UserError

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
    """Read questions and commands from stdin until its end or ``/exit``.

    Args:
        chat: the conversation.
        interactive: show a prompt and go on after an error; else the first error ends the command.

    Raises:
        UserError: a question or command cannot be taken, and nobody is there to put it otherwise.
    """
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
            # nobody at a pipe can correct the question
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
        # at once, not when it is collected: closing puts what was said into the conversation
        answer.close()
    print(flush=True)
