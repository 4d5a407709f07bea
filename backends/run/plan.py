"""What a recipe will take, before it is run: parameters, steps, tokens, memory and time.

Pure arithmetic on sizes, without weights and without a framework. Parameters, steps and tokens are exact;
memory and minutes are predictions, and are called so.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from backends.recipe.load import load_recipe
from backends.recipe.schedule import warmup_steps
from backends.recipe.types import ModelConfig, Recipe
from backends.weights.lora import LINEAR_LAYERS, target_layers
from converters.common.console import format_table, say
from converters.common.errors import UsageError

if TYPE_CHECKING:
    from backends.run.rows import TrainingRows

LLAMA3_8B = 8_030_261_248
CONTEST_DENOMINATOR = 8_030_000_000

# Dense bfloat16 matrix products, FLOP/s, by the makers' datasheets, and memory in bytes.
DEVICES = {
    "H200": (989e12, 141e9),
    "H100": (989e12, 80e9),
    "A100": (312e12, 80e9),
    "RTX 4090": (165e12, 24e9),
}
# Share of that rate which packed LoRA training keeps busy: an assumption, between the 35 to 55 % that public figures
# for 8B models imply.
GPU_SHARE = 0.45
# Four Ascend 910B cards, model parallel with recomputation: what 5,333 padded tokens a second of Llama-3-8B are, the
# rate of the contest's own time and of public training logs. Rows are padded there unless a MindRecord file is packed.
ASCEND_FLOPS, ASCEND_CARDS = 5333 * 4 * 7.504e9, 4
# Share of a plain float32 matrix product's rate that training on a CPU reached (see benchmarks/train_cpu.py).
CPU_SHARE = 0.6


@dataclass(frozen=True)
class Sizes:
    """What the arithmetic needs of a Llama-like model (h hidden, f feed-forward width, v vocabulary)."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int
    tied: bool
    biases: int = 0

    @classmethod
    def of_recipe(cls, config: ModelConfig) -> Sizes:
        """Take the sizes from ``model.model_config``."""
        head_dim = config.head_dim or config.hidden_size // config.num_heads
        return cls(
            config.hidden_size,
            config.num_layers,
            config.num_heads,
            config.kv_heads,
            head_dim,
            config.feed_forward_size,
            config.vocab_size,
            config.tie_word_embeddings,
            config.qkv_has_bias * (config.num_heads + 2 * config.kv_heads) * head_dim
            + config.attn_proj_has_bias * config.hidden_size,
        )

    @classmethod
    def of_checkpoint(cls, folder: Path) -> Sizes:
        """Take the sizes from a Hugging Face ``config.json``."""
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        heads = config["num_attention_heads"]
        kv_heads = config.get("num_key_value_heads") or heads
        head_dim = config.get("head_dim") or config["hidden_size"] // heads
        # Qwen2 has biases on q, k and v whatever its configuration says, others on the output too
        qwen2, biased = config.get("model_type") == "qwen2", config.get("attention_bias", False)
        return cls(
            config["hidden_size"],
            config["num_hidden_layers"],
            heads,
            kv_heads,
            head_dim,
            config["intermediate_size"],
            config["vocab_size"],
            config.get("tie_word_embeddings", config.get("model_type") == "gemma"),
            (qwen2 or biased) * (heads + 2 * kv_heads) * head_dim + (biased and not qwen2) * config["hidden_size"],
        )

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """(in, out) of each linear layer of a decoder layer, by its mindformers name."""
        h, f, q, kv = self.hidden, self.feed_forward, self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {"wq": (h, q), "wk": (h, kv), "wv": (h, kv), "wo": (q, h), "w1": (h, f), "w2": (f, h), "w3": (h, f)}

    @property
    def matrix_parameters(self) -> int:
        """Parameters that a token is multiplied with: all linear layers and the head, not the embedding."""
        return self.layers * sum(i * o for i, o in self.linear.values()) + self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters."""
        norms = self.layers * (2 * self.hidden + self.biases) + self.hidden
        embedding = 0 if self.tied else self.vocabulary * self.hidden
        return self.matrix_parameters + embedding + norms

    def lora_parameters(self, layers: list[str], rank: int) -> int:
        """Parameters of LoRA on the named layers: rank · (in + out) each."""
        return self.layers * sum(rank * sum(self.linear[name]) for name in layers)

    def lora_shapes(self, layers: list[str], rank: int) -> dict[str, dict[str, tuple[int, int]]]:
        """Shapes of LoRA's two matrices on each named layer, as an adapter file holds them: A [r, in], B [out, r]."""
        return {name: {"A": (rank, self.linear[name][0]), "B": (self.linear[name][1], rank)} for name in layers}


