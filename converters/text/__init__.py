"""Conversations, and the templates that turn them into the text a model reads."""
