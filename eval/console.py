"""The command ``twinlora``: passes the rest of the command line to the command that its first words name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

from backends.generation.registry import BACKENDS, choose_backend, missing
from converters.common.console import run_main, say
from converters.common.errors import UsageError, did_you_mean

ON_A_BACKEND = {
    "train": "fine-tune from a recipe into a run directory",
    "plan": "predict parameters, steps, memory and time of a recipe",
    "generate": "answer the problems of a file, or one prompt",
    "evaluate": "measure the perplexity of conversations",
    "chat": "talk to a run or a model",
    "doctor": "check versions and devices, and train a tiny model",
    "unshard": "join the distributed checkpoints of several cards (ascend)",
}
"""Commands of ``python -m backends.cuda`` and ``python -m backends.ascend``."""

MODULES = {
    "merge": ("backends.merge", "add LoRA adapters to their base, or to each other"),
    "exchange": ("backends.exchange", "convert weights between Hugging Face, PEFT, mindformers and Meta"),
    "mindrecord": ("mindrecord", "show token rows, write and read MindRecord files"),
}
"""Commands with a module of their own."""

GROUPS = {
    "convert": {
        "arithmetic": ("converters.arithmetic", "arithmetic problems with checked, worked steps"),
        "glue": ("converters.glue", "RTE, MNLI, QQP, CoLA and their like"),
        "webqa": ("converters.webqa", "WebQA: Chinese questions on evidence"),
        "novel": ("converters.novel", "passages of a novel, continued or retold"),
        "alpaca": ("converters.alpaca", "Alpaca and ShareGPT files as LLaMA-Factory describes them"),
        "tiny": ("converters.tiny", "the small base's corpus, tokenizer and reading set"),
    },
    "eval": {
        "math": ("eval.math", "arithmetic: answers by value, and the steps"),
        "squad": ("eval.squad", "SQuAD v1.1: exact match and F1"),
        "choice": ("eval.choice", "classes: accuracy, F1, Matthews"),
        "webqa": ("eval.webqa", "WebQA: answers from a text, and refusals"),
        "loss": ("eval.loss", "loss of held-out text, a steady gauge of forgetting"),
        "task": ("eval", "a task of your own, from its file"),
        "retention": ("eval.retention", "what a tuned model kept of its base's skills"),
        "sweep": ("eval.sweep", "one evaluation over all checkpoints of a run"),
        "table": ("eval.table", "results of several models in one table"),
        "report": ("eval.report", "one page about a run: curve, before and after, rows"),
    },
}
"""Groups of commands that are told apart by a second word."""


def usage() -> str:
    """Return the help text that lists all commands."""
    lines = ["usage: twinlora COMMAND …", "", f"on a backend, --backend {{auto,{','.join(BACKENDS)}}} (default: auto)"]
    lines += [f"  {name:<19} {purpose}" for name, purpose in ON_A_BACKEND.items()]
    lines += ["", "on files"]
    lines += [f"  {name:<19} {purpose}" for name, (_, purpose) in MODULES.items()]
    for group, members in GROUPS.items():
        lines += ["", f"{group} …"]
        lines += [f"  {f'{group} {name}':<19} {purpose}" for name, (_, purpose) in members.items()]
    lines += [
        "",
        "examples:",
        "  twinlora plan yaml/llama3_lora.yaml",
        "  twinlora train demo --backend cuda data.train=rows.jsonl output_dir=runs/demo",
        "  twinlora eval squad --ckpt runs/demo --limit 100",
        "",
        "twinlora COMMAND --help lists the options of one; twinlora --version prints the version.",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int | None:
    """Run the command that the first words name.

    Raises:
        UsageError: there is no command of that name.
    """
    words = sys.argv[1:] if argv is None else argv
    first = words[0] if words else ""
    if first in ("", "-h", "--help"):
        print(usage())
        # help that was asked for is a success; a bare command line is wrong use
        return 0 if words else 2
    if first in GROUPS and (len(words) == 1 or words[1] in ("-h", "--help")):
        members = [f"  {name:<12} {purpose}" for name, (_, purpose) in GROUPS[first].items()]
        print("\n".join([f"usage: twinlora {first} COMMAND …", "", *members]))
        return 0 if len(words) > 1 else 2
    # only the chosen command is imported: the others may need a framework that is not installed
    module, rest = resolve(words)
    return main_of(module)(rest)


def main_of(module: str) -> Callable[[list[str]], int | None]:
    """Return the ``main`` that ``python -m MODULE`` runs."""
    found = importlib.import_module(module)
    # a package runs its __main__, as `python -m` does
    if hasattr(found, "__path__"):
        found = importlib.import_module(f"{module}.__main__")
    run_it: Callable[[list[str]], int | None] = found.main
    return run_it


def resolve(words: list[str]) -> tuple[str, list[str]]:
    """Find the module that ``python -m`` would run for a command line, and the words to pass to it.

    Args:
        words: what follows ``twinlora``, at least one word, and two for a group.

    Returns:
        Name of the module, and its command line.

    Raises:
        UsageError: there is no command of that name.
        UserError: no backend is installed.
    """
    name, rest = words[0], words[1:]
    if name in ON_A_BACKEND:
        return _on_a_backend(name, rest)
    if name in MODULES:
        return MODULES[name][0], rest
    if name not in GROUPS:
        raise UsageError(f"twinlora: no command {name!r}{did_you_mean(name, [*ON_A_BACKEND, *MODULES, *GROUPS])}")
    if rest[0] not in GROUPS[name]:
        raise UsageError(f"twinlora {name}: no command {rest[0]!r}{did_you_mean(rest[0], GROUPS[name])}")
    return GROUPS[name][rest[0]][0], rest[1:]


def run() -> None:
    """Entry point of the installed command."""
    run_main(main)


def _on_a_backend(command: str, words: list[str]) -> tuple[str, list[str]]:
    rest, given = _without(words, "--backend")
    # only read: the device decides the choice of the backend and is still an option of its command
    _, device = _without(words, "--device")
    # only the Ascend backend has distributed checkpoints to join
    if command == "unshard" and given is None:
        given = "ascend"
    helping = any(word in ("-h", "--help") for word in rest)
    # these answer without a framework, so a backend that is not installed is no reason to refuse them
    if helping or command in ("plan", "doctor"):
        # any backend can print help without its framework; one has to be named
        if given is None and all(map(missing, BACKENDS)):
            given = "cuda"
        if given in BACKENDS:
            return f"backends.{given}", [command, *rest]
    name, why = choose_backend(given or "auto", device or "auto")
    # a backend that was chosen silently could surprise; under --help nothing runs on it
    if why and not helping:
        say(f"backend: {name} ({why})")
    return f"backends.{name}", [command, *rest]


def _without(words: list[str], option: str) -> tuple[list[str], str | None]:
    """Take an option and its value out of a command line.

    Returns:
        The other words, and the value; None where the option is not there.

    Raises:
        UsageError: the option stands last, without a value.
    """
    for i, word in enumerate(words):
        if word == option:
            if i + 1 == len(words):
                raise UsageError(f"{option}: a value is expected")
            return [*words[:i], *words[i + 2 :]], words[i + 1]
        if word.startswith(f"{option}="):
            return [*words[:i], *words[i + 1 :]], word.partition("=")[2]
    return words, None


if __name__ == "__main__":
    run()
