"""The parts of a checkpoint (``--ckpt``), found without a framework and without reading its weights.

Everything that asks a model something goes through here, so that the template it was trained in is the template it is
asked in, whatever the command.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.checkpoint.fingerprint import count_parameters, fingerprint, weight_files
from backends.run.directory import Run
from backends.weights.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    DATA_RECORD,
    MODEL_CONFIG,
    RECIPE,
    TEMPLATE,
    TOKENIZERS,
    has_tokenizer,
    run_around,
)
from backends.weights.model_config import has_config, load_config
from converters.common.console import say
from converters.common.errors import UsageError, UserError
from converters.common.gguf_file import is_gguf
from converters.common.reader import read_json
from converters.common.shipped import locate_model

if TYPE_CHECKING:
    from converters.text.base import Template
    from converters.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class CheckpointFiles:
    """The parts of a checkpoint.

    Attributes:
        path: directory or GGUF file of the weights that were named.
        base: directory or GGUF file of the frozen model under an adapter; None for a whole model.
        run: the run directory that the weights belong to, if any.
        template: the template to ask in.
        tokenizer: the tokenizer to ask with.
    """

    path: Path
    base: Path | None
    run: Path | None
    template: Template
    tokenizer: Tokenizer

    @property
    def stop_ids(self) -> list[int]:
        """Tokens that end an answer: EOS and the template's own."""
        names = (self.tokenizer.special_id(name) for name in self.template.stop)
        # as a set: the stop of a template is often EOS itself
        return sorted({self.tokenizer.eos_id, *names})

    @property
    def longest_row(self) -> int | None:
        """Tokens of the longest row that the run was trained on, prompt included; None if it is not a run."""
        record = self.run / DATA_RECORD if self.run is not None else None
        if record is None or not record.is_file():
            return None
        audit = read_json(record)["audit"]
        limit = audit["seq_length"]
        # a row holds one id more than seq_length, since the last one is a target only
        return audit["longest"] if limit is None else min(audit["longest"], limit + 1)

    @property
    def positions(self) -> int | None:
        """Tokens of prompt and answer that the model was made for, as its configuration says."""
        home = self.base or self.path
        return load_config(home).get("max_position_embeddings") if has_config(home) else None

    @cached_property
    def identity(self) -> dict[str, str | None]:
        """Hashes of what answers depend on: weights, base, template, tokenizer."""
        adapter = self.base is not None
        return {
            "checkpoint": fingerprint([self.path / ADAPTER_WEIGHTS] if adapter else weight_files(self.path)),
            "base": fingerprint(weight_files(self.base)) if self.base is not None else None,
            "template": f"{self.template.name} {self.template.hash[:16]}",
            "tokenizer": self.tokenizer.hash[:16],
        }

    @cached_property
    def parameters(self) -> dict[str, int | None]:
        """Count parameters: ``trainable`` (None for a model nobody trained here) and ``base``.

        LoRA's ``base`` is the frozen model alone, as the contest counts; after full-parameter training all are trained.
        """
        if self.base is not None:
            return {
                "trainable": count_parameters([self.path / ADAPTER_WEIGHTS]),
                "base": count_parameters(weight_files(self.base)),
            }
        count = count_parameters(weight_files(self.path))
        return {"trainable": count if self.run is not None else None, "base": count}

    @cached_property
    def training(self) -> dict[str, Any] | None:
        """What a finished run was trained on: ``rows``, ``epochs``, ``steps``, ``minutes``; None for anything else."""
        # a checkpoint inside a run has seen fewer steps than the result says
        run = Run(self.run) if self.run is not None and self.run == self.path else None
        if run is None or run.result is None:
            return None
        return {
            "rows": read_json(run.path / DATA_RECORD)["rows"],
            "epochs": run.recipe.runner_config.epochs,
            "steps": run.result["steps"],
            "minutes": round(run.result["seconds"] / 60, 1),
        }


