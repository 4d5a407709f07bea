"""What a recipe says, as types: the keys of a mindformers YAML that both backends read, plus the block ``data:``.

The types check their values, whether a file or Python code sets them: an unknown key, a wrong type or a value that
makes no sense raises pydantic's ``ValidationError``, which :mod:`backends.recipe.load` turns into one line. They are
pydantic's dataclasses and not its models, because a model reserves the name ``model_config``, which is a key of the
YAML. What only mindformers reads is kept unchanged in ``Recipe.raw``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from dataclasses import field
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, Strict
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from mindrecord.tokens.encode import IGNORE_INDEX, OverLength

FORBID = ConfigDict(extra="forbid")
FLOAT_TYPES = ("float16", "bfloat16", "float32")


def _whole(value: Any) -> Any:
    # YAML reads 8.0 as a float; a whole number is meant
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _number(value: Any) -> Any:
    # YAML 1.1 reads 1e-4, which has no point, as text; a number is meant
    is_number = isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?e[+-]?\d+", value, re.IGNORECASE)
    return float(value) if is_number else value


def _texts(value: Any) -> Any:
    # one file may stand without a list around it
    return ([value] if value else []) if isinstance(value, str | None) else value


def where(holds: Callable[[Any], bool], expected: str) -> AfterValidator:
    """Return a validator that refuses values for which ``holds`` is false.

    Args:
        holds: says whether a value is accepted.
        expected: what would be accepted, for the message.
    """

    def check(value: Any) -> Any:
        if not holds(value):
            raise ValueError(expected)
        return value

    return AfterValidator(check)


T = TypeVar("T")
# Types are strict, because pydantic would otherwise read "yes" as True, True as 1 and "5" as 5. A key without a value
# is YAML's null: an empty text, list or section.
Bool = Annotated[bool, Strict()]
Int = Annotated[int, Strict(), BeforeValidator(_whole)]
Float = Annotated[float, Strict(), BeforeValidator(_number), Field(allow_inf_nan=False)]
Text = Annotated[str, Strict(), BeforeValidator(lambda value: "" if value is None else value)]
Texts = Annotated[list[str], BeforeValidator(_texts)]
Section = Annotated[T, BeforeValidator(lambda value: {} if value is None else value)]
Many = Annotated[T, BeforeValidator(lambda value: [] if value is None else value)]

Positive = Annotated[Int, Field(ge=1)]
Count = Annotated[Int, Field(ge=0)]
Above0 = Annotated[Float, Field(gt=0)]
From0 = Annotated[Float, Field(ge=0)]
Share = Annotated[Float, Field(ge=0, le=1)]
ShareBelow1 = Annotated[Float, Field(ge=0, lt=1)]
FloatType = Annotated[Text, where(FLOAT_TYPES.__contains__, ", ".join(FLOAT_TYPES))]


@dataclass(frozen=True, config=FORBID)
class RunnerConfig:
    """Epochs, and rows of a step: an optimizer step takes ``batch_size`` rows, whatever the number of devices."""

    epochs: Positive = 1
    batch_size: Positive = 8
    sink_mode: Bool = False
    sink_size: Int = 1
    gradient_accumulation_steps: Annotated[
        Int,
        where(
            lambda steps: steps == 1,
            "1: a step takes batch_size rows, and data.micro_batch_tokens splits them to fit the memory",
        ),
    ] = 1


@dataclass(frozen=True, config=FORBID)
class OptimizerConfig:
    """AdamW with mindformers' defaults; both spellings of the betas are accepted."""

    type: Text = "AdamW"
    betas: Annotated[list[ShareBelow1], Field(min_length=2, max_length=2)] = field(default_factory=lambda: [0.9, 0.95])
    beta1: ShareBelow1 | None = None
    beta2: ShareBelow1 | None = None
    eps: Above0 = 1e-8
    weight_decay: From0 = 0.0
    learning_rate: From0 | None = None

    @property
    def adam_betas(self) -> tuple[float, float]:
        """The decay rates of the two moments."""
        # a beta of its own is what somebody wrote; the pair may be the default
        first = self.betas[0] if self.beta1 is None else self.beta1
        second = self.betas[1] if self.beta2 is None else self.beta2
        return first, second


