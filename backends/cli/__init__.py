"""The command lines of both backends."""