def open_checkpoint(
    path: str | Path | CheckpointFiles,
    *,
    base: str | None = None,
    template: str | Template | None = None,
    allow_mismatch: bool = False,
    default_template: str | None = None,
) -> CheckpointFiles:
    """Find the parts of a checkpoint.

    Args:
        path: run, checkpoint of a run, PEFT adapter or model directory; a GGUF file; or a mindformers file, which is
            converted beside itself. What was opened already is returned as it is, whatever else is given.
        base: the frozen model, if it is not where the adapter says.
        template: the template to ask in, or its name; None takes the one beside the weights, else the model's own chat
            template.
        allow_mismatch: accept a ``template`` other than the one beside the weights.
        default_template: name of the template where none is given and none is beside the weights, for a caller that
            asks nothing in it; None takes the model's own chat template, or refuses such weights.

    Returns:
        The directories, and template and tokenizer, loaded; weights are not read.

    Raises:
        UsageError: nothing can be loaded there, or no template is known.
        UserError: the base or the tokenizer is missing, the base has other weights than the run was trained on, or the
            template is not the trained one.
    """
    from backends.exchange.convert import hf_directory, is_mindformers_file
    from converters.tokenizers.load import load_tokenizer

    if isinstance(path, CheckpointFiles):
        return path
    folder = Path(locate_model(path))
    if is_mindformers_file(folder):
        # the run is looked for around the file: the right side is evaluated before folder changes
        folder, run = hf_directory(folder), run_around(folder)
    elif is_gguf(folder):
        run = None
    elif not folder.is_dir():
        raise UsageError(f"{path}: no such run or model directory, nor a .ckpt, .safetensors or .gguf file")
    else:
        run = run_around(folder)
    adapter = (folder / ADAPTER_CONFIG).is_file()
    if not adapter and not has_config(folder):
        # the run is there but its product comes at the end of training
        if run == folder:
            raise UsageError(f"{folder}: this run has no weights yet; its checkpoints are under {folder}/checkpoints")
        raise UsageError(f"{folder}: neither {ADAPTER_CONFIG} nor {MODEL_CONFIG} there; a run or a model is expected")
    below = _find_base(folder, base, run) if adapter else None
    # a run's template and tokenizer before the base's: the model answers in the form it was trained in
    homes = [home for home in (folder, run, below) if home is not None]
    home = next((home for home in homes if has_tokenizer(home)), None)
    if home is None:
        raise UserError(
            f"{folder}: no {' or '.join(TOKENIZERS)} there or beside its base; copy the base's tokenizer files"
        )
    tokenizer = load_tokenizer(home)
    # not the base: its template is not the one that the adapter was trained in
    own = homes[:2] if run else homes[:1]
    chosen = _choose_template(own, tokenizer, template, allow_mismatch, default_template)
    if below is not None:
        _note_changed_base(chosen, below)
    return CheckpointFiles(folder, below, run, chosen, tokenizer)


def _find_base(folder: Path, given: str | None, run: Path | None) -> Path:
    """Return the frozen model's directory: the one given, else the one recorded."""
    from backends.exchange.convert import hf_directory, is_mindformers_file

    recorded = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if given is None and not recorded and run is not None:
        from backends.recipe.load import load_recipe

        recorded = load_recipe(run / RECIPE).load_checkpoint
    named = locate_model(given or recorded or "")
    if named and is_mindformers_file(Path(named)):
        # the hash of the file itself: a run on mindformers weights recorded that one
        _check_base(folder, run, [Path(named)], given)
        return hf_directory(Path(named))
    if not named or not has_config(named):
        raise UserError(f"{folder}: its base {named or '(not recorded)'} is not there; name it with --base DIR")
    _check_base(folder, run, weight_files(Path(named)), given)
    return Path(named)


def _check_base(folder: Path, run: Path | None, weights: list[Path], given: str | None) -> None:
    """Refuse a base whose weights the run was not trained on; if it was named with ``--base``, print a note instead."""
    file = run / DATA_RECORD if run is not None else None
    trained = read_json(file).get("base") if file is not None and file.is_file() else None
    found = fingerprint(weights)
    if trained is None or trained == found:
        return
    both = f"{folder} was trained on weights {trained}, {weights[0].parent} has {found}"
    if given is None:
        raise UserError(f"{both}: put the former back, or take the latter all the same with --base {weights[0].parent}")
    say(f"note: {both}; taken all the same, as --base says")


