"""Merging from call to report: check, write under a temporary name, verify what lies on the disk, rename."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from backends.exchange.to_gguf import GgufType
from backends.merge.adapters import Adapter, open_adapter
from backends.merge.base import Base, check_fit, check_recorded, open_base
from backends.merge.combine import Summed, check_same_base, write_sum
from backends.merge.companions import common_template, copy_tokenizer, tokenizer_home, write_model_files, write_template
from backends.merge.gguf_output import WrittenGguf, replace_by_gguf
from backends.merge.into_base import Change, expected_rounding, unties, write_merged
from backends.weights.dtypes import FLOAT_NAMES, FLOATS, ROUNDOFF
from backends.weights.files import MERGE_REPORT, check_output_file, sidecar_of, writing_directory
from backends.weights.gguf_model import FAMILIES
from backends.weights.mindspore_ckpt import open_weights, weights_writer
from backends.weights.safetensors_files import DEFAULT_SHARD_BYTES, ShardWriter
from converters.common.console import say
from converters.common.errors import UsageError, UserError
from converters.common.files import atomic, write_json
from converters.common.gguf_file import is_gguf

if TYPE_CHECKING:
    from backends.merge.verify import LogitCheck
    from converters.text.base import Template
    from converters.tokenizers.base import Tokenizer

Format = Literal["safetensors", "bin", "pth", "gguf"]
# share of an update that rounding may take before it is said ahead of the writing
MUCH_LOST = 0.1
INTO_BASE = "W' = round(W + sum of weight * scaling * B @ A), in float32 with one rounding"
INTO_ADAPTER = "B @ A = sum of weight * scaling * B @ A, in float32, ranks beside each other"


@dataclass(frozen=True)
class MergeReport:
    """What a merge wrote, and what it was made of.

    Attributes:
        out: the directory, or mindformers' file.
        adapters: what was added, with their weights.
        template: how to ask the result; None where nothing says.
        base: what was merged into; None where the result is an adapter.
        format: of a whole model.
        gguf: how it was written as GGUF; None in all other formats.
        kinds: floating-point types of a whole model, as safetensors names them.
        changes: what merging did to each layer of a base.
        largest_part: of its rounding bound that any row of the written tensors took, 0 to 1.
        logits: how they compare with peft's, or why they were not compared.
        summed: ranks and truncation of a sum of adapters.
        rank: that the sum was cut to.
    """

    out: Path
    adapters: Sequence[Adapter]
    template: Template | None
    base: Base | None = None
    format: Format = "safetensors"
    gguf: WrittenGguf | None = None
    kinds: set[str] = field(default_factory=set)
    changes: Mapping[str, Change] = field(default_factory=dict)
    largest_part: float = 0.0
    logits: LogitCheck | str = ""
    summed: Summed | None = None
    rank: int | None = None

    @property
    def dtypes(self) -> list[str]:
        """Names of the floating-point types that were written."""
        return sorted(FLOAT_NAMES[kind] for kind in self.kinds)

    def as_json(self) -> dict[str, Any]:
        """Everything, as ``merge.json`` beside the weights keeps it."""
        first, base = self.adapters[0], self.base
        about = {"path": first.base_name, "fingerprint": first.base_fingerprint}
        if base is not None:
            about = {"path": str(base.path.resolve()), "fingerprint": base.fingerprint}
        report: dict[str, Any] = {
            "formula": INTO_ADAPTER if base is None else INTO_BASE,
            "base": about,
            "adapters": [
                {
                    "path": str(adapter.path.resolve()),
                    "fingerprint": adapter.fingerprint,
                    "weight": adapter.weight,
                    "rank": sorted({factors.rank for factors in adapter.modules.values()}),
                    "scaling": sorted({factors.scaling for factors in adapter.modules.values()}),
                    "layers": len(adapter.modules),
                }
                for adapter in self.adapters
            ],
            "template": None if self.template is None else f"{self.template.name} {self.template.hash[:16]}",
        }
        if self.summed is not None:
            report["ranks"] = self.summed.ranks
            if self.rank is not None:
                truncated = {"rank": self.rank, "error": self.summed.error, "errors": self.summed.errors}
                report["truncated"] = truncated
            return report
        return report | {
            "dtype": self.dtypes,
            "format": self.format,
            **({} if self.gguf is None else {"gguf": self.gguf.as_json()}),
            "verified": {
                "tensors": {"largest_part_of_rounding_bound": float(f"{self.largest_part:.3g}")},
                "logits": self.logits if isinstance(self.logits, str) else self.logits.as_json(),
            },
            "changes": {module: change.as_json() for module, change in self.changes.items()},
        }

    def as_text(self) -> str:
        """A summary of a few lines, for people."""
        added = " + ".join(f"{adapter.weight:g} × {adapter.path}" for adapter in self.adapters)
        if self.summed is not None:
            return "\n".join([*_sum_lines(self.summed, self.rank), f"{self.out}: an adapter, the sum of {added}"])
        assert self.base is not None
        logits = self.logits if isinstance(self.logits, str) else self.logits.as_text()
        lines = [f"logits: {logits}", *_change_lines(self.changes, self.dtypes, len(self.base.tensors))]
        part = (
            f"checked: every tensor on the disk is base and adapters to {self.largest_part:.0%} of its rounding bound"
        )
        lines += [part] if self.gguf is None else [part, self.gguf.as_text()]
        return "\n".join([*lines, f"{self.out}: {added} merged into {self.base.path}"])


def merge(
    adapters: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    base: str | Path | None = None,
    weights: Sequence[float] | None = None,
    dtype: str | None = None,
    format: Format = "safetensors",
    gguf_type: GgufType = "F16",
    rank: int | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    lora_alpha: float | None = None,
    template: str | None = None,
    allow_template_mismatch: bool = False,
    allow_base_mismatch: bool = False,
    overwrite: bool = False,
    verify: bool = True,
    device: str = "auto",
) -> MergeReport:
    """Add LoRA adapters up: into a base, a whole model that needs no peft, or into one adapter.

    Args:
        adapters: runs, PEFT adapter directories or mindformers LoRA files; one of them, or several.
        out: directory to write; into a mindformers base a ``.ckpt`` or ``.safetensors``.
        base: Hugging Face model directory or mindformers weights to merge into; None makes an adapter.
        weights: factor of each adapter; None: 1.
        dtype: ``float32``, ``bfloat16`` or ``float16``; None keeps the base's own, and is float32 for an adapter.
        format: of a whole model: safetensors, Hugging Face's pickled bin, Meta's pth, or one GGUF file with its
            tokenizer and template.
        gguf_type: type of the matrices in GGUF; they are merged in float32 and rounded to it once.
        rank: cut the sum of adapters to this rank by SVD.
        max_shard_bytes: of one weights file.
        lora_alpha: of a mindformers LoRA file without its recipe.
        template: name of the template to ask the result in; None is that of the runs.
        allow_template_mismatch: add runs of different templates.
        allow_base_mismatch: take a base that is not the recorded one.
        overwrite: replace ``out``.
        verify: compare logits with peft's, which needs the base in float32 in memory.
        device: for that comparison: auto, cpu or cuda.

    Returns:
        What was written and verified, as ``merge.json`` holds it.

    Raises:
        UsageError: arguments do not go together.
        UserError: something cannot be merged as asked; nothing is left under the final name.
    """
    target = Path(out)
    adapters = [adapters] if isinstance(adapters, str | Path) else adapters
    _check(adapters, target, base, weights, format, rank)
    # before anything large is opened
    if target.exists() and not overwrite:
        raise UsageError(f"{out}: exists; --overwrite replaces it, --out DIR writes elsewhere")
    opened = [
        # the alpha is for the files that do not record one
        open_adapter(path, weight, lora_alpha if Path(path).is_file() else None)
        for path, weight in zip(adapters, weights or [1.0] * len(adapters), strict=True)
    ]
    if lora_alpha is not None and not any(adapter.path.is_file() for adapter in opened):
        raise UsageError("--lora-alpha is for mindformers LoRA files; PEFT adapters and runs record their own")
    model = open_base(base) if base is not None else None
    if model is not None:
        check_fit(model, opened)
        check_recorded(model, opened, allow=allow_base_mismatch)
        _check_format(model, target, format, dtype, overwrite=overwrite)
    check_same_base(opened, allow=allow_base_mismatch)
    # everything that can be refused is looked at before the first tensor is written
    tokens = tokenizer_home(opened, model.home if model is not None else None)
    asked_in = common_template(opened, template, tokens, allow=allow_template_mismatch)
    if model is not None:
        checked_on = device if verify else None
        kind = gguf_type if format == "gguf" else None
        return _into_base(model, opened, target, tokens, asked_in, dtype, format, kind, max_shard_bytes, checked_on)
    with writing_directory(target) as folder:
        summed = write_sum(opened, folder, rank, dtype)
        tokenizer = copy_tokenizer(tokens, folder) if tokens is not None else None
        write_template(asked_in, tokenizer, folder, served=False)
        report = MergeReport(target, opened, asked_in, summed=summed, rank=rank)
        write_json(folder / MERGE_REPORT, report.as_json())
    return report


def _into_base(
    base: Base,
    adapters: Sequence[Adapter],
    out: Path,
    tokens: Path | None,
    template: Template | None,
    dtype: str | None,
    form: Format,
    gguf_type: GgufType | None,
    max_shard_bytes: int,
    device: str | None,
) -> MergeReport:
    """Write a whole model with the tokenizer of ``tokens``; without a ``device`` no logits are compared."""
    from backends.merge.verify import check_tensors

    # one rounding: to the type of the GGUF file
    dtype = "float32" if gguf_type else dtype
    untied = unties(base, adapters)
    if untied:
        say("note: the output layer was the embedding matrix; with an adapter on it the two part (tie_word_embeddings)")
    # & ROUNDOFF: integers are copied as they are
    kinds = {FLOATS[dtype]} if dtype else {base.tensors.dtype(name) for name in base.tensors} & ROUNDOFF.keys()
    if (lost := expected_rounding(base, adapters, dtype)) > MUCH_LOST:
        into = "/".join(sorted(FLOAT_NAMES[kind] for kind in kinds))
        say(
            f"note: rounding to {into} will change this update by about {lost:.0%} of its norm: it is small beside the "
            "weights; --dtype float32 keeps it whole"
        )
    with _destination(base, out) as (folder, file):
        with weights_writer(file) if file else ShardWriter(folder, max_shard_bytes=max_shard_bytes) as writer:
            changes = write_merged(base, adapters, writer, dtype)
        if base.config:
            write_model_files(base, folder, dtype, untied=untied)
        tokenizer = copy_tokenizer(tokens, folder)
        write_template(template, tokenizer, folder, served=not base.mindformers)
        # read back from the disk: what was lost in writing is found before the result gets its name
        part = check_tensors(base, adapters, _written(base, folder, file, form), kinds)
        logits: LogitCheck | str = "not compared (--no-verify)"
        if device is not None:
            logits = _logits(base, adapters, folder, form, template, tokenizer, kinds, device)
        # last: what was checked above is what it is made of
        gguf = None if gguf_type is None else replace_by_gguf(folder, gguf_type, out.name, template)
        report = MergeReport(out, adapters, template, base, form, gguf, kinds, changes, part, logits)
        write_json(folder / MERGE_REPORT, report.as_json())
    return report


@contextmanager
def _destination(base: Base, out: Path) -> Iterator[tuple[Path, Path | None]]:
    """Yield a directory to fill, and for mindformers' one file a temporary name; both appear when all is verified."""
    if not base.mindformers:
        with writing_directory(out) as folder:
            yield folder, None
        return
    # the file gets its name first, then the directory: contexts are left from last to first
    with writing_directory(sidecar_of(out)) as folder, atomic(out) as temporary:
        yield folder, temporary


