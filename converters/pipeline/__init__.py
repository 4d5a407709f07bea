"""From converted rows to files: choose by kind, hold out, write, report."""