def _choose_template(
    homes: Sequence[Path],
    tokenizer: Tokenizer,
    wanted: str | Template | None,
    allow_mismatch: bool,
    default: str | None,
) -> Template:
    """Return the template that is asked for, else the one beside the weights, else the model's own chat template."""
    from converters.text.template import get_template, template_names
    from converters.tokenizers.templates import difference, own_template

    trained = trained_template(homes)
    if wanted is not None:
        chosen = wanted_template(wanted, [trained] if trained else [], tokenizer, allow_mismatch=allow_mismatch)
        # a run said so when it was trained
        if trained is None and (found := difference(chosen, tokenizer)):
            say(f"note: {found}")
        return chosen
    if trained is not None:
        return trained[1]
    if default is not None:
        return get_template(default)
    # a GGUF file is its own home
    own = own_template(tokenizer) if {tokenizer.source, tokenizer.source.parent} & {*homes} else None
    if own is None:
        raise UsageError(
            f"{homes[0]}: no {TEMPLATE} there says how it was trained, and its tokenizer has no chat template; choose "
            f"with --template ({', '.join(template_names())})"
        )
    say(f"{homes[0]}: asked in its own chat template ({own.hash[:8]}); --template NAME takes another")
    return own


def _note_changed_base(template: Template, base: Path) -> None:
    """Print a note where a base's chat template is no longer the one that a run on it was trained in."""
    from converters.text.chat_template import ChatTemplate
    from converters.tokenizers.load import load_tokenizer
    from converters.tokenizers.templates import find_template

    if not isinstance(template, ChatTemplate) or not has_tokenizer(base):
        return
    try:
        now = find_template(template.name, load_tokenizer(base))
    except UserError:
        say(f"note: {base} has no chat template (any more); the one that was stored with the run is used")
        return
    if now.hash != template.hash:
        say(
            f"note: {base} has another chat template ({now.hash[:8]}) than was trained in ({template.hash[:8]}); the "
            "one that was stored with the run is used"
        )


def trained_template(homes: Iterable[Path]) -> tuple[Path, Template] | None:
    """Find the template that weights were trained in.

    Args:
        homes: directories that may hold it, the first choice first.

    Returns:
        The directory where it was found, and the template; None where none of them has one.
    """
    from converters.tokenizers.templates import template_from_json

    home = next((home for home in homes if (home / TEMPLATE).is_file()), None)
    return None if home is None else (home, template_from_json(read_json(home / TEMPLATE)))


def wanted_template(
    wanted: str | Template,
    trained: Sequence[tuple[Path, Template]],
    tokenizer: Tokenizer | None,
    *,
    allow_mismatch: bool,
) -> Template:
    """Return the template that is asked for, and check that the weights were trained in it.

    Args:
        wanted: as ``--template`` gives it, or the template itself.
        trained: the templates that the weights were trained in, and where that is written.
        tokenizer: whose own chat template ``tokenizer`` is, unless the weights were trained in one of that name.
        allow_mismatch: accept another than the trained ones, and print a note.

    Raises:
        UsageError: there is none of this name.
        UserError: the weights were trained in another one.
    """
    from converters.text.chat_template import ChatTemplate
    from converters.tokenizers.templates import find_template

    if isinstance(wanted, str):
        # the text that was stored comes first, whatever lies beside the tokenizer now
        stored = (one for _, one in trained if isinstance(one, ChatTemplate) and one.name == wanted)
        wanted = next(stored, None) or find_template(wanted, tokenizer)
    for home, template in trained:
        # by hash, not by name: the text of a template may have changed under the same name
        if template.hash == wanted.hash:
            continue
        both = f"template {template.name} ({template.hash[:8]}), not {wanted.name} ({wanted.hash[:8]})"
        if not allow_mismatch:
            raise UserError(f"{home} was trained in {both}: leave --template out, or --allow-template-mismatch")
        say(f"note: {home} was trained in {both}; asking in {wanted.name} all the same")
    return next((template for _, template in trained if template.hash == wanted.hash), wanted)
