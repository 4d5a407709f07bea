"""Answers from a given text, and refusals: ``python -m eval.webqa``."""
