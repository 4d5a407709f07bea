"""Generating answers, without a framework: limits, batches, the log of predictions, the choice of a backend."""
