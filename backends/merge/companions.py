"""What lies beside merged weights: configuration, tokenizer, template, and the forms that servers read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.merge.adapters import Adapter
from backends.merge.base import Base
from backends.merge.rounding import NAMES
from backends.merge.serving import jinja, modelfile
from backends.weights.files import MODEL_CONFIG
from converters.common.console import say
from converters.common.errors import UserError
from converters.common.files import sha256_file, write_json, write_text
from converters.common.reader import read_json
from converters.text.template import Template, get_template

if TYPE_CHECKING:
    from converters.tokenizers.base import Tokenizer

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
# of the base, besides its tokenizer: how to generate, code that its configuration names, terms of use
MODEL_FILES = ("generation_config.json", "*.py", "LICENSE*", "NOTICE*", "USE_POLICY*")


def common_template(adapters: Sequence[Adapter], name: str | None, *, allow: bool) -> Template | None:
    """Return the template that all adapters were trained in, or the one that is asked for.

    Raises:
        UserError: they were trained in different ones, or not in the one that is asked for, and ``allow`` is not set.
    """
    trained: dict[str, tuple[Path, Template]] = {}
    for adapter in adapters:
        file = next(
            (f / "template.json" for f in (adapter.path, adapter.home) if (f / "template.json").is_file()), None
        )
        if file is not None:
            template = Template.from_json(read_json(file))
            trained.setdefault(template.hash, (adapter.path, template))
    wanted = get_template(name) if name else None
    known = list(trained.values())
    if wanted is not None:
        odd = next(((path, template) for path, template in known if template.hash != wanted.hash), None)
        if odd and not allow:
            raise UserError(
                f"{odd[0]} was trained in template {odd[1].name} ({odd[1].hash[:8]}), not {wanted.name} "
                f"({wanted.hash[:8]}): leave --template out, or --allow-template-mismatch"
            )
        return wanted
    if len(known) > 1:
        both = " and ".join(f"{path} in {template.name} ({template.hash[:8]})" for path, template in known[:2])
        if not allow:
            raise UserError(
                f"the adapters were trained in different templates: {both}; with --allow-template-mismatch the merged "
                "weights get that of the first"
            )
        say(f"note: {both}; the merged weights get {known[0][1].name}")
    if not known:
        say("note: no template.json beside the adapters says how to ask the merged weights; --template NAME adds one")
        return None
    return known[0][1]


def tokenizer_home(adapters: Sequence[Adapter], base: Path | None) -> Path | None:
    """Return the directory whose tokenizer belongs to the merged weights: the base's unless adapters bring another.

    Raises:
        UserError: two adapters bring different ones.
    """
    homes = [home for home in dict.fromkeys([adapter.home for adapter in adapters]) if _has_tokenizer(home)]
    hashes = {home: _tokenizer_hash(home) for home in homes}
    if len(set(hashes.values())) > 1:
        first, second = list(hashes)[:2]
        raise UserError(f"{first} and {second} were trained with different tokenizers; their sum has no meaning")
    folder = base if base is not None and base.is_dir() else None
    if folder is not None and _has_tokenizer(folder):
        # the base's own files are the more complete ones
        if not homes or _tokenizer_hash(folder) == hashes[homes[0]]:
            return folder
        say(f"note: {homes[0]} was trained with another tokenizer than {folder} has; the trained one goes along")
    return homes[0] if homes else folder


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))


def _tokenizer_hash(folder: Path) -> str:
    from converters.tokenizers.load import load_tokenizer

    try:
        return load_tokenizer(folder).hash
    except UserError:
        # of a kind that is not read here (SentencePiece): the same only if the files are
        return "".join(sha256_file(folder / name) for name in TOKENIZER_FILES if (folder / name).is_file())


def copy_tokenizer(home: Path | None, folder: Path) -> Tokenizer | None:
    """Copy the tokenizer's files and return it; None, said, where there is none that is read here."""
    if home is None or not _has_tokenizer(home):
        say("note: there is no tokenizer beside the base or the adapters; none goes along")
        return None
    from converters.tokenizers.load import load_tokenizer

    for name in TOKENIZER_FILES:
        if (home / name).is_file():
            shutil.copyfile(home / name, folder / name)
    try:
        return load_tokenizer(folder)
    except UserError as error:
        say(f"note: the tokenizer goes along but cannot be used here ({error})")
        return None


def write_template(template: Template | None, tokenizer: Tokenizer | None, folder: Path, *, served: bool) -> None:
    """Write ``template.json``, and for a model that can be served the forms that servers read."""
    if template is None:
        return
    write_json(folder / "template.json", template.to_json())
    if not served:
        return
    config = folder / "tokenizer_config.json"
    if config.is_file():
        content = read_json(config)
        if content.pop("chat_template", None) is not None:
            write_json(config, content)
    write_text(folder / "chat_template.jinja", jinja(template))
    if tokenizer is None:
        say("note: no Modelfile without a tokenizer, which names the stop tokens")
        return
    text = modelfile(template, tokenizer)
    if text is None:
        say(f"note: template {template.name} cannot be said in Ollama's syntax; no Modelfile was written")
    else:
        write_text(folder / "Modelfile", text)


def write_model_files(base: Base, folder: Path, dtype: str | None, *, untied: bool) -> None:
    """Write the base's configuration with the new type, and copy what else belongs to a model."""
    config: dict[str, Any] = dict(base.config)
    if dtype is not None:
        # older transformers read the second name only
        config.pop("dtype", None)
        config["torch_dtype"] = NAMES[dtype]
    if untied:
        config["tie_word_embeddings"] = False
    (folder / MODEL_CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for pattern in MODEL_FILES:
        for file in sorted(base.home.glob(pattern)):
            shutil.copyfile(file, folder / file.name)
