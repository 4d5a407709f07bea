"""Answers from a given text, and refusals where it has none: report 003's question, in numbers.

::

    conversations → prompts in the run's template → answers → predictions.jsonl (resumable)
                  → answered and refused against the labels, right answers among the answered ones
                  → table on stdout, table.md, results.json

``--predictions`` starts at the last arrow and needs no torch.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.common.console import format_table, say
from converters.common.errors import UsageError, UserError
from eval.webqa.rules import ANSWERED, EMPTY, MEANING, REFUSED, Counts, grade

if TYPE_CHECKING:
    from backends.checkpoint.resolve import CheckpointFiles
    from backends.generation.types import Answer, Generator

MAX_NEW_TOKENS = 64  # a refusal is about 25 characters
_PREDICT = ("predict", "model_output", "pred")
_LABEL = ("label", "expected_output", "output")

EPILOG = """examples:
  python -m eval.webqa --ckpt RUN --data webqa_test.jsonl
  python -m eval.webqa --ckpt RUN --data webqa_test.jsonl --limit 200 --max-new-tokens 32
  python -m eval.webqa --predictions predictions.jsonl --out results
"""


def _parser() -> argparse.ArgumentParser:
    from backends.cli import model_arguments as asking
    from backends.cli.model_arguments import add_checkpoint_arguments

    parser = argparse.ArgumentParser(
        prog="python -m eval.webqa",
        description="Grade a model on answering from a text or refusing: confusion of both, right answers among them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_checkpoint_arguments(parser, required=False)
    parser.add_argument(
        "--data", metavar="FILE", help="conversations as converters.webqa writes them; the last answer is the label"
    )
    parser.add_argument("--predictions", metavar="FILE", help="grade these again instead of asking a model")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N rows only (default: all)")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="for predictions, table and results (default: eval/webqa-… in the run; runs/eval/… for a model)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="start over (default: go on with the predictions there)"
    )
    asking.add_limit_arguments(parser, MAX_NEW_TOKENS)
    asking.add_device_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    args = _parser().parse_args(argv)
    if (args.ckpt is None) == (args.predictions is None):
        raise UsageError("one of --ckpt and --predictions is needed")
    if args.limit is not None and args.limit < 1:
        raise UsageError(f"--limit is {args.limit}; 1 or more is expected")
    if args.predictions:
        if args.data:
            raise UsageError("--data goes with --ckpt; predictions have their labels beside them")
        report(Path(args.predictions), Path(args.out) if args.out else None, limit=args.limit)
        return 0
    if not args.data:
        raise UsageError("--ckpt needs --data FILE of conversations")
    return evaluate(args)


def evaluate(args: argparse.Namespace) -> int:
    """Ask the checkpoint every question that is not answered yet, then grade all.

    Raises:
        UsageError: the data is missing or empty, or no template is known.
        UserError: a row has no answer to grade by, or predictions there were made with something else.
    """
    from backends.cli import model_arguments as asking
    from converters.text.conversation import read_conversations
    from eval.math.command import default_out

    conversations = read_conversations(args.data)
    for number, one in enumerate(conversations, start=1):
        if one.turns[-1].role != "assistant" or not one.turns[-1].text.strip():
            raise UserError(f"{args.data}: row {number}: no answer to grade by")
    rows = [(one.id, one.turns[:-1], one.turns[-1].text) for one in conversations[: args.limit]]
    files = asking.checkpoint_from(args)
    folder = Path(args.out) if args.out else default_out(files, args.data, args.limit, "webqa")
    report(ask(rows, files, args, folder), folder)
    return 0


def ask(
    rows: Sequence[tuple[str, tuple[Any, ...], str]], files: CheckpointFiles, args: argparse.Namespace, folder: Path
) -> Path:
    """Answer the rows (id, turns, label) that the predictions in ``folder`` lack; return the file."""
    from backends.cli import model_arguments as asking
    from backends.generation import registry
    from backends.generation.predictions_log import AnswerLog, answer_missing
    from backends.generation.types import answer_limits
    from converters.common.files import sha256_file
    from mindrecord.tokens.encode import encode_prompts

    prompts = dict(enumerate(encode_prompts([turns for _, turns, _ in rows], files.template, files.tokenizer)))
    limits = answer_limits(files, args.max_new_tokens, args.min_new_tokens)
    identity = {
        **files.identity,
        "data": sha256_file(args.data)[:16],
        "rows": len(prompts),
        **registry.conditions(asking.runtime_from(args)),
        "max_new_tokens": limits.max_new,
        "min_new_tokens": limits.min_new,
    }
    about = {"ckpt": str(files.path), "data": str(args.data), "parameters": files.parameters}
    log = AnswerLog(folder / "predictions.jsonl", identity, about, overwrite=args.overwrite)

    def written(index: int, answer: Answer) -> dict[str, Any]:
        row_id, _, label = rows[index]
        text = files.tokenizer.decode(answer.ids).strip()
        prompt = files.tokenizer.decode(prompts[index], skip_special=False)
        row = {"idx": index, "id": row_id, "prompt": prompt, "predict": text, "label": label, **grade(text, label)}
        return {**row, "finish_reason": answer.finish_reason, "n_tokens": len(answer.ids)}

    def load() -> Generator:
        return registry.load_generator(files, asking.runtime_from(args))

    answer_missing(log, prompts, load, files.stop_ids, limits, written)
    return log.path


def read_predictions(path: Path) -> list[dict[str, Any]]:
    """Read predictions and grade them anew; nothing but the answer and the label is believed.

    Raises:
        UsageError: the file is missing or empty.
        UserError: a row lacks answer or label, or an ``idx`` comes twice.
    """
    from eval.predictions import read_values

    rows, seen = [], set()
    for number, value in enumerate(read_values(path)):
        row = value if isinstance(value, dict) else {}
        predict = next((row[key] for key in _PREDICT if isinstance(row.get(key), str)), None)
        label = next((row[key] for key in _LABEL if isinstance(row.get(key), str) and row[key].strip()), None)
        if predict is None or label is None:
            found = ", ".join(row) if row else type(value).__name__
            raise UserError(f"{path}: row {number + 1}: texts under predict and label are expected; found {found}")
        idx = row.get("idx", number)
        if idx in seen:
            raise UserError(f"{path}: row {number + 1}: idx {idx} is there twice")
        seen.add(idx)
        rows.append({**row, "idx": idx, "predict": predict, "label": label, **grade(predict, label)})
    return rows


def report(predictions: Path, folder: Path | None, *, limit: int | None = None) -> Counts:
    """Grade a predictions file, print the table; write table and results where there is a folder.

    Raises:
        UserError: rows are missing, too many or broken.
    """
    from converters.common.files import sha256_file, write_json, write_text
    from eval.markdown import markdown_table
    from eval.predictions import read_meta

    rows = read_predictions(predictions)
    meta = read_meta(predictions)
    if meta and not meta["complete"]:
        say(f"{predictions}: unfinished; the command that made it goes on with it")
    elif meta and meta["rows"] != len(rows):
        raise UserError(f"{predictions}: {len(rows)} rows, where {meta['rows']} were answered: it was edited")
    counts = Counts.of(rows[:limit])
    header, body = table_rows(counts)
    lines = summary_lines(counts)
    print("\n".join([format_table(header, body), "", *lines]))
    if folder is not None:
        task = f"webqa_{Path(meta.get('data') or predictions.name).name.split('.')[0]}"
        text = "\n".join([f"# {task}", "", markdown_table(header, body), *(f"- {line}" for line in lines)])
        write_text(folder / "table.md", text + "\n")
        write_json(folder / "results.json", results_json(counts, task, {**meta, "sha256": sha256_file(predictions)}))
        say(f"{folder}/results.json; every row in {predictions}")
    return counts


def table_rows(counts: Counts) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of the confusion: one row a label."""
    columns = (ANSWERED, REFUSED, EMPTY)
    header = ["label", "n", *(f"→ {name}" for name in columns)]
    return header, [
        [side, counts.labelled(side), *(counts.confusion[side][name] for name in columns)]
        for side in (ANSWERED, REFUSED)
    ]


