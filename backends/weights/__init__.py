"""Weights without a framework: files, names, shapes, LoRA."""
