"""A novel as rows to continue, cut from its text or written by a model: ``python -m converters.novel``."""
