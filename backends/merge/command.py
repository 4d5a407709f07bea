"""The two commands behind ``python -m backends.merge``: check, write under a temporary name, verify, rename, report."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.exchange import output_files as files
from backends.merge import companions as beside
from backends.merge.adapters import Adapter, open_adapter
from backends.merge.base import Base, check_fit, check_recorded, open_base
from backends.merge.combine import Mixed, check_same_base, write_mixed
from backends.merge.into_base import rounding_costs, unties, write_merged, written_kinds
from backends.merge.rounding import DTYPES, NAMES, Change
from backends.weights.files import writing_directory
from backends.weights.mindspore_ckpt import CkptWriter, open_weights
from backends.weights.safetensors_files import ShardWriter
from converters.common.console import say
from converters.common.errors import UsageError, UserError
from converters.common.files import atomic, write_json

if TYPE_CHECKING:
    from converters.text.template import Template
    from converters.tokenizers.base import Tokenizer

FORMULA = {
    True: "W' = round(W + sum of weight * scaling * B @ A), in float32 with one rounding",
    False: "B @ A = sum of weight * scaling * B @ A, in float32, ranks beside each other",
}


def merge_into_base(args: argparse.Namespace, chosen: Sequence[tuple[str, float | None]]) -> int:
    """Write a whole model.

    Raises:
        UsageError, UserError: something cannot be merged as asked; nothing is left under the final name.
    """
    from backends.merge.verify import check_tensors

    base, adapters = open_base(args.base), _open(chosen, args)
    check_fit(base, adapters)
    check_recorded(base, adapters, allow=args.allow_base_mismatch)
    if len(adapters) > 1:
        check_same_base(adapters, allow=args.allow_base_mismatch)
    template = beside.common_template(adapters, args.template, allow=args.allow_template_mismatch)
    tokens = beside.tokenizer_home(adapters, base.home)
    dtype = DTYPES.get(args.dtype)
    _check_form(base, args)
    untied = unties(base, adapters)
    if untied:
        say("note: the output layer was the embedding matrix; with an adapter on it the two part (tie_word_embeddings)")
    kinds = written_kinds(base, dtype)

    with _writing(base, args) as place:
        with place.writer() as writer:
            changes = write_merged(base, adapters, writer, dtype)
        if base.config:
            beside.write_model_files(base, place.folder, dtype, untied=untied)
        tokenizer = beside.copy_tokenizer(tokens, place.folder)
        beside.write_template(template, tokenizer, place.folder, served=not base.mindformers)
        if args.format in ("bin", "pth"):
            from backends.merge import pickle_formats as pickled

            pickled.to_bin(place.folder) if args.format == "bin" else pickled.to_meta(place.folder)
        part = check_tensors(base, adapters, _reader(base, place, args.format), kinds)
        verified = {
            "tensors": {"largest_part_of_rounding_bound": float(f"{part:.3g}")},
            "logits": _logits(args, base, adapters, place.folder, template, tokenizer, kinds),
        }
        report = _report(base, adapters, template) | {
            "dtype": sorted(NAMES[kind] for kind in kinds),
            "format": args.format,
            "verified": verified,
            "changes": {module: change.to_json() for module, change in changes.items()},
        }
        write_json(place.folder / "merge.json", report)
    _say_changes(changes, kinds, len(base.tensors))
    say(f"checked: every tensor on the disk is base and adapters to {part:.0%} of its rounding bound")
    say(f"{args.out}: {_about(adapters)} merged into {base.path}")
    return 0


@dataclass(frozen=True)
class _Place:
    """Where a merged model grows: a directory, and for mindformers' one file a temporary name of it."""

    folder: Path
    file: Path | None
    max_shard_bytes: int

    def writer(self) -> ShardWriter | CkptWriter:
        if self.file is None:
            return ShardWriter(self.folder, max_shard_bytes=self.max_shard_bytes)
        if self.file.suffix == ".ckpt":
            return CkptWriter(self.file)
        return ShardWriter(self.file.parent, max_shard_bytes=None, metadata={"format": "ms"}, stem=self.file.stem)


@contextmanager
def _writing(base: Base, args: argparse.Namespace) -> Iterator[_Place]:
    """Yield where to write; everything appears under its name when all is written and verified."""
    out, limit = Path(args.out), int(args.max_shard_size * 10**9)
    if not base.mindformers:
        with writing_directory(out) as folder:
            yield _Place(folder, None, limit)
        return
    with writing_directory(files.beside(out)) as folder, atomic(out) as temporary:
        yield _Place(folder, temporary, limit)


def merge_adapters(args: argparse.Namespace, chosen: Sequence[tuple[str, float | None]]) -> int:
    """Write one adapter that is the weighted sum.

    Raises:
        UsageError, UserError: something cannot be added as asked; nothing is left under the final name.
    """
    adapters = _open(chosen, args)
    check_same_base(adapters, allow=args.allow_base_mismatch)
    template = beside.common_template(adapters, args.template, allow=args.allow_template_mismatch)
    tokens = beside.tokenizer_home(adapters, None)
    with writing_directory(Path(args.out)) as folder:
        mixed = write_mixed(adapters, folder, args.rank, DTYPES.get(args.dtype))
        if tokens is not None:
            tokenizer = beside.copy_tokenizer(tokens, folder)
            beside.write_template(template, tokenizer, folder, served=False)
        else:
            beside.write_template(template, None, folder, served=False)
        report = _report(None, adapters, template) | {"ranks": mixed.ranks}
        if args.rank is not None:
            report["truncated"] = {"rank": args.rank, "error": mixed.error, "errors": mixed.errors}
        write_json(folder / "merge.json", report)
    _say_mixed(mixed, args.rank)
    say(f"{args.out}: an adapter, the sum of {_about(adapters)}")
    return 0


