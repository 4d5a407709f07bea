"""Reading comprehension: ``python -m eval.squad``."""
