"""MindRecord files, read and written without MindSpore."""
