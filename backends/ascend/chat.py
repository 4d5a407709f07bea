"""The command ``python -m backends.ascend chat``; see :mod:`backends.chat`."""

from __future__ import annotations

import argparse

from backends import chat

run = chat.run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``chat``."""
    chat.add_arguments(parser, "ascend")
