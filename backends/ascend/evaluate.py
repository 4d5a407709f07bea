"""The command ``python -m backends.ascend evaluate``; see :mod:`backends.perplexity`."""

from __future__ import annotations

import argparse

from backends import perplexity

run = perplexity.run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``evaluate``."""
    perplexity.add_arguments(parser, "ascend")
