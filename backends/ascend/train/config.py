"""From a recipe to the configuration that mindformers' Trainer is given: a pure function, no framework needed.

The recipe is a mindformers YAML already. Filled in or replaced here are settings that depend on the device, settings
that depend on the data (steps, warm-up), older names of mindformers 1.1, and settings that must be equal on both
backends.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from backends.ascend.train.job import Job
from backends.ascend.train.parallel import check_recipe, parallel_layout, share_of_worker
from backends.recipe.schedule import warmup_steps
from backends.recipe.types import Recipe
from backends.run.resume import kept_checkpoints
from backends.weights.lora import target_layers
from backends.weights.model_config import checkpoint_differences
from mindrecord.tokens.encode import IGNORE_INDEX

LOADER = "StepOrderDataset"
PACKED_MODEL = "PackedLlamaForCausalLM"  # of backends.ascend.train.registered
# callbacks that mindformers gets …
KEPT_CALLBACKS = ("MFLossMonitor", "SummaryMonitor", "ProfileMonitor")
# … and those whose settings this backend honours itself, or of which it speaks elsewhere
OWN_CALLBACKS = ("CheckpointMonitor", "CheckpointMointor", "ObsMonitor")
# a bound that no norm reaches, for recipes that do not clip
NO_CLIPPING = 1e30
# MindSpore's CPU build has no bfloat16 Gather, no flash attention and no fused norm
CPU_MODEL = {
    "compute_dtype": "float32",
    "layernorm_compute_type": "float32",
    "softmax_compute_type": "float32",
    "rotary_dtype": "float32",
    "param_init_type": "float32",
    "residual_dtype": "float32",
    "embedding_init_type": "float32",
    "use_flash_attention": False,
    "fused_rms_norm": False,
    "use_rope_slice": True,
}


class ReplacedSettings:
    """Sets keys of the configuration and remembers which of the recipe's own values were replaced."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw
        self.changed: list[str] = []
        self.said: list[str] = []

    def set(self, path: str, value: Any) -> None:
        """Set one key without a message.

        Args:
            path: the key with its sections, joined by dots; sections are made where they are missing.
            value: its new value.
        """
        *sections, key = path.split(".")
        place = self.raw
        for section in sections:
            if not isinstance(place.get(section), dict):
                place[section] = {}
            place = place[section]
        place[key] = value

    def replace(self, path: str, value: Any) -> None:
        """Set one key, and remember it if the recipe states another value; arguments as :meth:`set`."""
        place: Any = self.raw
        for key in path.split("."):
            place = place.get(key) if isinstance(place, dict) else None
        if place is not None and place != value:
            self.changed.append(f"{path.removeprefix('model.model_config.')} {place} → {value}")
        self.set(path, value)

    def say(self, line: str) -> None:
        """Remember a line of text for :meth:`lines`."""
        self.said.append(line)

    def lines(self, device: str) -> list[str]:
        """Return lines that name each setting that differs from the recipe."""
        return [*self.said, *([f"for the {device.upper()}: {', '.join(self.changed)}"] if self.changed else [])]


