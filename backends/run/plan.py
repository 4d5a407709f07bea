"""Predicts what a recipe takes before it is run: parameters, steps, tokens, memory and time.

Pure arithmetic on sizes, without weights and without a framework. Parameters, steps and tokens are exact;
memory and minutes are predictions, and are called so.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from backends.recipe.schedule import warmup_steps
from backends.recipe.types import Recipe
from backends.run.machine import bf16_flags, cpu_threads, ensure_memory
from backends.run.speed import CoreSpeed, core_speed
from backends.weights.llama import LlamaShape
from backends.weights.lora import LINEAR_LAYERS, target_layers
from backends.weights.model_config import checkpoint_differences, has_config, model_shape
from converters.common.console import format_table, say
from converters.common.contest import CONTEST_DENOMINATOR, LLAMA3_8B
from converters.common.errors import UsageError

if TYPE_CHECKING:
    from backends.run.rows import TrainingRows

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
# Training on a CPU: the share of a plain product's rate that its products reach, and how often it passes over what a
# layer keeps for the backward pass. Fitted to the tokens a processor-second of SmolLM2-135M and models/tiny in float32;
# `benchmarks/train_cpu.py --model DIR --ways packed` measures them, and the peak memory beside what is planned.
PRODUCT_SHARE, PASSES = 0.85, 26
# Of a further core's rate what training gains, in threads or in processes.
CORE_SHARE = 0.8
# Tokens a processor-second with bfloat16 products against float32: SmolLM2-135M on an EPYC with avx512_bf16.
BF16_GAIN = 1.9
# Resident size of a process with torch, transformers and PEFT that has done a step of nothing, in bytes.
PROCESS_BYTES = 430e6
# What the C library's allocator holds beyond what tensors take.
ALLOCATOR = 1.15
# Numbers in the logits that the loss of a frozen head makes at a time: 32 MB in float32 keeps a CPU from asking the
# kernel for fresh pages each time, 512 MB keep a card busy.
LOGITS_AT_ONCE = {"cpu": 2**23, "cuda": 2**27}


@dataclass(frozen=True)
class Plan:
    """The figures of a recipe. Tokens are totals over the run, None where neither rows nor data were given.

    Attributes:
        recipe: what is to be run.
        parameters: of the whole model.
        trainable: of these, or of LoRA.
        layers: mindformers names of the layers with LoRA; None where every weight is trained.
        adapter_tensors: LoRA matrices in all decoder layers.
        adapter: shapes of A and B by layer name.
        rows: training rows.
        steps_per_epoch: optimizer steps.
        steps: of all epochs.
        warmup: steps until the learning rate is at its highest.
        real_tokens: that packed training computes.
        supervised_tokens: that the loss counts.
        padded_tokens: that training would compute if every row took ``seq_length``.
        micro_batch_tokens: in memory at once.
        flop_per_token: of one training step.
        dropout: whether LoRA's input is dropped out.
        cpu_dtype: type of the matrix products on this CPU.
        predicted_bytes: memory by kind of device.
        predictions: memory and time by device, as text; empty until :func:`plan` adds them.
    """

    recipe: Recipe
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
    cpu_dtype: str = "float32"
    predicted_bytes: dict[str, float] = field(default_factory=dict)
    predictions: list[dict[str, str]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Every figure, for machines."""
        return {name: value for name, value in vars(self).items() if name != "recipe"}

    def as_text(self) -> str:
        """A table of the exact figures, and one of the predictions."""
        rows = [list(row.values()) for row in self.predictions]
        predictions = format_table(["device", "how", "memory", "time"], rows, left=2)
        return f"{_table(self)}\n\npredictions (not measured)\n{predictions}"


