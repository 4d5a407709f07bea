"""Models and adapters as GGUF files that llama.cpp and Ollama read.

The layout is that of llama.cpp's ``convert_hf_to_gguf.py`` and ``convert_lora_to_gguf.py``: the inverse of
:mod:`backends.weights.gguf_model`. Matrices are written in one type, norms and biases in float32, one tensor in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from backends.exchange.adapters import read_adapter_config
from backends.weights.files import ADAPTER_WEIGHTS
from backends.weights.gguf_model import FAMILIES, LAYER_MODULES, OUTSIDE_LAYERS, ROPE_FREQS, open_gguf_tensors
from backends.weights.llama import LlamaShape, check_shapes
from backends.weights.model_config import config_place, has_config, load_config
from backends.weights.rotary import llama3_divisors, pairs_from_halves, rotary_settings
from backends.weights.safetensors_files import Tensors, open_tensors
from converters.common.console import say
from converters.common.errors import UsageError, UserError
from converters.common.files import atomic
from converters.tokenizers.gguf_fields import Field, vocabulary_fields

GgufType = Literal["F32", "F16", "BF16", "Q8_0"]
# numbers that llama.cpp shows as the type of a file: llama_ftype
FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}
Q8_0_BLOCK = 32
LARGEST_F16 = 65504.0
# a tensor that is to be written: its shape, its type in the file, and what reads it
Stored = tuple[tuple[int, ...], str, Callable[[], np.ndarray]]
NOT_PLAIN = "a LoRA in GGUF has no such thing; merge the adapter and write the model"
_OUTSIDE = {hf: gguf for gguf, hf in OUTSIDE_LAYERS.items()}
_MODULES = {hf: gguf for gguf, hf in LAYER_MODULES.items()}


@dataclass(frozen=True)
class WrittenLora:
    """An adapter that was written as GGUF.

    Attributes:
        path: the adapter.
        out: the file.
        rank: r.
        alpha: llama.cpp scales by alpha / r.
        layers: number of linear layers with LoRA.
    """

    path: Path
    out: Path
    rank: int
    alpha: float
    layers: int

    def as_text(self) -> str:
        """What was done, in a line."""
        return f"{self.path}: rank {self.rank}, alpha {self.alpha:g}, {self.layers} linear layers → {self.out}"


def gguf_name(name: str) -> str:
    """Return the name in GGUF of a Hugging Face weight; the inverse of ``backends.weights.gguf_model.hf_name``.

    Raises:
        UserError: no Llama, Qwen2 or Gemma has it.
    """
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    parts = name.split(".")
    module = ".".join(parts[3:-1])
    if name.startswith("model.layers.") and module in _MODULES:
        return f"blk.{parts[2]}.{_MODULES[module]}.{parts[-1]}"
    raise UserError(f"{name}: no Llama, Qwen2 or Gemma has a weight of this name")


def write_gguf(
    tensors: Tensors,
    config: Mapping[str, Any],
    tokenizer: Path,
    out: Path,
    *,
    kind: GgufType = "F16",
    name: str = "",
    chat_template: str | None = None,
    adds_bos: bool | None = None,
) -> None:
    """Write a whole model as one GGUF file.

    Args:
        tensors: its weights by Hugging Face name.
        config: its Hugging Face configuration.
        tokenizer: directory with its ``tokenizer.json``.
        out: the file; appears when it is whole.
        kind: type of the matrices.
        name: of the model, for people.
        chat_template: in Jinja, as ``tokenizer_config.json`` has it.
        adds_bos: every text begins with BOS; None: as the tokenizer says.

    Raises:
        UserError: another family, weights that do not fit the configuration, a tokenizer that GGUF cannot say, or the
            disk is full.
    """
    shape = _shape(config, tensors.path)
    expected = shape.parameter_shapes()
    check_shapes({one: tensors.shape(one) for one in tensors}, expected, tensors.path, "its configuration")
    fields = [*_model_fields(config, shape, name or tensors.path.name, kind)]
    fields += vocabulary_fields(tokenizer, shape.vocab, chat_template=chat_template, adds_bos=adds_bos)
    odd = [one for one in expected if kind == "Q8_0" and len(expected[one]) == 2 and expected[one][1] % Q8_0_BLOCK]
    if odd:
        say(
            f"note: {len(odd)} matrices, {odd[0]} first, are not a multiple of {Q8_0_BLOCK} wide and are written as F16"
        )
    stored: dict[str, Stored] = {}
    for one, widths in expected.items():
        into = "F32" if len(widths) == 1 else "F16" if one in odd else kind
        stored[gguf_name(one)] = (widths, into, _reader(tensors, one, shape))
    base, scaling = rotary_settings(config)
    if scaling.get("rope_type") == "llama3":
        divisors = llama3_divisors(scaling, base, shape.head_dim)
        stored[ROPE_FREQS] = (divisors.shape, "F32", lambda: divisors)
    with _writer(out, shape.architecture, fields) as add:
        add(stored)


def largest_error(tensors: Tensors, file: Path) -> float:
    """Return by how much the tensors of a GGUF file differ from those it was made of: the largest |ΔW| / |W|.

    Norms are Frobenius norms.

    Raises:
        UserError: a tensor is missing, or has another shape.
    """
    written = open_gguf_tensors(file)
    check_shapes(
        {one: written.shape(one) for one in written}, {one: tensors.shape(one) for one in tensors}, file, "its source"
    )
    worst = 0.0
    for one in tensors:
        before = tensors.read(one).astype(np.float32)
        size = float(np.linalg.norm(before))
        difference = float(np.linalg.norm(written.read(one).astype(np.float32) - before))
        # zeros stay zeros
        worst = max(worst, difference / size if size else difference)
    return worst


def write_gguf_lora(path: str | Path, out: str | Path, *, base: str | Path | None = None) -> WrittenLora:
    """Write a PEFT adapter as the GGUF file that llama.cpp takes with ``--lora``.

    Args:
        path: adapter directory or run.
        out: a ``.gguf`` file.
        base: the frozen model, whose configuration says how q and k are ordered; None takes the recorded one.

    Returns:
        What was written.

    Raises:
        UsageError: there is no adapter, or no base is known.
        UserError: the adapter does more than GGUF can say, or does not fit its base.
    """
    folder, target = Path(path), Path(out)
    if target.suffix != ".gguf":
        raise UsageError(f"{target}: name a .gguf file")
    config = read_adapter_config(folder, NOT_PLAIN)
    below = base or config.get("base_model_name_or_path")
    if not below or not has_config(below):
        raise UsageError(f"{folder}: its base {below or '(not recorded)'} is not there; name it with --base")
    model = load_config(below)
    shape = _shape(model, config_place(below))
    tensors = open_tensors(folder / ADAPTER_WEIGHTS)
    weights = shape.parameter_shapes()
    stored: dict[str, Stored] = {}
    for name in tensors:
        weight, half = _adapted(name, folder)
        if weight not in weights:
            raise UserError(f"{folder}: {name} changes a layer that {below} does not have")
        wanted = (config["r"], weights[weight][1]) if half == "A" else (weights[weight][0], config["r"])
        if tensors.shape(name) != wanted:
            raise UserError(f"{folder}: {name} is {list(tensors.shape(name))}, {list(wanted)} is expected on {below}")
        turned = half == "B"
        read = _reader(tensors, name, shape, weight if turned else None)
        stored[f"{gguf_name(weight)}.lora_{half.lower()}"] = (wanted, "F32", read)
    if not stored:
        raise UserError(f"{folder}: holds no LoRA matrices")
    lonely = sorted(one for one in stored if f"{one[:-1]}{'b' if one.endswith('a') else 'a'}" not in stored)
    if lonely:
        raise UserError(f"{folder}: {lonely[0]} has no partner; the adapter is not whole")
    alpha = float(config["lora_alpha"])
    fields = [
        Field("general.type", "adapter"),
        Field("general.name", folder.resolve().name),
        Field("adapter.type", "lora"),
        Field("adapter.lora.alpha", alpha, "float32"),
    ]
    with _writer(target, shape.architecture, fields) as add:
        add(stored)
    return WrittenLora(folder, target, int(config["r"]), alpha, len(stored) // 2)


def _adapted(name: str, folder: Path) -> tuple[str, str]:
    """Return the weight that a LoRA matrix belongs to, and which of the two it is."""
    for half in "AB":
        ending = f".lora_{half}.weight"
        if name.startswith("base_model.model.") and name.endswith(ending):
            return f"{name.removeprefix('base_model.model.').removesuffix(ending)}.weight", half
    raise UserError(f"{folder}: {name} is no LoRA matrix; {NOT_PLAIN}")


def _shape(config: Mapping[str, Any], where: Path) -> LlamaShape:
    if config.get("model_type") not in FAMILIES:
        raise UserError(f"{where}: model_type {config.get('model_type')!r}; only {', '.join(FAMILIES)} are written")
    return LlamaShape.from_config(config, where)


def _reader(tensors: Tensors, name: str, shape: LlamaShape, weight: str | None = None) -> Callable[[], np.ndarray]:
    """Return a reader of one tensor in float32 and in llama.cpp's form.

    Args:
        tensors: holds it.
        name: of the tensor.
        shape: of the model.
        weight: the weight whose rows it has; None: its own name says it.
    """
    module = (weight or name).split(".")[-2]
    heads = {"q_proj": shape.heads, "k_proj": shape.kv_heads}.get(module)
    # A of a LoRA has the columns of its layer, which nothing reorders
    turned = heads is not None and shape.architecture == "llama" and not name.endswith(".lora_A.weight")
    raised = shape.architecture == "gemma" and name.endswith("norm.weight")

    def read() -> np.ndarray:
        values = tensors.read(name).astype(np.float32)
        if turned:
            assert heads is not None
            return pairs_from_halves(values, heads)
        return values + 1 if raised else values

    return read


def _model_fields(config: Mapping[str, Any], shape: LlamaShape, name: str, kind: GgufType) -> Iterator[Field]:
    family = shape.architecture
    base, scaling = rotary_settings(config)
    rope = scaling.get("rope_type", "default")
    if rope not in ("default", "linear", "llama3"):
        raise UserError(f"rotary scaling {rope!r} is not written; none, linear and Llama 3's are")
    yield Field("general.type", "model")
    yield Field("general.name", name)
    yield Field("general.file_type", FILE_TYPES[kind])
    yield Field("general.quantization_version", 2)
    sizes = {
        "block_count": shape.layers,
        "context_length": int(config.get("max_position_embeddings") or 2048),
        "embedding_length": shape.hidden,
        "feed_forward_length": shape.intermediate,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "rope.dimension_count": shape.head_dim,
        "vocab_size": shape.vocab,
    }
    for key, size in sizes.items():
        yield Field(f"{family}.{key}", size)
    yield Field(f"{family}.attention.layer_norm_rms_epsilon", float(config.get("rms_norm_eps", 1e-6)), "float32")
    yield Field(f"{family}.rope.freq_base", base, "float32")
    if rope == "linear":
        yield Field(f"{family}.rope.scaling.type", "linear")
        yield Field(f"{family}.rope.scaling.factor", float(scaling["factor"]), "float32")


@contextmanager
def _writer(out: Path, family: str, fields: list[Field]) -> Iterator[Callable[[Mapping[str, Stored]], None]]:
    """Yield a function that writes tensors: by name their shape, type and reader."""
    from gguf import GGUFWriter
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import quantize

    with atomic(out) as temporary:
        writer = GGUFWriter(temporary, family)
        for field in fields:
            field.write(writer)

        def add(tensors: Mapping[str, Stored]) -> None:
            # places first: the header stands before the data, and memory holds one tensor
            for name, (shape, kind, _) in tensors.items():
                quant = GGMLQuantizationType[kind]
                block, size = GGML_QUANT_SIZES[quant]
                nbytes = int(np.prod(shape)) // block * size
                writer.add_tensor_info(name, shape, np.dtype(np.float32), nbytes, raw_dtype=quant)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for name, (_, kind, read) in tensors.items():
                values = np.ascontiguousarray(read(), np.float32)
                largest = np.abs(values).max(initial=0)
                # "not <=" refuses a NaN, too
                if kind == "F16" and not largest <= LARGEST_F16:
                    raise UserError(f"{out}: {name} holds {largest:.4g}, which does not fit F16; BF16 has room")
                writer.write_tensor_data(quantize(values, GGMLQuantizationType[kind]))

        try:
            yield add
        finally:
            writer.close()
