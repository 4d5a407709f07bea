"""Tasks with few possible answers: ``python -m eval.choice``."""