def mindformers_config(recipe: Recipe, job: Job) -> tuple[dict[str, Any], list[str]]:
    """Complete a recipe for mindformers.

    Args:
        recipe: what to train; it stays unchanged.
        job: device, sizes, data and steps of this process.

    Returns:
        The configuration as plain dicts, and lines that name each setting that differs from the recipe.

    Raises:
        UserError: a setting asks for what this backend or this device cannot do.
    """
    check_recipe(recipe, job.device, job.workers)
    raw = copy.deepcopy(recipe.raw)
    config = ReplacedSettings(raw)
    # this project's own section, which mindformers does not know
    raw.pop("data", None)
    _legacy_names(raw, config)
    steps_per_epoch = job.rows // recipe.runner_config.batch_size
    layout = parallel_layout(recipe, job.workers)
    config.set("run_mode", "finetune")  # by it mindformers fills in what a recipe leaves out
    config.set("seed", recipe.seed)
    config.set("output_dir", str(job.folder))
    start = Path(job.start)
    # cut over cards, weights are read from their directory, a piece for each card
    config.set("load_checkpoint", str(start.parent if layout == "recipe" else start))
    config.set("load_ckpt_format", start.suffix.removeprefix("."))
    config.set("use_legacy", True)  # the networks and checkpoints that LoRA works with
    config.set("use_legacy_format", True)
    config.set("auto_trans_ckpt", layout == "recipe")
    config.set("resume_training", False)  # moments and step come back through this backend's own checkpoint
    config.set("only_save_strategy", False)
    config.set("src_strategy_path_or_dir", "")
    config.set("do_eval", False)
    # training never evaluates, and these may name files that are not here
    for name in ("eval_dataset", "eval_dataset_task", "eval_callbacks", "metric", "processor"):
        raw.pop(name, None)
    raw.setdefault("trainer", {}).setdefault("type", "CausalLanguageModelingTrainer")
    raw["trainer"].setdefault("model_name", "llama3_8b")
    # the steps of all epochs are one pass of a dataset that has the rows of all epochs in their order
    config.set("runner_config", {"epochs": 1, "batch_size": share_of_worker(recipe, job.workers), "sink_size": 1})
    # sinking the data into the device works on the CPU, too, but is several times slower there
    config.set("runner_config.sink_mode", job.device == "npu" and recipe.runner_config.sink_mode)
    if recipe.runner_config.sink_mode and recipe.runner_config.sink_size != 1:
        config.say(f"runner_config.sink_size {recipe.runner_config.sink_size} → 1: every step is logged")
    _optimizer(recipe, raw, job.steps, steps_per_epoch)
    _dataset(recipe, raw, job)
    _model(recipe, raw, job, config)
    raw.setdefault("metric", {"type": "PerplexityMetric"})
    _callbacks(raw, config)
    _parallel(recipe, raw, config, job, layout)
    _device(raw, config, job)
    _step(recipe, raw, job, layout)
    return raw, config.lines(job.device)


def _legacy_names(raw: dict[str, Any], config: ReplacedSettings) -> None:
    """Note the names of mindformers 1.1 that are understood as newer ones."""
    notes = []
    kind = (raw.get("optimizer") or {}).get("type")
    if kind and kind != "AdamW":
        # mindspore's AdamWeightDecay, under the first name, does not correct the moments' bias; AdamW does
        note = " (with bias correction)" if kind in ("FP32StateAdamWeightDecay", "AdamWeightDecay") else ""
        notes.append(f"optimizer {kind} → AdamW{note}")
    for callback in [*(raw.get("callbacks") or []), *(raw.get("eval_callbacks") or [])]:
        if callback.get("type") == "CheckpointMointor":
            notes.append("CheckpointMointor is CheckpointMonitor")
        if callback.get("type") == "ObsMonitor":
            notes.append("ObsMonitor left out (Huawei's cloud storage)")
    if notes:
        config.say(f"names of mindformers 1.x: {', '.join(dict.fromkeys(notes))}")


def _callbacks(raw: dict[str, Any], config: ReplacedSettings) -> None:
    """Keep the callbacks that report; checkpoints and the log are this backend's own."""
    kinds = [callback.get("type") for callback in raw.get("callbacks") or []]
    odd = [kind for kind in kinds if kind not in (*KEPT_CALLBACKS, *OWN_CALLBACKS)]
    if odd:
        config.say(f"callbacks left out: {', '.join(odd)}")
    kept = [callback for callback in raw.get("callbacks") or [] if callback.get("type") in KEPT_CALLBACKS]
    raw["callbacks"] = kept or [{"type": "MFLossMonitor"}]


