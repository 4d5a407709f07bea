"""Merging LoRA: into a base model, or several adapters into one; ``python -m backends.merge``.

Arithmetic is float32 on numpy arrays, a tensor at a time; nothing here needs torch but the comparison of logits and the
pickled output forms.
"""
