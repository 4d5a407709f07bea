"""Merging LoRA: into a base model, or several adapters into one; ``python -m backends.merge``.

Arithmetic is float32 on numpy arrays, a tensor at a time; nothing here needs torch but the comparison of logits and the
pickled output forms. :func:`merge` is what other code calls; it is imported when it is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backends.merge.run import MergeReport, merge

__all__ = ["MergeReport", "merge"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from backends.merge import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
