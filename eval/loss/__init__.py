"""Loss on held-out text, a steady gauge of forgetting: ``python -m eval.loss``."""