def plan(recipe: Recipe, rows: int | None = None) -> Plan:
    """Compute the figures of a recipe, and predict memory and time on this CPU and on known cards.

    Args:
        recipe: what is to be run; its rows are read where it names files and a tokenizer.
        rows: number of training rows, where there is no file yet.

    Returns:
        The exact figures, and the predictions for each device.

    Raises:
        UsageError: ``rows`` is not positive.
        UserError: the rows cannot be read.
    """
    if rows is not None and rows < 1:
        raise UsageError(f"--rows {rows}: expected at least 1")
    data = None
    if recipe.data.train and (recipe.data.tokenizer or recipe.load_checkpoint):
        from backends.run.rows import load_rows

        data = load_rows(recipe)
    elif recipe.data.train:
        say("tokens: unknown without a tokenizer (data.tokenizer=DIR or load_checkpoint=DIR)")
    for line in checkpoint_differences(recipe):
        say(line)
    shape = recipe_shape(recipe)
    lower = recipe.model.model_config.compute_dtype == "bfloat16" and bf16_flags()
    exact = make_plan(recipe, shape, rows, data, "bfloat16" if lower else "float32")
    return replace(exact, predictions=_predictions(shape, exact))


def recipe_shape(recipe: Recipe) -> LlamaShape:
    """Return the sizes of the model that a recipe trains: from its checkpoint where that is at hand, else its own."""
    if recipe.load_checkpoint and has_config(recipe.load_checkpoint):
        return model_shape(recipe.load_checkpoint)
    return LlamaShape.from_recipe(recipe.model.model_config)


def make_plan(
    recipe: Recipe,
    shape: LlamaShape,
    rows: int | None = None,
    data: TrainingRows | None = None,
    cpu_dtype: str = "float32",
) -> Plan:
    """Compute the figures of a recipe by arithmetic alone, without predictions by device.

    Args:
        recipe: what is to be run.
        shape: of its model.
        rows: number of training rows, where there is no data.
        data: the rows themselves.
        cpu_dtype: type of the matrix products on this CPU.

    Returns:
        The plan; steps and tokens are None where the number of rows is not known.
    """
    pet, batch, epochs = recipe.pet, recipe.runner_config.batch_size, recipe.runner_config.epochs
    layers = target_layers(pet) if pet is not None else None
    micro, share = recipe.data.micro_batch_tokens, 1.0
    if data is not None:
        rows = len(data.rows)
        # a micro-batch never holds more than the rows of one step; the fullest of some hundred steps is about three
        # standard deviations above their mean, and never above its longest rows
        fullest = float(data.tokens.mean()) * batch + 3 * float(data.tokens.std()) * batch**0.5
        micro = min(micro, round(min(fullest, float(data.tokens.max()) * batch)))
        share = int(data.supervised.sum()) / int(data.tokens.sum())
    # rows that do not fill a step are left over (drop_remainder), as in training
    steps_per_epoch = None if rows is None else rows // batch
    steps = None if steps_per_epoch is None else steps_per_epoch * epochs
    real = None
    if data is not None and steps is not None:
        # which rows an epoch leaves over differs from epoch to epoch: the mean row stands for them
        real = round(float(data.tokens.mean()) * steps * batch)
    exact = Plan(
        recipe=recipe,
        parameters=shape.parameters,
        trainable=shape.lora_parameters(layers, pet.lora_rank) if pet and layers else shape.parameters,
        layers=layers,
        adapter_tensors=2 * shape.layers * len(layers or []),
        adapter=shape.lora_shapes(layers, pet.lora_rank) if pet and layers else {},
        rows=rows,
        steps_per_epoch=steps_per_epoch,
        steps=steps,
        warmup=None if steps is None else warmup_steps(recipe.lr_schedule, steps, steps_per_epoch or 0),
        real_tokens=real,
        supervised_tokens=None if real is None else round(real * share),
        padded_tokens=None if steps is None else steps * batch * recipe.model.model_config.seq_length,
        micro_batch_tokens=micro,
        # forward and backward through the input cost 2 each; weights cost 2 more where they are trained
        flop_per_token=(4 if pet is not None else 6) * shape.matrix_parameters,
        dropout=pet is not None and pet.lora_dropout > 0,
        cpu_dtype=cpu_dtype,
    )
    predicted = {
        "cpu": _memory(shape, exact, share, accelerator=False),
        "accelerator": _memory(shape, exact, share, accelerator=True),
        "accelerator, checkpointing": _memory(shape, exact, share, accelerator=True, checkpointing=True),
    }
    return replace(exact, predicted_bytes=predicted)


