"""One page about a run: ``python -m eval.report``."""
