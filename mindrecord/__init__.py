"""Conversations to token rows: encode, pack, audit."""