def activation_bytes(shape: LlamaShape, lora: list[str] | None, width: int, mask: int) -> float:
    """Return the bytes that one token keeps in one decoder layer for the backward pass.

    Counted from what autograd saves in transformers' Llama, and compared with it in a test.

    Args:
        shape: of the model.
        lora: the layers with LoRA, or None where every weight is trained.
        width: bytes of a value in the matrix products, 2 or 4.
        mask: bytes of one entry of a dropout mask: 1 on CUDA, 4 on the CPU, 0 without dropout.
    """
    h, f = shape.hidden, shape.intermediate
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norms = 2 * 4 * h  # computed in float32, their input is kept
    scores = width * (2 * q + 2 * kv)  # queries, keys, values and what attention made of them
    gate = 3 * width * f  # gate, its activation, and what it is multiplied with
    if lora is not None:
        return norms + scores + gate + sum((width + mask) * shape.linear_layers[name][1] for name in lora)
    # a trained weight's gradient needs the layer's input (q, k and v share theirs), a trained norm's its own
    return norms + scores + gate + width * (2 * h + q + f) + norms


def _memory(
    shape: LlamaShape, plan: Plan, supervised: float, *, accelerator: bool, checkpointing: bool = False
) -> float:
    """Predicted bytes: weights, gradients and moments, activations of one micro-batch, logits."""
    at_zero, of_token = memory_line(shape, plan, supervised, accelerator=accelerator, checkpointing=checkpointing)
    return at_zero + of_token * plan.micro_batch_tokens


def memory_line(
    shape: LlamaShape, plan: Plan, supervised: float, *, accelerator: bool, checkpointing: bool = False
) -> tuple[float, float]:
    """Return the bytes that training takes before its first token, and those of each token of a micro-batch.

    Args:
        shape: of the model.
        plan: the exact figures.
        supervised: share of the tokens that the loss counts.
        accelerator: a card, where frozen weights are held in two bytes; else a CPU, where they are held in four.
        checkpointing: keep the input of every layer only.
    """
    lower = accelerator or plan.cpu_dtype == "bfloat16"
    width, mask = (2 if lower else 4), (1 if accelerator else 4)
    full = plan.layers is None
    # float32 on a CPU; autocast keeps a copy in the type of the products of what is held in another
    frozen = (0 if full else 2 if accelerator else 4) * shape.parameters
    copies = 2 * shape.parameters if lower and (full or not accelerator) else 0
    trained = 16 * plan.trainable  # float32: the weight, its gradient, two moments
    # checkpointing keeps the input of every layer, and all of one layer while that is computed again
    layer = activation_bytes(shape, plan.layers, width, mask if plan.dropout else 0)
    kept = layer + shape.layers * width * shape.hidden if checkpointing else shape.layers * layer
    logits, chunk = 0.0, 0.0
    if full:
        # as computed, in float32, their log-softmax, and the gradients of both
        logits = (width + 16) * shape.vocab * supervised
    else:
        # float32 and, in two bytes, as computed and as gradient; on a CPU another in float32 takes their place
        most = LOGITS_AT_ONCE["cuda" if accelerator else "cpu"]
        chunk = (8 if accelerator else 12) * min(most, shape.vocab * supervised * plan.micro_batch_tokens)
    if accelerator:
        return frozen + copies + trained + chunk, kept + logits
    return PROCESS_BYTES + frozen + copies + trained + chunk, ALLOCATOR * (kept + logits)