def summary_lines(counts: Counts) -> list[str]:
    """Say each measure with its interval and what it is out of."""
    from eval.results import percent, wilson

    lines = []
    for name, (right, whole) in counts.measures().items():
        shown = f"{name.replace('_', ' ')}: "
        if whole:
            low, high = wilson(right, whole)
            shown += f"{percent(right / whole)} % (95 %: {percent(low)} to {percent(high)}), {right} of {whole} rows"
        else:
            shown += "–, no such row"
        lines.append(f"{shown}; {MEANING[name]}")
    return lines


def results_json(counts: Counts, task: str, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``results.json`` in the shape of lm-eval's, with counts and hashes added."""
    from eval.results import environment, git_hash, wilson

    identity = dict(meta.get("identity", {}))
    entry: dict[str, Any] = {"alias": task}
    for name, (right, whole) in counts.measures().items():
        entry[f"{name},none"] = right / whole if whole else None
        entry[f"{name}_wilson95,none"] = list(wilson(right, whole))
    higher = {name: name not in ("refused_needlessly", "answered_without_evidence") for name in counts.measures()}
    return {
        "results": {task: entry},
        "configs": {
            task: {
                "task": task,
                "output_type": "generate_until",
                "measures": MEANING,
                "generation_kwargs": {
                    key: identity[key] for key in ("max_new_tokens", "min_new_tokens", "dtype") if key in identity
                },
                "template": identity.get("template"),
                "metadata": {"version": 1.0},
            }
        },
        "versions": {task: 1.0},
        "n-shot": {task: 0},
        "higher_is_better": {task: higher},
        "n-samples": {task: {"original": counts.n, "effective": counts.n}},
        "counts": {"confusion": counts.confusion, "exact": counts.exact, "contained": counts.contained},
        "config": {key: value for key, value in meta.items() if key not in ("identity", "complete", "rows")},
        "hashes": {**identity, "predictions": meta.get("sha256")},
        "git_hash": git_hash(),
        "date": time.time(),
        "environment": environment(),
    }
