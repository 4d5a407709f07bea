"""Generating and scoring on MindSpore."""