def fitting_micro_batch(recipe: Recipe, shape: LlamaShape, data: TrainingRows, dtype: str, free: float) -> int:
    """Return the tokens of a micro-batch that fits a CPU's memory: the recipe's, or fewer; the maths stays the same.

    Args:
        recipe: what is to be trained.
        shape: of its model.
        data: its rows.
        dtype: of the matrix products.
        free: bytes that the process can hold, those it holds already included.

    Raises:
        UserError: not even the longest row fits.
    """
    exact = make_plan(recipe, shape, data=data, cpu_dtype=dtype)
    share = int(data.supervised.sum()) / int(data.tokens.sum())
    at_zero, of_token = memory_line(shape, exact, share, accelerator=False)
    longest = int(data.tokens.max())
    ensure_memory(
        at_zero + of_token * longest,
        f"training with one row of {longest:,} tokens at a time",
        "take fewer LoRA layers, a smaller model or shorter rows (model.model_config.seq_length)",
        free,
    )
    # what a step has at most decides, where the recipe allows more
    wanted = min(recipe.data.micro_batch_tokens, longest * recipe.runner_config.batch_size)
    able = int((free - at_zero) / of_token)
    return recipe.data.micro_batch_tokens if able >= wanted else max(longest, able)


def cpu_seconds_a_token(shape: LlamaShape, plan: Plan, speed: CoreSpeed) -> float:
    """Predict the processor-seconds that training takes for one token.

    Args:
        shape: of the model.
        plan: the exact figures.
        speed: of one core.
    """
    kept = shape.layers * activation_bytes(shape, plan.layers, 4, 4 if plan.dropout else 0)
    seconds = plan.flop_per_token / (PRODUCT_SHARE * speed.products) + PASSES * kept / speed.values
    return seconds / (BF16_GAIN if plan.cpu_dtype == "bfloat16" else 1)


def _predictions(shape: LlamaShape, plan: Plan) -> list[dict[str, str]]:
    """One row a device: predicted memory and time."""
    # without data, every row is taken for a full one
    tokens = plan.real_tokens or plan.padded_tokens
    work = None if tokens is None else tokens * plan.flop_per_token
    speed, cores = core_speed(shape.hidden, shape.intermediate), cpu_threads()
    seconds = cpu_seconds_a_token(shape, plan, speed)
    together = cores if cores == 1 else CORE_SHARE * cores
    table = [
        {
            "device": "this CPU",
            "how": f"{cores} idle core{'s' * (cores > 1)}, {speed.products / 1e9:,.0f} GFLOP/s in float32 each as just "
            f"measured; {plan.cpu_dtype} products, {1 / seconds:,.0f} tokens a processor-second",
            "memory": _bytes(plan.predicted_bytes["cpu"]),
            "time": _duration(None if tokens is None else tokens * seconds / together),
        }
    ]
    for name, (flops, memory) in DEVICES.items():
        need, slower, note = plan.predicted_bytes["accelerator"], 1.0, ""
        if need > memory:
            # the forward pass once more: 2 FLOP on top of 4 (× 1.5) or of 6 (× 1.33)
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
    # cards share a model where the recipe cuts it; else each holds it whole, and they share the rows
    parallel = plan.recipe.raw.get("parallel_config") or {}
    cuts = int(parallel.get("model_parallel") or 1) * int(parallel.get("pipeline_stage") or 1)
    parts = min(ASCEND_CARDS, cuts) if plan.recipe.raw.get("use_parallel", True) else 1
    table.append(
        {
            "device": f"{ASCEND_CARDS} × 910B",
            "how": f"{ASCEND_FLOPS / 1e12:,.0f} TFLOP/s together by public logs of Llama-3-8B, rows padded"
            + (f", a {parts}th of the model on each" if parts > 2 else ", half of the model on each" * (parts == 2)),
            "memory": f"{_bytes(plan.predicted_bytes['accelerator, checkpointing'] / parts)} a card",
            "time": _duration(padded),
        }
    )
    return table


def _table(plan: Plan) -> str:
    """The exact figures."""
    recipe = plan.recipe
    ratio = f"{plan.trainable / plan.parameters:.6f}"
    # the contest is about this model; its own ratio is printed beside the exact one
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
    # without the headings, which are empty, and the rule under them
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
