"""A merged model as one GGUF file, in the place of its weights, configuration and tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.exchange.gguf_check import check_ids
from backends.exchange.to_gguf import GgufType, largest_error, write_gguf
from backends.weights.files import (
    CHAT_TEMPLATE,
    GENERATION_CONFIG,
    GGUF_WEIGHTS,
    MODEL_CONFIG,
    TOKENIZER_FILES,
)
from backends.weights.safetensors_files import open_tensors
from converters.common.errors import UserError
from converters.common.files import write_text
from converters.common.gguf_file import open_gguf
from converters.common.reader import read_json
from converters.text.template import NamedTemplate
from converters.tokenizers.load import load_tokenizer

if TYPE_CHECKING:
    from converters.text.base import Template

# rounding to 8 bits with a scale for 32 numbers changes matrices by 0.5 % of their norm
MOST_ERROR = 0.02


@dataclass(frozen=True)
class WrittenGguf:
    """A model that was written as GGUF.

    Attributes:
        kind: type of its matrices.
        error: by how much rounding changed a tensor at most, relative to its norm.
    """

    kind: GgufType
    error: float

    def as_json(self) -> dict[str, Any]:
        """For ``merge.json``."""
        return {"type": self.kind, "largest_error": float(f"{self.error:.3g}")}

    def as_text(self) -> str:
        """A line for people."""
        return f"{GGUF_WEIGHTS}: {self.kind}, read back: no tensor differs by more than {self.error:.2%} of its norm"


def _opens_with_bos(template: NamedTemplate) -> bool:
    # llama.cpp and Ollama put BOS before a prompt by the tokenizer's setting, not by the template
    return "{bos}" in template.first + (template.first_with_system or "")


def replace_by_gguf(folder: Path, kind: GgufType, name: str, template: Template | None) -> WrittenGguf:
    """Write ``model.gguf`` with all that a directory says of its model, and remove what it now holds.

    ``template.json``, ``merge.json``, the ``Modelfile`` and terms of use stay beside it.

    Args:
        folder: a model directory with tokenizer, and the template that servers read.
        kind: type of the matrices.
        name: of the model, for people.
        template: to ask it in.

    Returns:
        What was written, as it was read back.

    Raises:
        UserError: GGUF has no form for the model or its tokenizer, or what was read back is another.
    """
    tensors, file = open_tensors(folder), folder / GGUF_WEIGHTS
    asked = folder / CHAT_TEMPLATE
    write_gguf(
        tensors,
        read_json(folder / MODEL_CONFIG),
        folder,
        file,
        kind=kind,
        name=name,
        chat_template=asked.read_text(encoding="utf-8") if asked.is_file() else None,
        adds_bos=_opens_with_bos(template) if isinstance(template, NamedTemplate) else None,
    )
    error = largest_error(tensors, file)
    # "not <=" refuses a NaN, too
    if not error <= MOST_ERROR:
        raise UserError(f"{GGUF_WEIGHTS}: a tensor differs by {error:.2%} of its norm from what was written")
    check_ids(open_gguf(file), load_tokenizer(folder))
    for pattern in ("model*.safetensors", "model*.safetensors.index.json", MODEL_CONFIG, GENERATION_CONFIG):
        for one in folder.glob(pattern):
            one.unlink()
    for companion in TOKENIZER_FILES:
        (folder / companion).unlink(missing_ok=True)
    modelfile = folder / "Modelfile"
    if modelfile.is_file():
        text = modelfile.read_text(encoding="utf-8")
        write_text(modelfile, text.replace("\nFROM .\n", f"\nFROM ./{GGUF_WEIGHTS}\n", 1))
    return WrittenGguf(kind, error)