@dataclass(frozen=True)
class Plan:
    """The figures; tokens are totals over the run, None where neither rows nor data were given."""

    parameters: int
    trainable: int
    layers: list[str] | None
    adapter_tensors: int
    adapter: dict[str, dict[str, tuple[int, int]]]
    rows: int | None
    steps_per_epoch: int | None
    steps: int | None
    warmup: int | None
    real_tokens: int | None
    supervised_tokens: int | None
    padded_tokens: int | None
    micro_batch_tokens: int
    flop_per_token: int
    dropout: bool
    predicted_bytes: dict[str, float]


def recipe_sizes(recipe: Recipe) -> Sizes:
    """Sizes of the model that a recipe trains: the checkpoint's own where it is at hand, else the recipe's."""
    folder = Path(recipe.load_checkpoint)
    if recipe.load_checkpoint and (folder / "config.json").is_file():
        return Sizes.of_checkpoint(folder)
    return Sizes.of_recipe(recipe.model.model_config)


def make_plan(recipe: Recipe, sizes: Sizes, rows: int | None = None, data: TrainingRows | None = None) -> Plan:
    """Work out the figures of a recipe.

    Args:
        recipe: what is to be run.
        sizes: of its model.
        rows: number of training rows, where there is no data.
        data: the rows themselves.
    """
    pet, batch, epochs = recipe.pet, recipe.runner_config.batch_size, recipe.runner_config.epochs
    layers = target_layers(pet) if pet is not None else None
    micro, share = recipe.data.micro_batch_tokens, 1.0
    if data is not None:
        rows = len(data.rows)
        micro = min(micro, round(float(data.tokens.mean()) * batch))
        share = int(data.supervised.sum()) / int(data.tokens.sum())
    steps_per_epoch = None if rows is None else rows // batch
    steps = None if steps_per_epoch is None else steps_per_epoch * epochs
    real = None
    if data is not None and steps is not None:
        # which rows an epoch leaves over differs from epoch to epoch: the mean row stands for them
        real = round(float(data.tokens.mean()) * steps * batch)
    plan = Plan(
        parameters=sizes.parameters,
        trainable=sizes.lora_parameters(layers, pet.lora_rank) if pet and layers else sizes.parameters,
        layers=layers,
        adapter_tensors=2 * sizes.layers * len(layers or []),
        adapter=sizes.lora_shapes(layers, pet.lora_rank) if pet and layers else {},
        rows=rows,
        steps_per_epoch=steps_per_epoch,
        steps=steps,
        warmup=None if steps is None else warmup_steps(recipe.lr_schedule, steps, steps_per_epoch or 0),
        real_tokens=real,
        supervised_tokens=None if real is None else round(real * share),
        padded_tokens=None if steps is None else steps * batch * recipe.model.model_config.seq_length,
        micro_batch_tokens=micro,
        # forward and backward through the input cost 2 each; weights cost 2 more where they are trained
        flop_per_token=(4 if pet is not None else 6) * sizes.matrix_parameters,
        dropout=pet is not None and pet.lora_dropout > 0,
        predicted_bytes={},
    )
    predicted = {
        "cpu": _memory(sizes, plan, share, accelerator=False),
        "accelerator": _memory(sizes, plan, share, accelerator=True),
        "accelerator, checkpointing": _memory(sizes, plan, share, accelerator=True, checkpointing=True),
    }
    return replace(plan, predicted_bytes=predicted)


