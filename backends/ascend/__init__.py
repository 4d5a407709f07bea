"""Training and generation on MindSpore and mindformers: Ascend cards, or MindSpore's CPU build for small models.

This module imports nothing heavy; ``backends.ascend.device.start`` is the way into MindSpore.
"""
