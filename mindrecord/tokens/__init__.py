"""Conversations to token rows: encode, audit, pack, order."""