def activation_bytes(sizes: Sizes, lora: list[str] | None, width: int, mask: int) -> float:
    """Bytes that one token keeps in one decoder layer for the backward pass.

    Counted from what autograd saves in transformers' Llama, and compared with it in a test.

    Args:
        sizes: of the model.
        lora: the layers with LoRA, or None where every weight is trained.
        width: bytes of a value in the matrix products, 2 or 4.
        mask: bytes of one entry of a dropout mask: 1 on CUDA, 4 on the CPU, 0 without dropout.
    """
    h, f = sizes.hidden, sizes.feed_forward
    q, kv = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    norms = 2 * 4 * h  # computed in float32, their input is kept
    scores = width * (2 * q + 2 * kv)  # queries, keys, values and what attention made of them
    gate = 3 * width * f  # gate, its activation, and what it is multiplied with
    if lora is not None:
        return norms + scores + gate + sum((width + mask) * sizes.linear[name][0] for name in lora)
    # a trained weight's gradient needs the layer's input (q, k and v share theirs), a trained norm's its own
    return norms + scores + gate + width * (2 * h + q + f) + norms


def _memory(sizes: Sizes, plan: Plan, supervised: float, *, accelerator: bool, checkpointing: bool = False) -> float:
    """Predicted bytes: weights, gradients and moments, activations of one micro-batch, logits."""
    width, mask = (2, 1) if accelerator else (4, 4)
    full = plan.layers is None
    # autocast keeps a copy of trained weights in the type of the matrix products
    frozen = width * sizes.parameters if not full or accelerator else 0
    trained = 16 * plan.trainable  # float32: the weight, its gradient, two moments
    layer = activation_bytes(sizes, plan.layers, width, mask if plan.dropout else 0)
    kept = layer + sizes.layers * width * sizes.hidden if checkpointing else sizes.layers * layer
    logits = (width + 8) * sizes.vocabulary * supervised  # as computed, in float32, and their gradient
    return frozen + trained + plan.micro_batch_tokens * (kept + logits)


def cpu_rate(sizes: Sizes, seconds: float = 0.3) -> float:
    """FLOP/s of a float32 matrix product with this model's shapes (up to 2048), measured now."""
    import numpy as np

    inner, width = min(sizes.hidden, 2048), min(sizes.feed_forward, 2048)
    left = np.ones((256, inner), dtype=np.float32)
    right = np.ones((inner, width), dtype=np.float32)
    left @ right
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - began)
    return 2.0 * left.size * width / best


def run(path: str | None, overrides: list[str], *, rows: int | None, as_json: bool) -> int:
    """``plan``: print the figures of a recipe.

    Raises:
        UsageError: ``rows`` is not positive.
    """
    recipe = load_recipe(path, overrides)
    if rows is not None and rows < 1:
        raise UsageError(f"--rows {rows}: expected at least 1")
    data = None
    if recipe.data.train and (recipe.data.tokenizer or recipe.load_checkpoint):
        from backends.run.rows import load_rows

        data = load_rows(recipe)
    elif recipe.data.train:
        say("tokens: unknown without a tokenizer (data.tokenizer=DIR or load_checkpoint=DIR)")
    sizes = recipe_sizes(recipe)
    plan = make_plan(recipe, sizes, rows, data)
    predictions = _predictions(plan, cpu_rate(sizes))
    if as_json:
        print(json.dumps({**asdict(plan), "predictions": predictions}, indent=2))
        return 0
    print(_table(plan, recipe))
    print("\npredictions (not measured)")
    print(format_table(["device", "how", "memory", "time"], [list(row.values()) for row in predictions], left=2))
    return 0


