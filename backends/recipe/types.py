"""What a recipe says, as types: the keys of a mindformers YAML that both backends read, plus the block ``data:``.

What mindformers alone reads passes through untouched in ``Recipe.raw``; :mod:`backends.recipe` reads the file and
checks it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class RunnerConfig:
    """How often and how much: one optimizer step takes ``batch_size`` rows, whatever the number of devices."""

    epochs: int = 1
    batch_size: int = 8
    sink_mode: bool = False
    sink_size: int = 1
    gradient_accumulation_steps: int = 1


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with mindformers' defaults; both spellings of the betas are accepted."""

    type: str = "AdamW"
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    beta1: float | None = None
    beta2: float | None = None
    eps: float = 1e-8
    weight_decay: float = 0.0
    learning_rate: float | None = None

    @property
    def adam_betas(self) -> tuple[float, float]:
        """The decay rates of the two moments."""
        first = self.betas[0] if self.beta1 is None else self.beta1
        second = self.betas[1] if self.beta2 is None else self.beta2
        return first, second


@dataclass(frozen=True)
class LrSchedule:
    """mindformers' warm-up cosine; see :mod:`backends.recipe.schedule`."""

    type: str = "CosineWithWarmUpLR"
    learning_rate: float = 1e-5
    lr_end: float = 0.0
    warmup_lr_init: float = 0.0
    warmup_ratio: float | None = None
    warmup_steps: int = 0
    warmup_epochs: int | None = None
    total_steps: int = -1


@dataclass(frozen=True)
class PetConfig:
    """LoRA: ``target_modules`` is a regular expression over mindformers' names (wq wk wv wo w1 w2 w3)."""

    pet_type: str = "lora"
    lora_rank: int = 8
    lora_alpha: float = 16
    lora_dropout: float = 0.0
    target_modules: str = ".*wq|.*wv"
    exclude_layers: list[str] | None = None


@dataclass(frozen=True)
class ModelConfig:
    """mindformers' LlamaConfig. The CUDA backend takes sizes from here only when it starts from random weights.

    ``head_dim`` alone is not mindformers': width of a head where it is not ``hidden_size / num_heads``, as in Gemma.
    """

    type: str = "LlamaConfig"
    seq_length: int = 256
    hidden_size: int = 4096
    num_layers: int = 32
    num_heads: int = 32
    n_kv_heads: int | None = None
    head_dim: int | None = None
    vocab_size: int = 128256
    intermediate_size: int | None = None
    multiple_of: int = 256
    ffn_dim_multiplier: float | None = None
    max_position_embedding: int | None = None
    rms_norm_eps: float = 1e-5
    theta: float = 500000.0
    tie_word_embeddings: bool = False
    init_method_std: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    ignore_token_id: int = -100
    compute_dtype: str = "bfloat16"
    param_init_type: str = "bfloat16"
    layernorm_compute_type: str = "float32"
    softmax_compute_type: str = "float32"
    rotary_dtype: str = "float32"
    residual_dtype: str | None = None
    embedding_init_type: str | None = None
    batch_size: int = 1
    use_past: bool = False
    scaling_factor: float = 1.0
    extend_method: str = "None"
    use_flash_attention: bool = True
    use_rope_slice: bool = False
    fused_rms_norm: bool = True
    qkv_concat: bool = False
    qkv_has_bias: bool = False
    attn_proj_has_bias: bool = False
    offset: int | list[int] = 0
    fine_grain_interleave: int = 1
    checkpoint_name_or_path: str | None = None
    repetition_penalty: float = 1.0
    max_decode_length: int = 512
    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    block_size: int = 16
    num_blocks: int = 512
    is_dynamic: bool = False
    top_k: int = 3
    top_p: float = 1.0
    do_sample: bool = False
    pet_config: PetConfig | None = None

    @property
    def feed_forward_size(self) -> int:
        """Width of the feed-forward layer; without ``intermediate_size`` it follows Llama's rule."""
        if self.intermediate_size is not None:
            return self.intermediate_size
        width = int(8 * self.hidden_size / 3)
        if self.ffn_dim_multiplier is not None:
            width = int((self.ffn_dim_multiplier + 0.01) * width)
        return self.multiple_of * -(-width // self.multiple_of)

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.n_kv_heads or self.num_heads


@dataclass(frozen=True)
class ArchConfig:
    """The network's class in mindformers."""

    type: str = "LlamaForCausalLM"


@dataclass(frozen=True)
class Model:
    """``model:`` of the YAML."""

    model_config: ModelConfig = field(default_factory=ModelConfig)
    arch: ArchConfig = field(default_factory=ArchConfig)


@dataclass(frozen=True)
class RunnerWrapper:
    """The training step: clipping of the gradient's global norm, at 1.0 unless ``max_grad_norm`` says otherwise."""

    type: str = "MFTrainOneStepCell"
    scale_sense: float = 1.0
    use_clip_grad: bool = True
    max_grad_norm: float = 1.0


@dataclass(frozen=True)
class DataConfig:
    """The one block that mindformers does not know: where the rows come from and how they become tokens."""

    train: list[str] = field(default_factory=list)
    template: str = "vicuna"
    tokenizer: str | None = None
    over_length: Literal["drop", "truncate", "error"] = "drop"
    max_unsupervised: float = 0.01
    packing: bool = True
    micro_batch_tokens: int = 8192


@dataclass(frozen=True)
class Recipe:
    """A whole recipe, checked. ``raw`` is the merged YAML, as it is stored beside the weights."""

    seed: int = 0
    output_dir: str = "./output"
    load_checkpoint: str = ""
    run_mode: str = "finetune"
    resume_training: bool = False
    runner_config: RunnerConfig = field(default_factory=RunnerConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    lr_schedule: LrSchedule = field(default_factory=LrSchedule)
    runner_wrapper: RunnerWrapper = field(default_factory=RunnerWrapper)
    model: Model = field(default_factory=Model)
    data: DataConfig = field(default_factory=DataConfig)
    train_dataset: dict[str, Any] = field(default_factory=dict)
    callbacks: list[dict[str, Any]] = field(default_factory=list)
    eval_callbacks: list[dict[str, Any]] = field(default_factory=list)
    do_eval: bool = False
    layer_scale: bool = False
    lr_scale: bool = False
    raw: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    path: str = field(default="", compare=False)

    @property
    def pet(self) -> PetConfig | None:
        """The LoRA settings; None means that every parameter is trained."""
        return self.model.model_config.pet_config

    @property
    def shuffle(self) -> bool:
        """Whether each epoch takes the rows in its own order (``train_dataset.data_loader.shuffle``)."""
        return bool((self.train_dataset.get("data_loader") or {}).get("shuffle", True))

    @property
    def checkpoint_callback(self) -> dict[str, Any]:
        """The CheckpointMonitor block of ``callbacks``, or an empty mapping."""
        for callback in self.callbacks:
            if callback.get("type") in ("CheckpointMonitor", "CheckpointMointor"):
                return callback
        return {}
