"""Accuracy on arithmetic problems: ``python -m eval.math``."""
