"""Generating and scoring on PyTorch."""
