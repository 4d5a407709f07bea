"""Exchange of weights: Hugging Face and PEFT, mindformers, Meta. Bit for bit, one tensor in memory, no framework.

``python -m backends.exchange`` is the command; the functions below are what other code calls.
"""

from backends.exchange.adapters import adapter_from_mindformers, adapter_to_mindformers, adapter_to_peft
from backends.exchange.models import hf_to_mindformers, mindformers_to_hf

__all__ = [
    "adapter_from_mindformers",
    "adapter_to_mindformers",
    "adapter_to_peft",
    "hf_to_mindformers",
    "mindformers_to_hf",
]
