"""Exchange of weights: Hugging Face and PEFT, mindformers, Meta. Bit for bit, one tensor in memory, no framework.

``python -m backends.exchange`` is the command; the functions below are what other code calls. They are imported when
they are asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backends.exchange.convert import Exchanged, to_hf, to_mindformers
    from backends.exchange.weights_report import inspect

__all__ = ["Exchanged", "inspect", "to_hf", "to_mindformers"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        # not at the top: importing any module of this package would load all of them
        from backends.exchange import convert, weights_report

        return getattr(weights_report if name == "inspect" else convert, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