def _written(base: Base, folder: Path, file: Path | None, form: Format) -> Callable[[str], np.ndarray]:
    """Write the pickled form if one is asked for; return a function that reads a tensor by the base's name of it."""
    if form in ("safetensors", "gguf"):
        return open_weights(file or folder).read
    from backends.merge.pickle_formats import pickled_reader, to_bin, to_meta

    # before the check, which then reads the form that stays on the disk
    to_bin(folder) if form == "bin" else to_meta(folder)
    return pickled_reader(folder, base.config)


def _check(
    adapters: Sequence[str | Path],
    out: Path,
    base: str | Path | None,
    weights: Sequence[float] | None,
    form: Format,
    rank: int | None,
) -> None:
    """Refuse arguments that do not go together.

    Raises:
        UsageError: the message names the option and what to do.
    """
    if weights is not None and (len(weights) != len(adapters) or not all(map(math.isfinite, weights))):
        raise UsageError(f"weights {list(weights)}: a finite number for each of {len(adapters)} adapters is expected")
    if base and rank is not None:
        raise UsageError("--rank is for a sum of adapters; into --base the exact sum is merged")
    if rank is not None and rank < 1:
        raise UsageError(f"--rank is {rank}; 1 or more is expected")
    if not base and form != "safetensors":
        raise UsageError(f"--format {form} is for whole models: name the --base, or leave it out")
    # with a rank or a weight it is a truncated or a scaled copy
    if not base and len(adapters) == 1 and rank is None and weights is None:
        raise UsageError("one adapter alone is nothing to merge; --base DIR adds it to its base, PATH:WEIGHT scales it")
    # replacing --out would delete what is still read
    for path in [base, *adapters]:
        if path and (out.resolve() == Path(path).resolve() or out.resolve() in Path(path).resolve().parents):
            raise UsageError(f"--out {out} holds {path}, which is read; write elsewhere")


