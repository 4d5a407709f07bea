"""AdamW as mindformers runs it: no decay on vectors, clipping of the global norm, state as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from backends.recipe.types import Recipe


class Optimizer:
    """AdamW over the trainable parameters of a model, with the names that its stored state needs.

    Args:
        model: its parameters with ``requires_grad`` are trained.
        recipe: gives betas, eps, weight decay and clipping.
    """

    def __init__(self, model: torch.nn.Module, recipe: Recipe) -> None:
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        # mindformers decays all but vectors (norms, biases); LoRA, embedding and head are decayed
        decayed = [p for p in self.named.values() if p.ndim > 1]
        plain = [p for p in self.named.values() if p.ndim <= 1]
        config = recipe.optimizer
        self.adam = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=0.0,  # set before each step
            betas=config.adam_betas,
            eps=config.eps,
            fused=True,  # one kernel for all parameters
        )
        self.max_norm = recipe.runner_wrapper.max_grad_norm if recipe.runner_wrapper.use_clip_grad else None

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The trainable parameters, in a fixed order."""
        return list(self.named.values())

    def clip_gradients(self) -> torch.Tensor:
        """Scale all gradients by max / max(norm, max) where the recipe clips (mindformers/core/clip_grad.py).

        Returns:
            The global norm before clipping, a float32 scalar on the device.
        """
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        if self.max_norm is not None:
            # not torch.nn.utils.clip_grad_norm_: that adds 1e-6 to the norm, mindformers does not
            torch._foreach_mul_(gradients, self.max_norm / norm.clamp(min=self.max_norm))
        return norm

    def step(self, rate: float) -> None:
        """Update the parameters with learning rate ``rate``, then clear the gradients."""
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)

    def clear(self) -> None:
        """Clear the gradients without a step."""
        self.adam.zero_grad(set_to_none=True)

    def save(self, path: Path) -> None:
        """Write the optimizer's state to safetensors, each tensor as ``kind/parameter name`` (``exp_avg/…``)."""
        from safetensors.torch import save_file

        tensors = {}
        for name, parameter in self.named.items():
            for key, value in self.adam.state.get(parameter, {}).items():
                tensors[f"{key}/{name}"] = value.detach().cpu().contiguous()
        save_file(tensors, path)

    def load(self, path: Path) -> None:
        """Restore the optimizer's state from a file that :meth:`save` wrote."""
        from safetensors.torch import load_file

        for key, value in load_file(path).items():
            kind, name = key.split("/", 1)
            parameter = self.named[name]
            state: dict[str, Any] = self.adam.state[parameter]
            state[kind] = value.to(parameter.device)  # also `step`, which fused AdamW keeps beside the parameter