def _open(chosen: Sequence[tuple[str, float | None]], args: argparse.Namespace) -> list[Adapter]:
    adapters = []
    for path, weight in chosen:
        # the alpha is for the files that do not record one
        alpha = args.lora_alpha if Path(path).is_file() else None
        adapters.append(open_adapter(path, 1.0 if weight is None else weight, alpha))
    if args.lora_alpha is not None and not any(Path(path).is_file() for path, _ in chosen):
        raise UsageError("--lora-alpha is for mindformers LoRA files; PEFT adapters and runs record their own")
    return adapters


def _check_form(base: Base, args: argparse.Namespace) -> None:
    """Refuse a form that this model cannot be written in."""
    if base.mindformers:
        if args.format != "safetensors":
            raise UsageError(
                f"--format {args.format}: mindformers weights are one file; its name, --out, says the format"
            )
        files.check_output_file(Path(args.out))
        if files.beside(Path(args.out)).exists() and not args.overwrite:
            raise UsageError(f"{files.beside(Path(args.out))}: exists; --overwrite replaces it")
    elif args.format == "pth":
        from backends.merge.pickle_formats import meta_obstacle

        obstacle = meta_obstacle(base.config, base.tensors.names())
        if obstacle:
            raise UsageError(f"--format pth: {obstacle}; choose safetensors or bin")


def _reader(base: Base, place: _Place, kind: str) -> Callable[[str], np.ndarray]:
    """Return what reads a written tensor back by the base's name of it."""
    if kind == "safetensors":
        return open_weights(place.file or place.folder).read
    from backends.merge import pickle_formats as pickled

    tensors = pickled.read_pickled(place.folder)
    if kind == "bin":
        return lambda name: pickled.to_numpy(tensors[name])
    from backends.exchange.meta import turned

    def read_meta(name: str) -> np.ndarray:
        theirs = pickled.meta_name(name)
        return turned(lambda: pickled.to_numpy(tensors[theirs]), theirs, base.config)()

    return read_meta


def _logits(
    args: argparse.Namespace,
    base: Base,
    adapters: Sequence[Adapter],
    folder: Path,
    template: Template | None,
    tokenizer: Tokenizer | None,
    kinds: set[str],
) -> dict[str, float] | str:
    """Compare logits where that can be done; returns the figures, or why there are none."""
    from backends.merge.verify import compare_logits, prompts

    if args.no_verify:
        reason = "not compared (--no-verify)"
    elif base.mindformers or args.format == "pth" or any(adapter.path.is_file() for adapter in adapters):
        reason = "not compared: transformers and peft do not read these forms"
    elif tokenizer is None:
        reason = "not compared: there is no tokenizer to write prompts with"
    else:
        rows = prompts(template, tokenizer)
        check = compare_logits(folder, base.path, adapters, rows, kinds, args.device)
        if not check.difference <= check.limit:
            raise UserError(
                f"logits of the merged model are {check.difference:.3g} standard deviations from the adapter's, "
                f"{check.limit:.3g} is the most that rounding explains; nothing was written"
            )
        say(
            f"logits: merged − adapter at most {check.difference:.2g}, adapter − base {check.effect:.2g}, rounding may "
            f"be {check.limit:.2g} (standard deviations of the logits; {check.tokens} tokens, same first in "
            f"{check.same_first:.1%})"
        )
        return {name: float(f"{value:.6g}") for name, value in vars(check).items()}
    say(f"logits: {reason}")
    return reason


def _report(base: Base | None, adapters: Sequence[Adapter], template: Template | None) -> dict[str, Any]:
    """Return what the result was made of."""
    first = adapters[0]
    recorded = {"path": first.base_name, "fingerprint": first.base_fingerprint}
    return {
        "formula": FORMULA[base is not None],
        "base": recorded if base is None else {"path": str(base.path.resolve()), "fingerprint": base.fingerprint},
        "adapters": [
            {
                "path": str(adapter.path.resolve()),
                "fingerprint": adapter.fingerprint,
                "weight": adapter.weight,
                "rank": sorted({factors.rank for factors in adapter.modules.values()}),
                "scaling": sorted({factors.scaling for factors in adapter.modules.values()}),
                "layers": len(adapter.modules),
            }
            for adapter in adapters
        ],
        "template": None if template is None else f"{template.name} {template.hash[:16]}",
    }


def _say_changes(changes: dict[str, Change], kinds: set[str], tensors: int) -> None:
    largest = max(changes, key=lambda module: changes[module].update)
    most = f"{changes[largest].update:.2%} of their norm ({largest})"
    say(f"{len(changes)} of {tensors} tensors changed, at most by {most}")
    if kinds == {"F32"}:
        return
    lost, where = rounding_costs(changes)
    kind = "/".join(sorted(NAMES[kind] for kind in kinds))
    hint = "; --dtype float32 keeps it whole" if lost > 0.01 else ""
    say(f"rounding to {kind} changed the update by at most {lost:.2%} of its norm ({where}){hint}")


def _say_mixed(mixed: Mixed, rank: int | None) -> None:
    ranks = sorted(set(mixed.ranks.values()))
    say(f"{len(mixed.ranks)} layers, rank {', '.join(map(str, ranks))}, scaling 1")
    if rank is not None:
        worst = max(mixed.errors, key=lambda module: mixed.errors[module])
        say(
            f"cut to rank {rank}: {mixed.error:.2%} of the update is left out, at most {mixed.errors[worst]:.2%} "
            f"({worst}); all layers in merge.json"
        )


def _about(adapters: Sequence[Adapter]) -> str:
    return " + ".join(f"{adapter.weight:g} × {adapter.path}" for adapter in adapters)
