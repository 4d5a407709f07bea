"""Two parts of a training step written out, so that no tensor is made that nobody needs.

* LoRA: PEFT multiplies, scales and adds in three tensors as wide as the layer; here B's product is added in place.
* The loss: logits are the largest tensors of a step, and autograd keeps four of them. Here they are made for a few
  positions at a time, and what stays is their gradient on the hidden states.

Both are the same sums as the plain forms, to rounding.

Shapes: t tokens, r rank, k supervised positions, h hidden size, v vocabulary, c positions of a chunk.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from backends.run.plan import LOGITS_AT_ONCE

PLAIN_HEADS = ("llama", "qwen2", "gemma", "mistral")
"""Values of ``model_type`` whose logits are the head's product alone, neither scaled nor capped."""


class _LoraProduct(torch.autograd.Function):
    """y = x Wᵀ + s (x Aᵀ) Bᵀ, all in one type; W is frozen (Hu et al. 2021, LoRA)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
        """Multiply: x [t, in], weight [out, in], a [r, in], b [out, r] → [t, out]."""
        down = x @ a.t()
        ctx.save_for_backward(x, weight, a, b, down)
        ctx.scaling = scaling
        return (x @ weight.t()).addmm_(down, b.t(), alpha=scaling)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor, Tensor, None]:
        x, weight, a, b, down = ctx.saved_tensors
        # [t, r], the gradient of x Aᵀ
        up = (grad @ b).mul_(ctx.scaling)
        # the first layer's input is the frozen embedding
        back = (grad @ weight).addmm_(up, a) if ctx.needs_input_grad[0] else None
        return back, None, up.t() @ x, (grad.t() @ down).mul_(ctx.scaling), None


def fuse_lora(model: torch.nn.Module) -> int:
    """Let every plain LoRA layer of a PEFT model compute as :class:`_LoraProduct` does.

    Layers with dropout, a bias or a variant of LoRA keep PEFT's own way. Parameters and their names stay.

    Args:
        model: a PEFT model; changed in place.

    Returns:
        The number of layers changed.
    """
    from peft.tuners.lora import Linear

    count = 0
    for layer in model.modules():
        if not isinstance(layer, Linear) or type(layer.base_layer) is not torch.nn.Linear or layer.lora_variant:
            continue
        (name,) = layer.active_adapters
        parts = (layer.lora_A[name], layer.lora_B[name])
        if layer.base_layer.bias is not None or any(part.bias is not None for part in parts):
            continue
        if not isinstance(layer.lora_dropout[name], torch.nn.Identity):
            continue
        layer.forward = partial(_forward, layer.base_layer, *parts, layer.scaling[name])
        count += 1
    return count


def _forward(base: torch.nn.Linear, a: torch.nn.Linear, b: torch.nn.Linear, scaling: float, x: Tensor) -> Tensor:
    """Compute one LoRA layer, [..., in] → [..., out], in autocast's type where that is on."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else base.weight.dtype
    flat, weight, down, up = (one.to(dtype) for one in (x.flatten(0, -2), base.weight, a.weight, b.weight))
    return _LoraProduct.apply(flat, weight, down, up, scaling).unflatten(0, x.shape[:-1])


class _HeadLoss(torch.autograd.Function):
    """Σ −log softmax(H Wᵀ) at the targets; H's gradient is computed along with it, W is frozen."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, at_once: int) -> Tensor:
        """Add up: hidden [k, h] and weight [v, h] of one type, targets int64 [k] → a float32 scalar."""
        wanted = ctx.needs_input_grad[0]
        back = torch.empty_like(hidden) if wanted else None
        total = torch.zeros((), device=hidden.device)
        for first in range(0, len(hidden), at_once):
            part = slice(first, first + at_once)
            logits = (hidden[part] @ weight.t()).float()  # [c, v]
            place = targets[part, None]
            log_sum = logits.logsumexp(-1, keepdim=True)
            total += (log_sum - logits.gather(1, place)).sum()
            if back is not None:
                # the loss's gradient on the logits is softmax − 1 at the target; the logits are not needed again
                slope = logits.sub_(log_sum).exp_()
                slope.scatter_add_(1, place, slope.new_full(place.shape, -1.0))
                torch.mm(slope.to(weight.dtype), weight, out=back[part])
        ctx.save_for_backward(*([] if back is None else [back]))
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (back,) = ctx.saved_tensors
        return back * grad, None, None, None


def can_chunk_loss(model: Any) -> bool:
    """Whether :func:`head_loss` computes this model's loss: its logits are a frozen matrix times the hidden states."""
    head = model.get_output_embeddings()
    return (
        getattr(model.config, "model_type", None) in PLAIN_HEADS
        and type(head) is torch.nn.Linear
        and head.bias is None
        and not head.weight.requires_grad
    )


def head_loss(model: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """Return Σ −log p of the targets, in nats, without ever holding all logits.

    Args:
        model: that the hidden states are of, as :func:`can_chunk_loss` accepts it.
        hidden: the last layer's output behind the final norm, at supervised positions, [k, h].
        targets: the tokens to predict, int64 [k].

    Returns:
        A float32 scalar.
    """
    weight, kind = model.get_output_embeddings().weight, hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    at_once = max(1, LOGITS_AT_ONCE[kind] // len(weight))
    return _HeadLoss.apply(hidden.to(dtype), weight.to(dtype), targets, at_once)