def _predictions(plan: Plan, cpu_rate: float) -> list[dict[str, str]]:
    """One row a device: predicted memory and time."""
    tokens = plan.real_tokens or plan.padded_tokens
    work = None if tokens is None else tokens * plan.flop_per_token
    table = [
        {
            "device": "this CPU",
            "how": f"{cpu_rate / 1e9:,.0f} GFLOP/s in float32 just measured, × {CPU_SHARE}",
            "memory": _bytes(plan.predicted_bytes["cpu"]),
            "time": _duration(None if work is None else work / (cpu_rate * CPU_SHARE)),
        }
    ]
    for name, (flops, memory) in DEVICES.items():
        need, slower, note = plan.predicted_bytes["accelerator"], 1.0, ""
        if need > memory:
            # the forward pass once more: 2 FLOP on top of 4 or 6
            need, slower, note = plan.predicted_bytes["accelerator, checkpointing"], 1.4, ", activation checkpointing"
        if need > memory:
            note = ", too little memory: lower data.micro_batch_tokens"
        table.append(
            {
                "device": name,
                "how": f"{flops / 1e12:,.0f} TFLOP/s by datasheet × {GPU_SHARE}{note}",
                "memory": _bytes(need),
                "time": _duration(None if work is None else slower * work / (flops * GPU_SHARE)),
            }
        )
    padded = None if plan.padded_tokens is None else plan.padded_tokens * plan.flop_per_token / ASCEND_FLOPS
    table.append(
        {
            "device": f"{ASCEND_CARDS} × 910B",
            "how": f"{ASCEND_FLOPS / 1e12:,.0f} TFLOP/s together by public logs of Llama-3-8B, rows padded",
            "memory": f"{_bytes(plan.predicted_bytes['accelerator, checkpointing'] / ASCEND_CARDS)} a card",
            "time": _duration(padded),
        }
    )
    return table


def _table(plan: Plan, recipe: Recipe) -> str:
    """The exact figures."""
    ratio = f"{plan.trainable / plan.parameters:.6f}"
    if plan.parameters == LLAMA3_8B:
        ratio += f" ({plan.trainable / CONTEST_DENOMINATOR:.6f} of 8.03e9, as the contest counts)"
    layers = "all, no LoRA" if plan.layers is None else f"LoRA on {', '.join(plan.layers)}"
    lines = [["trainable parameters", f"{plan.trainable:,} of {plan.parameters:,}", layers], ["ratio", ratio, ""]]
    if plan.adapter:
        in_a_layer = f"{plan.adapter_tensors // 2 // len(plan.adapter)} layers × {len(plan.adapter)} × (A, B)"
        lines.append(["adapter tensors", f"{plan.adapter_tensors:,}", in_a_layer])
        lines += [
            [f"  {name}, {LINEAR_LAYERS[name].split('.')[1]}", f"A {list(both['A'])}", f"B {list(both['B'])}"]
            for name, both in plan.adapter.items()
        ]
    batch, epochs = recipe.runner_config.batch_size, recipe.runner_config.epochs
    if plan.rows is None:
        lines.append(["rows", "unknown", "data.train=FILE or --rows N"])
    else:
        lines.append(["rows", f"{plan.rows:,}", f"{epochs} epoch{'s' * (epochs > 1)} in steps of {batch}"])
        lines.append(["steps", f"{plan.steps:,}", f"{plan.steps_per_epoch:,} an epoch, {plan.warmup:,} of warm-up"])
        if not plan.steps:
            lines.append(["", "", f"fewer rows than runner_config.batch_size {batch}: nothing would be trained"])
    if plan.padded_tokens is not None:
        seq_length = recipe.model.model_config.seq_length
        lines.append(["padded tokens", f"{plan.padded_tokens:,}", f"if every row took {seq_length}"])
    if plan.real_tokens and plan.padded_tokens is not None:
        saved = f"packing computes {plan.padded_tokens / plan.real_tokens:.1f} times fewer"
        lines.append(["real tokens", f"{plan.real_tokens:,}", saved if recipe.data.packing else "packing is off"])
        lines.append(["supervised tokens", f"{plan.supervised_tokens:,}", ""])
    lines.append(["micro-batch", f"{plan.micro_batch_tokens:,} tokens", "data.micro_batch_tokens, or one step's rows"])
    return format_table(["", "", ""], lines, left=3).split("\n", 2)[2]


def _bytes(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h"
