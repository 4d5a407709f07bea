"""What the command lines of both backends share: a recipe and settings that replace its own, wherever they stand."""

from __future__ import annotations

import argparse

from converters.common.errors import UsageError

WITH_RECIPE = ("train", "plan")
"""Commands that take a recipe."""


def add_command(commands: argparse._SubParsersAction, name: str, purpose: str, epilog: str) -> argparse.ArgumentParser:
    """Add a subcommand with its purpose as help, and the examples below; those of ``WITH_RECIPE`` take one."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=purpose,
        description=purpose,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if name in WITH_RECIPE:
        parser.add_argument(
            "recipe",
            nargs="*",
            metavar="RECIPE.yaml | key.path=value",
            help="a recipe (default: yaml/llama3_lora.yaml) and settings that replace its own",
        )
    return parser


def parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Parse a command line; of a command with a recipe, ``recipe`` is the file or None, ``overrides`` the settings.

    Raises:
        UsageError: two recipes were named.
    """
    args, rest = parser.parse_known_args(arguments)
    # argparse gives settings that follow an option back as unknown
    if rest and (args.command not in WITH_RECIPE or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if args.command in WITH_RECIPE:
        words = [*args.recipe, *rest]
        files = [word for word in words if "=" not in word]
        if len(files) > 1:
            raise UsageError(f"{files[1]!r}: one recipe at a time; a setting is written key.path=value")
        args.recipe = files[0] if files else None
        args.overrides = [word for word in words if "=" in word]
    return args