def _optimizer(recipe: Recipe, raw: dict[str, Any], steps: int, steps_per_epoch: int) -> None:
    schedule = recipe.lr_schedule
    raw["optimizer"] = {
        "type": "AdamW",
        "betas": list(recipe.optimizer.adam_betas),
        "eps": recipe.optimizer.eps,
        "weight_decay": recipe.optimizer.weight_decay,
    }
    raw["lr_schedule"] = {
        "type": schedule.type,
        "learning_rate": schedule.learning_rate,
        "warmup_lr_init": schedule.warmup_lr_init,
        # counted here, so that a resumed run, whose dataset is shorter, has the whole run's schedule
        "warmup_steps": warmup_steps(schedule, steps, steps_per_epoch),
        "total_steps": schedule.total_steps if schedule.total_steps > 0 else steps,
    }
    if schedule.type == "CosineWithWarmUpLR":
        raw["lr_schedule"]["lr_end"] = schedule.lr_end


def _dataset(recipe: Recipe, raw: dict[str, Any], job: Job) -> None:
    dataset = dict(raw.get("train_dataset") or {})
    dataset.pop("tokenizer", None)
    dataset |= {
        "data_loader": {
            "type": LOADER,
            "dataset_dir": str(job.data),
            "rows": job.rows,
            "step_rows": recipe.runner_config.batch_size,
            "first_step": job.first_step,
            "steps": job.steps,
            "seed": recipe.seed,
            "shuffle": recipe.shuffle,
        },
        "input_columns": ["input_ids", "labels"],
        # more reading threads than cores would take them from the training
        "num_parallel_workers": min(int(dataset.get("num_parallel_workers", 8)), job.threads),
        "python_multiprocessing": False,
        "drop_remainder": True,
        "batch_size": share_of_worker(recipe, job.workers),
        "repeat": 1,
        "numa_enable": bool(dataset.get("numa_enable", False)),
        "prefetch_size": int(dataset.get("prefetch_size", 1)),
    }
    raw["train_dataset"] = dataset
    raw["train_dataset_task"] = {"type": "CausalLanguageModelDataset", "dataset_config": dataset}


def _model(recipe: Recipe, raw: dict[str, Any], job: Job, config: ReplacedSettings) -> None:
    model = raw.setdefault("model", {})
    model.setdefault("arch", {"type": "LlamaForCausalLM"})
    stated = model.setdefault("model_config", {})
    stated.pop("max_position_embedding", None)
    stated.setdefault("type", "LlamaConfig")
    for line in checkpoint_differences(recipe):
        config.say(line)
    stated |= job.sizes
    # other ways to say sizes that job.sizes states outright
    for key in ("ffn_dim_multiplier", "multiple_of", "head_dim"):
        stated.pop(key, None)
    stated |= {
        "batch_size": share_of_worker(recipe, job.workers),
        "seq_length": recipe.model.model_config.seq_length,
        "pad_token_id": job.pad_id,
        "bos_token_id": job.bos_id,
        "ignore_token_id": IGNORE_INDEX,
        "use_past": False,
        "checkpoint_name_or_path": "",
    }
    if job.device == "npu":  # on the CPU both are float32, and that is said where the recipe has another
        stated["compute_dtype"] = recipe.model.model_config.compute_dtype
        stated["param_init_type"] = recipe.model.model_config.param_init_type
    if job.packed:
        # mindformers' own model would let the conversations of a packed row see each other
        model["arch"] = {"type": PACKED_MODEL}
    pet = stated.get("pet_config") or {}
    if recipe.pet is None:
        stated.pop("pet_config", None)
        # trained weights are kept in float32, as on CUDA; the products have compute_dtype
        config.set("model.model_config.param_init_type", "float32")
        return
    alpha = recipe.pet.lora_alpha
    # every key is written out: mindformers has defaults of its own, such as a dropout of 0.01
    stated["pet_config"] = pet | {
        "pet_type": "lora",
        "lora_rank": recipe.pet.lora_rank,
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "lora_dropout": recipe.pet.lora_dropout,
        "target_modules": "|".join(f".*{name}" for name in target_layers(recipe.pet)),
        "exclude_layers": None,
        # mindformers would take the frozen weights' type; LoRA is trained in float32 on both backends
        "param_init_type": "float32",
    }


