"""A recipe: a mindformers YAML plus one block ``data:``, checked and returned as types."""
