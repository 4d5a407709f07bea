"""Accuracy on arithmetic problems, by kind and under every rule.

::

    problems (JSONL) → prompts in the run's template → answers (predictions.jsonl, resumable)
                     → parsed and graded (eval.math.rules) → table on stdout, results.json

``--predictions`` starts at the third arrow and needs no torch.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.generation.types import Answer, answer_limits
from converters.common.console import say
from converters.common.errors import UsageError, UserError
from eval.math.rules import RULES, parse

if TYPE_CHECKING:
    from backends.checkpoint.resolve import CheckpointFiles
    from backends.generation.types import Generator, Runtime

    Loader = Callable[[CheckpointFiles, Runtime], Generator]

EPILOG = """examples:
  python -m eval.math --ckpt RUN --data heldout.jsonl
  python -m eval.math --ckpt models/tiny --template vicuna --data heldout.jsonl --limit 200 --out before
  python -m eval.math --predictions before/predictions.jsonl
  python -m eval.math --compare before after
"""


def options() -> argparse.ArgumentParser:
    """Return the options of the command."""
    from backends.cli.model_arguments import add_checkpoint_arguments, add_device_arguments, add_limit_arguments

    parser = argparse.ArgumentParser(
        prog="python -m eval.math",
        description="Grade a model on arithmetic problems: accuracy by kind, under every rule.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_checkpoint_arguments(parser, required=False)
    parser.add_argument("--data", metavar="FILE", help='problems, one {"problem", "solution"} a line (.gz too)')
    parser.add_argument("--predictions", metavar="FILE", help="grade these predictions again instead of asking a model")
    parser.add_argument(
        "--compare", nargs=2, metavar=("BEFORE", "AFTER"), help="two results: files or their directories"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="the first N problems only (default: all)")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="for predictions.jsonl and results.json (default: eval/math-DATA in the run; runs/eval/… for a model)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="start over (default: go on with the predictions in --out)"
    )
    parser.add_argument(
        "--rule",
        choices=list(RULES),
        default="close",
        help="rule of the contest's score and of --compare (default: %(default)s)",
    )
    add_limit_arguments(parser)
    add_device_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    args = options().parse_args(argv)
    if sum(value is not None for value in (args.ckpt, args.predictions, args.compare)) != 1:
        raise UsageError("one of --ckpt, --predictions and --compare is needed")
    if args.compare:
        before, after = args.compare
        return compare(before, after, args.rule)
    if args.predictions:
        return regrade(args)
    if not args.data:
        raise UsageError(
            "--ckpt needs --data FILE of problems (converters.arithmetic convert --holdout-out writes one)"
        )
    return evaluate(args)


def evaluate(args: argparse.Namespace, load: Loader | None = None) -> int:
    """Ask the checkpoint every problem that is not answered yet, then grade all.

    Args:
        args: the options of the command.
        load: loads the model, once for several evaluations; None takes the backend asked for.

    Raises:
        UsageError: the data is missing or empty, or no template is known.
        UserError: the data has another shape, or predictions there were made with something else.
    """
    from backends.cli import model_arguments as asking
    from backends.generation import registry
    from backends.generation.predictions_log import AnswerLog, answer_missing
    from converters.common.files import sha256_file
    from converters.text.conversation import Turn
    from eval.predictions import prediction_row
    from mindrecord.tokens.encode import encode_prompts

    problems = read_problems(args.data, args.limit)
    files = asking.checkpoint_from(args)
    limits = answer_limits(files, args.max_new_tokens, args.min_new_tokens)
    questions = [[Turn("user", row["problem"])] for row in problems.values()]
    prompts = dict(zip(problems, encode_prompts(questions, files.template, files.tokenizer), strict=True))
    identity = {
        **files.identity,
        "data": sha256_file(args.data)[:16],
        "rows": len(problems),
        "max_new_tokens": limits.max_new,
        "min_new_tokens": limits.min_new,
        **registry.conditions(asking.runtime_from(args)),
    }
    about = {
        "ckpt": str(args.ckpt),
        "data": str(args.data),
        "parameters": files.parameters,
        "training": files.training,
    }
    folder = Path(args.out) if args.out else default_out(files, args.data, args.limit, "math")
    log = AnswerLog(folder / "predictions.jsonl", identity, about, overwrite=args.overwrite)

    def to_row(index: int, answer: Answer) -> dict[str, Any]:
        return prediction_row(
            index,
            problems[index]["kind"],
            files.tokenizer.decode(prompts[index], skip_special=False),
            files.tokenizer.decode(answer.ids).strip(),
            problems[index]["solution"],
            answer.finish_reason,
            len(answer.ids),
        )

    load_model = functools.partial(load or registry.load_generator, files, asking.runtime_from(args))
    answer_missing(log, prompts, load_model, files.stop_ids, limits, to_row)
    return _report(log.path, folder, args.rule)


def read_problems(path: str, limit: int | None) -> dict[int, dict[str, str]]:
    """Read ``{"problem", "solution"}`` rows and name their kinds; by row number from 0.

    A row whose solution has no answer to compare with is left out, and said.

    Raises:
        UsageError: the file is missing or empty.
        UserError: a row has another shape.
    """
    from converters.common.reader import read_rows
    from eval.predictions import kind_of

    problems: dict[int, dict[str, str]] = {}
    without: list[int] = []
    for index, (number, row) in enumerate(read_rows(path)):
        if limit is not None and index >= limit:
            break
        texts = isinstance(row, dict) and all(isinstance(row.get(key), str) for key in ("problem", "solution"))
        if not texts:
            found = ", ".join(row) if isinstance(row, dict) else type(row).__name__
            raise UserError(f"{path}: row {number}: texts under 'problem' and 'solution' are expected; found {found}")
        if parse(row["solution"]) is None:
            without.append(number)
            continue
        kind = kind_of(row["problem"], row["solution"])
        problems[index] = {"problem": row["problem"], "solution": row["solution"], "kind": kind}
    if without:
        say(f"{path}: {len(without)} rows have no answer in their solution and are left out (row {without[0]} first)")
    if not problems:
        raise UsageError(f"{path}: no problem with an answer in it")
    return problems


def default_out(files: CheckpointFiles, data: str, limit: int | None, task: str) -> Path:
    """Where an evaluation goes by default: into the run, but never into a model directory that others may share."""
    name = f"{task}-{Path(data).name.split('.')[0]}" + (f"-limit{limit}" if limit is not None else "")
    if files.run is not None:
        return files.path / "eval" / name
    return Path("runs") / "eval" / files.path.resolve().name / name


def regrade(args: argparse.Namespace) -> int:
    """Grade predictions again, ours or another tool's; results.json is written only where ``--out`` says."""
    return _report(Path(args.predictions), Path(args.out) if args.out else None, args.rule)