@dataclass(frozen=True, config=FORBID)
class LrSchedule:
    """mindformers' warm-up cosine; see :mod:`backends.recipe.schedule`."""

    type: Text = "CosineWithWarmUpLR"
    learning_rate: From0 = 1e-5
    lr_end: From0 = 0.0
    warmup_lr_init: From0 = 0.0
    warmup_ratio: Share | None = None
    warmup_steps: Count = 0
    warmup_epochs: Count | None = None
    total_steps: Annotated[
        Int, where(lambda steps: steps == -1 or steps > 0, "-1 (the steps of the run) or at least 1")
    ] = -1


@dataclass(frozen=True, config=FORBID)
class PetConfig:
    """LoRA: ``target_modules`` is a regular expression over mindformers' names (wq wk wv wo w1 w2 w3)."""

    pet_type: Annotated[Text, where(lambda kind: kind.lower() == "lora", "lora, or no pet_config at all")] = "lora"
    lora_rank: Positive = 8
    lora_alpha: Above0 = 16
    lora_dropout: ShareBelow1 = 0.0
    target_modules: Annotated[Text, where(bool, "a regular expression")] = ".*wq|.*wv"
    exclude_layers: Texts | None = None


@dataclass(frozen=True, config=FORBID)
class ModelConfig:
    """mindformers' LlamaConfig. The CUDA backend takes sizes from here only when it starts from random weights.

    ``head_dim`` alone is not mindformers': width of a head where it is not ``hidden_size / num_heads``, as in Gemma.
    """

    type: Text = "LlamaConfig"
    seq_length: Positive = 256
    hidden_size: Positive = 4096
    num_layers: Positive = 32
    num_heads: Positive = 32
    n_kv_heads: Positive | None = None
    head_dim: Positive | None = None
    vocab_size: Positive = 128256
    intermediate_size: Positive | None = None
    multiple_of: Positive = 256
    ffn_dim_multiplier: Above0 | None = None
    max_position_embedding: Positive | None = None
    rms_norm_eps: Above0 = 1e-5
    theta: Above0 = 500000.0
    tie_word_embeddings: Bool = False
    init_method_std: From0 = 0.02
    bos_token_id: Int | None = None
    eos_token_id: Int | list[Int] | None = None
    pad_token_id: Int | None = None
    # rows are written with this label, so another one would be taken for a token
    ignore_token_id: Annotated[Int, where(lambda label: label == IGNORE_INDEX, str(IGNORE_INDEX))] = IGNORE_INDEX
    compute_dtype: FloatType = "bfloat16"
    param_init_type: FloatType = "bfloat16"
    layernorm_compute_type: Text = "float32"
    softmax_compute_type: Text = "float32"
    rotary_dtype: Text = "float32"
    residual_dtype: str | None = None
    embedding_init_type: str | None = None
    batch_size: Int = 1
    use_past: Bool = False
    scaling_factor: Float = 1.0
    extend_method: Text = "None"
    use_flash_attention: Bool = True
    use_rope_slice: Bool = False
    fused_rms_norm: Bool = True
    qkv_concat: Bool = False
    qkv_has_bias: Bool = False
    attn_proj_has_bias: Bool = False
    offset: Many[Int | list[Int]] = 0
    fine_grain_interleave: Int = 1
    checkpoint_name_or_path: str | None = None
    repetition_penalty: Float = 1.0
    max_decode_length: Int = 512
    max_new_tokens: Int | None = None
    min_new_tokens: Int | None = None
    block_size: Int = 16
    num_blocks: Int = 512
    is_dynamic: Bool = False
    top_k: Int = 3
    top_p: Float = 1.0
    do_sample: Bool = False
    pet_config: PetConfig | None = None

    @property
    def feed_forward_size(self) -> int:
        """Width of the feed-forward layer; without ``intermediate_size`` it follows Llama's rule."""
        if self.intermediate_size is not None:
            return self.intermediate_size
        # in the order and with the roundings of mindformers' LlamaFeedForward (models/llama/llama_layer.py)
        width = 4 * self.hidden_size
        if self.ffn_dim_multiplier is not None:
            width = int((self.ffn_dim_multiplier + 0.01) * width)
        width = int(2 * width / 3)
        # -(-a // b) is a / b, rounded up
        return self.multiple_of * -(-width // self.multiple_of)

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.n_kv_heads or self.num_heads


@dataclass(frozen=True, config=FORBID)
class ArchConfig:
    """The network's class in mindformers."""

    type: Annotated[
        Text, where(lambda name: name.endswith("ForCausalLM"), "a causal language model, as LlamaForCausalLM")
    ] = "LlamaForCausalLM"


@dataclass(frozen=True, config=FORBID)
class Model:
    """``model:`` of the YAML."""

    model_config: Section[ModelConfig] = field(default_factory=ModelConfig)
    arch: Section[ArchConfig] = field(default_factory=ArchConfig)


@dataclass(frozen=True, config=FORBID)
class RunnerWrapper:
    """The training step: clipping of the gradient's global norm, at 1.0 unless ``max_grad_norm`` says otherwise."""

    type: Text = "MFTrainOneStepCell"
    scale_sense: Float = 1.0
    use_clip_grad: Bool = True
    max_grad_norm: Above0 = 1.0


@dataclass(frozen=True, config=FORBID)
class DataConfig:
    """The one block that mindformers does not know: where the rows come from and how they become tokens."""

    train: Texts = field(default_factory=list)
    template: Text = "vicuna"
    tokenizer: str | None = None
    over_length: OverLength = "drop"
    max_unsupervised: Share = 0.01
    packing: Bool = True
    micro_batch_tokens: Positive = 8192


class Callback(TypedDict, total=False):
    """One of mindformers' callbacks; its other keys pass through. ``CheckpointMonitor`` is what both backends read."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    type: Text
    save_checkpoint_steps: Int
    keep_checkpoint_max: Positive


@dataclass(frozen=True, config=FORBID)
class Recipe:
    """A whole recipe, checked. ``raw`` is the merged YAML, as it is stored beside the weights."""

    seed: Count = 0
    output_dir: Text = "./output"
    load_checkpoint: Text = ""
    run_mode: Annotated[Text, where(lambda mode: mode in ("finetune", "train"), "finetune or train")] = "finetune"
    resume_training: Bool = False
    runner_config: Section[RunnerConfig] = field(default_factory=RunnerConfig)
    optimizer: Section[OptimizerConfig] = field(default_factory=OptimizerConfig)
    lr_schedule: Section[LrSchedule] = field(default_factory=LrSchedule)
    runner_wrapper: Section[RunnerWrapper] = field(default_factory=RunnerWrapper)
    model: Section[Model] = field(default_factory=Model)
    data: Section[DataConfig] = field(default_factory=DataConfig)
    train_dataset: Section[dict[str, Any]] = field(default_factory=dict)
    callbacks: Many[list[Callback]] = field(default_factory=list)
    eval_callbacks: Many[list[Callback]] = field(default_factory=list)
    do_eval: Bool = False
    layer_scale: Bool = False
    lr_scale: Bool = False
    # not compared: raw repeats the settings, and path says where they lie
    raw: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    path: Text = field(default="", compare=False)

    @property
    def pet(self) -> PetConfig | None:
        """The LoRA settings; None means that every parameter is trained."""
        return self.model.model_config.pet_config

    @property
    def shuffle(self) -> bool:
        """Whether each epoch takes the rows in its own order (``train_dataset.data_loader.shuffle``)."""
        # "or {}": a key without a value is null in YAML
        return bool((self.train_dataset.get("data_loader") or {}).get("shuffle", True))

    @property
    def checkpoint_callback(self) -> Callback:
        """The CheckpointMonitor block of ``callbacks``, or an empty mapping."""
        for callback in self.callbacks:
            # the second is the spelling of mindformers 1.x
            if callback.get("type") in ("CheckpointMonitor", "CheckpointMointor"):
                return callback
        return {}

    @property
    def settings(self) -> dict[str, Any]:
        """Every typed setting by the key path that an override names it by."""
        values = dataclasses.asdict(self)
        del values["raw"], values["path"]
        return dict(_flat(values, ""))


def _flat(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        # an empty section has no settings inside and stands for itself
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# with a PetConfig: of None, the default, no settings could be listed
LEAF_PATHS = list(Recipe(model=Model(model_config=ModelConfig(pet_config=PetConfig()))).settings)
"""Key paths of all typed settings."""
