"""A training run on disk: its directory, rows, log, environment, resuming, and what it will take."""