def _report(predictions: Path, folder: Path | None, rule: str) -> int:
    """Grade a predictions file, print the table and write results.json."""
    from converters.common.files import sha256_file, write_json
    from eval.math.results import TOTAL, contest_score, math_table, results_json, summary_lines, tally
    from eval.predictions import read_meta, read_predictions

    tallies = tally(read_predictions(predictions))
    meta = read_meta(predictions)
    if meta and not meta["complete"]:
        say(f"{predictions}: unfinished; the command that made it goes on with it")
    contest = contest_score(meta.get("parameters", {}), tallies[TOTAL].share(rule))
    print(math_table(tallies))
    print("\n".join(["", *summary_lines(tallies, contest, rule)]))
    if folder is not None:
        meta = {**meta, "sha256": sha256_file(predictions)}
        write_json(folder / "results.json", results_json(tallies, contest=contest, rule=rule, meta=meta))
        say(f"{folder}/results.json; every row in {predictions}")
    return 0


def compare(before: str, after: str, rule: str = "close") -> int:
    """Print accuracy by kind, before → after.

    Args:
        before: a ``results.json``, or the directory that holds it.
        after: the same, of the tuned model.
        rule: the rule to compare under.

    Raises:
        UserError: the results are not of the same rows.
    """
    from eval.math.results import compare_table

    print("\n".join(compare_table(_read_results(before), _read_results(after), rule)))
    return 0


def _read_results(path: str) -> dict[str, Any]:
    from converters.common.reader import read_json

    file = Path(path) / "results.json" if Path(path).is_dir() else Path(path)
    value = read_json(file)
    if not isinstance(value, dict) or "counts" not in value or "hashes" not in value:
        raise UserError(f"{file}: not a results.json of eval.math (no 'counts' and 'hashes')")
    return value