def _check_format(base: Base, out: Path, form: Format, dtype: str | None, *, overwrite: bool) -> None:
    """Refuse a form that this model cannot be written in."""
    if form == "gguf":
        if dtype is not None:
            raise UsageError(f"--dtype {dtype}: the type of a GGUF file is that of --gguf-type")
        if not base.mindformers and base.config.get("model_type") not in FAMILIES:
            raise UsageError(
                f"--format gguf: model_type {base.config.get('model_type')!r}; {', '.join(FAMILIES)} are written"
            )
    if base.mindformers:
        if form != "safetensors":
            raise UsageError(f"--format {form}: mindformers weights are one file; its name, --out, says the format")
        check_output_file(out)
        if sidecar_of(out).exists() and not overwrite:
            raise UsageError(f"{sidecar_of(out)}: exists; --overwrite replaces it")
    elif form == "pth":
        from backends.merge.pickle_formats import meta_obstacle

        obstacle = meta_obstacle(base.config, base.tensors.names())
        if obstacle:
            raise UsageError(f"--format pth: {obstacle}; choose safetensors or bin")


def _logits(
    base: Base,
    adapters: Sequence[Adapter],
    folder: Path,
    form: Format,
    template: Template | None,
    tokenizer: Tokenizer | None,
    kinds: set[str],
    device: str,
) -> LogitCheck | str:
    """Compare logits where that can be done; returns the figures, or why there are none."""
    from backends.merge.verify import compare_logits, prompts

    if base.mindformers or form == "pth" or any(adapter.path.is_file() for adapter in adapters):
        return "not compared: transformers and peft do not read these forms"
    if is_gguf(base.path):
        return "not compared: the base is a GGUF file, which peft does not read"
    if tokenizer is None:
        return "not compared: there is no tokenizer to write prompts with"
    check = compare_logits(folder, base.path, adapters, prompts(template, tokenizer), kinds, device)
    # "not <=" refuses a NaN, too
    if not check.difference <= check.limit:
        raise UserError(
            f"logits of the merged model are {check.difference:.3g} standard deviations from the adapter's, "
            f"{check.limit:.3g} is the most that rounding explains; nothing was written"
        )
    return check


def _change_lines(changes: Mapping[str, Change], dtypes: list[str], tensors: int) -> list[str]:
    largest = max(changes, key=lambda module: changes[module].update)
    most = f"{changes[largest].update:.2%} of their norm ({largest})"
    lines = [f"{len(changes)} of {tensors} tensors changed, at most by {most}"]
    if dtypes != ["float32"]:
        where = max(changes, key=lambda module: changes[module].rounding)
        lost = changes[where].rounding
        hint = "; --dtype float32 keeps it whole" if lost > 0.01 else ""
        lines.append(
            f"rounding to {'/'.join(dtypes)} changed the update by at most {lost:.2%} of its norm ({where}){hint}"
        )
    return lines


def _sum_lines(summed: Summed, rank: int | None) -> list[str]:
    ranks = sorted(set(summed.ranks.values()))
    lines = [f"{len(summed.ranks)} layers, rank {', '.join(map(str, ranks))}, scaling 1"]
    if rank is not None:
        worst = max(summed.errors, key=lambda module: summed.errors[module])
        lines.append(
            f"cut to rank {rank}: {summed.error:.2%} of the update is left out, at most {summed.errors[worst]:.2%} "
            f"({worst}); all layers in merge.json"
        )
    return lines
