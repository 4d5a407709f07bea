"""Text to token ids and back, read from a model's own files, without transformers."""
