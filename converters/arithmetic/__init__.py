"""Arithmetic problems: raw rows to deduplicated, checked, worked and sampled conversations."""