def _parallel(recipe: Recipe, raw: dict[str, Any], config: ReplacedSettings, job: Job, layout: str) -> None:
    raw.setdefault("micro_batch_interleave_num", 1)
    if raw.get("moe_config") is None:
        raw.pop("moe_config", None)
    if layout == "recipe":
        config.replace("use_parallel", True)
        raw.setdefault("parallel", {}).setdefault("parallel_mode", 1)
        raw["parallel"].setdefault("full_batch", True)
        raw["parallel"].setdefault("gradients_mean", False)
        callback = recipe.checkpoint_callback
        every, keep = int(callback.get("save_checkpoint_steps", -1)), kept_checkpoints(recipe)
        # no worker holds a whole model, so mindformers itself writes each card's pieces
        raw["callbacks"].append(
            {
                "type": "CheckpointMonitor",
                "prefix": callback.get("prefix", "llama"),
                "save_checkpoint_steps": every if every > 0 else max(1, job.steps // keep),
                "keep_checkpoint_max": keep,
                "integrated_save": False,
                "async_save": False,
                "checkpoint_format": "safetensors",
            }
        )
        return
    # one model per worker: whatever cuts the model over cards is switched off
    config.replace("use_parallel", layout == "data")
    for key in ("data_parallel", "model_parallel", "pipeline_stage", "micro_batch_num"):
        config.replace(f"parallel_config.{key}", 1)
    raw["parallel_config"]["use_seq_parallel"] = False
    raw["parallel_config"].setdefault("vocab_emb_dp", True)
    raw["parallel"] = {
        "parallel_mode": 0,
        # each worker's gradient is its share of the step's token mean, so that they are summed
        "gradients_mean": False,
        "enable_alltoall": False,
        "full_batch": False,
        "search_mode": "sharding_propagation",
        "enable_parallel_optimizer": False,
    }
    if layout == "data":
        # the network then returns sum and number of tokens apart, as DataParallelTrainOneStepCell needs
        raw["calculate_per_token_loss"] = True


def _device(raw: dict[str, Any], config: ReplacedSettings, job: Job) -> None:
    context = raw.setdefault("context", {})
    context["mode"] = 0  # graph mode
    if job.device == "npu":
        config.set("context.device_target", "Ascend")
        context.setdefault("max_call_depth", 10000)
        return
    if isinstance(raw.get("recompute_config"), dict):
        for key in ("recompute", "select_recompute"):
            config.replace(f"recompute_config.{key}", False)
    raw["context"] = {
        "mode": 0,
        "device_target": "CPU",
        "max_call_depth": context.get("max_call_depth", 10000),
        "device_id": 0,
    }
    for key, value in CPU_MODEL.items():
        config.replace(f"model.model_config.{key}", value)
    for key in ("auto_tune", "profile"):
        if raw.get(key):
            config.replace(key, False)


def _step(recipe: Recipe, raw: dict[str, Any], job: Job, layout: str) -> None:
    wrapper = recipe.runner_wrapper
    kinds = {
        ("cpu", "one"): "CPUTrainOneStepCell",
        ("cpu", "data"): "CPUDataParallelTrainOneStepCell",
        ("npu", "data"): "DataParallelTrainOneStepCell",
    }
    raw["runner_wrapper"] = {
        "type": kinds.get((job.device, layout), "MFTrainOneStepCell"),
        "scale_sense": wrapper.scale_sense,
        # always on: mindformers computes the norm, which the log needs, only where it clips
        "use_clip_grad": True,
        "max_grad_norm": wrapper.max_grad_norm if wrapper.use_clip_grad else NO_CLIPPING,
    }
