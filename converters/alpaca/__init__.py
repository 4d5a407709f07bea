"""Alpaca and ShareGPT files: ``python -m converters.alpaca``, or ``convert`` from Python."""

from converters.alpaca.rows import convert

__all__ = ["convert"]
