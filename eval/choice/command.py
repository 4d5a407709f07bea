"""Accuracy on tasks with few possible answers: yes/no/maybe, 0/1, A to D.

::

    conversations → prompts in the run's template ─┬─ generate: the first whole word that is a choice
                                                   └─ loglik: the likeliest choice, all in one forward pass
                  → predictions.jsonl (resumable) → table on stdout, table.md, results.json

``--predictions`` starts at the last arrow and needs no torch.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.generation.types import Answer, answer_limits
from converters.common.console import progress, say
from converters.common.errors import UsageError, UserError
from eval.choice.rules import UNPARSED, Choices, Scores

if TYPE_CHECKING:
    from backends.checkpoint.resolve import CheckpointFiles
    from backends.generation.types import Generator
    from eval.choice.files import Task

MAX_NEW_TOKENS = 16  # a choice comes in the first words or not at all

EPILOG = """examples:
  python -m eval.choice --ckpt RUN --data rte_dev.jsonl --choices yes,no
  python -m eval.choice --ckpt RUN --data mnli_dev.jsonl --choices yes,no,maybe --way loglik
  python -m eval.choice --ckpt RUN --data QQP_dev.json --choices 0,1 --limit 150 --out result_QQP.txt
  python -m eval.choice --predictions result_QQP.txt --answers QQP_answers.txt --choices 0,1 --score-002
"""


def _parser() -> argparse.ArgumentParser:
    from backends.cli.model_arguments import add_checkpoint_arguments, add_device_arguments

    parser = argparse.ArgumentParser(
        prog="python -m eval.choice",
        description="Grade a model on questions with few possible answers: accuracy, F1, Matthews correlation.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_checkpoint_arguments(parser, required=False)
    parser.add_argument(
        "--data",
        metavar="FILE",
        help="conversations (ShareGPT or Alpaca); the last answer is the label, if there is one",
    )
    parser.add_argument(
        "--predictions", metavar="FILE", help="grade these again instead of asking a model (.txt: one a line)"
    )
    parser.add_argument("--answers", metavar="FILE", help="with --predictions: the labels, one a line")
    parser.add_argument("--choices", metavar="A,B,…", help="the possible answers (default: the labels of the data)")
    parser.add_argument(
        "--positive", metavar="CHOICE", help="name the F1 of this class (default: 1, yes or true if a choice)"
    )
    parser.add_argument("--score-002", action="store_true", help="add report 002's score, 70 points times the accuracy")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N rows only (default: all)")
    parser.add_argument(
        "--out",
        metavar="PATH",
        help="directory for predictions, table and results (default: eval/choice-… in the run; runs/eval/… for a "
        "model); a name ending in .txt gets the answers, one a line",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="start over (default: go on with the predictions there)"
    )
    add_way_arguments(parser)
    add_device_arguments(parser)
    return parser


def add_way_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how a choice is found, and how long a written answer may be."""
    from backends.cli.model_arguments import add_limit_arguments

    parser.add_argument(
        "--way",
        choices=["generate", "loglik"],
        default="generate",
        help="generate: the first choice that the model writes; loglik: the choice of the highest summed "
        "log-probability (default: %(default)s)",
    )
    add_limit_arguments(parser, MAX_NEW_TOKENS)


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    args = _parser().parse_args(argv)
    if (args.ckpt is None) == (args.predictions is None):
        raise UsageError("one of --ckpt and --predictions is needed")
    if args.limit is not None and args.limit < 1:
        raise UsageError(f"--limit is {args.limit}; 1 or more is expected")
    if args.predictions:
        if args.data:
            raise UsageError("--data goes with --ckpt; labels for --predictions come from --answers")
        return regrade(args)
    if not args.data:
        raise UsageError("--ckpt needs --data FILE of conversations")
    if args.answers:
        raise UsageError("--answers goes with --predictions: grade the file that this writes")
    return evaluate(args)


def evaluate(args: argparse.Namespace) -> int:
    """Ask the checkpoint every question that is not answered yet, then grade all that have a label.

    Raises:
        UsageError: the data is missing or empty, or no template is known.
        UserError: the data has another shape, or predictions there were made with something else.
    """
    from backends.cli import model_arguments as asking
    from backends.generation import registry
    from eval.choice.files import read_task, write_labels
    from eval.math.command import default_out

    task = read_task(args.data, args.choices, args.limit)
    _check_positive(args.positive, task.choices)
    files = asking.checkpoint_from(args)
    labels = Path(args.out) if args.out and args.out.endswith(".txt") else None
    own = args.out is None or labels is not None
    folder = default_out(files, args.data, args.limit, f"choice-{args.way}") if own else Path(args.out)
    load = functools.partial(registry.load_generator, files, asking.runtime_from(args))
    predictions = ask(task, files, args, folder, load)
    rows, _ = report(predictions, folder, task.choices, positive=args.positive, score_002=args.score_002)
    if labels:
        write_labels(labels, rows)
        lost = sum(row["parsed"] is None for row in rows)
        say(f"{labels}: {len(rows)} labels, {lost} of them {UNPARSED!r}")
    return 0


def ask(
    task: Task, files: CheckpointFiles, args: argparse.Namespace, folder: Path, load: Callable[[], Generator]
) -> Path:
    """Answer the questions that the predictions in ``folder`` lack; return the file.

    Args:
        task: questions and choices.
        files: the checkpoint.
        args: options of :func:`add_way_arguments`, ``backend``, ``device``, ``dtype`` and ``overwrite``.
        folder: where predictions lie.
        load: loads the model; not called when every answer is there.
    """
    from backends.cli.model_arguments import runtime_from
    from backends.generation import registry
    from backends.generation.predictions_log import AnswerLog, answer_missing
    from converters.common.files import sha256_file
    from eval.choice.files import graded
    from mindrecord.tokens.encode import encode_prompts

    turns = [question.turns for question in task.questions]
    prompts = dict(enumerate(encode_prompts(turns, files.template, files.tokenizer)))
    generate = args.way == "generate"
    limits = answer_limits(None, args.max_new_tokens, args.min_new_tokens) if generate else None
    identity = {
        **files.identity,
        "data": sha256_file(task.path)[:16],
        "rows": len(prompts),
        "choices": list(task.choices.names),
        "way": args.way,
        **registry.conditions(runtime_from(args)),
        **({"max_new_tokens": limits.max_new, "min_new_tokens": limits.min_new} if limits else {}),
    }
    about = {"ckpt": str(files.path), "data": str(task.path), "parameters": files.parameters}
    log = AnswerLog(folder / "predictions.jsonl", identity, about, overwrite=args.overwrite)

    def row(index: int, predict: str, **more: Any) -> dict[str, Any]:
        question = task.questions[index]
        prompt = files.tokenizer.decode(prompts[index], skip_special=False)
        basis = {"idx": index, "id": question.id, "prompt": prompt, "predict": predict, "label": question.label}
        return {**graded(basis, task.choices), **more}

    if limits:

        def written(index: int, answer: Answer) -> dict[str, Any]:
            text = files.tokenizer.decode(answer.ids).strip()
            return row(index, text, finish_reason=answer.finish_reason, n_tokens=len(answer.ids))

        answer_missing(log, prompts, load, files.stop_ids, limits, written)
        return log.path

    ids = choice_ids(task, files)
    missing = {index: prompt for index, prompt in prompts.items() if index not in log.rows}
    if log.rows:
        say(f"{log.path}: {len(log.rows)} of {len(prompts)} rows are there already, {len(missing)} to go")
    if missing:
        scorer = load().scorer(ids)
        with log, progress(total=len(missing), desc="scores") as bar:
            for index, values in scorer.score(missing):
                scores = dict(zip(task.choices.names, values, strict=True))
                log.append(row(index, max(scores, key=scores.__getitem__), logprobs=scores))
                bar.update()
    log.finish()
    return log.path


def choice_ids(task: Task, files: CheckpointFiles) -> list[list[int]]:
    """Return the tokens that the template makes the model write for each choice, without what ends an answer.

    Raises:
        UserError: two choices are the same tokens.
    """
    from converters.text.conversation import Conversation, Turn
    from mindrecord.tokens.encode import encode, encode_prompts

    # a template tokenises an answer on its own, so that one question stands for all
    turns = task.questions[0].turns
    names = task.choices.names
    [prompt] = encode_prompts([turns], files.template, files.tokenizer)
    answered = [Conversation(name, (*turns, Turn("assistant", name))) for name in names]
    rows, _ = encode(answered, files.template, files.tokenizer, seq_length=None)
    stop = set(files.stop_ids)
    found = []
    for i in range(len(rows)):
        ids = rows.row(i)[0].tolist()[len(prompt) :]
        found.append(ids[: next((place for place, token in enumerate(ids) if token in stop), len(ids))])
    for i, first in enumerate(found):
        for j, second in enumerate(found):
            if i < j and first == second:
                raise UserError(
                    f"this tokenizer writes {names[i]!r} and {names[j]!r} with the same tokens; take --way generate"
                )
            if len(first) < len(second) and second[: len(first)] == first:
                say(f"note: {names[j]!r} can never win, since its tokens begin with those of {names[i]!r}")
    return found


def regrade(args: argparse.Namespace) -> int:
    """Grade predictions again, ours or another tool's; files are written only where ``--out`` says."""
    from eval.choice.files import read_predictions
    from eval.predictions import read_meta

    if args.out and args.out.endswith(".txt"):
        raise UsageError("--out FILE.txt goes with --ckpt; with --predictions name a directory for table and results")
    predictions = Path(args.predictions)
    meta = read_meta(predictions)
    kept = meta.get("identity", {}).get("choices")
    choices = Choices.of(args.choices) if args.choices else Choices(tuple(kept)) if kept else None
    if choices is None:
        choices, _ = read_predictions(predictions, None)
        say(f"{predictions}: its labels are the choices: {', '.join(choices.names)}")
    _check_positive(args.positive, choices)
    folder = Path(args.out) if args.out else None
    report(
        predictions,
        folder,
        choices,
        answers=args.answers,
        limit=args.limit,
        positive=args.positive,
        score_002=args.score_002,
    )
    return 0


def _check_positive(name: str | None, choices: Choices) -> None:
    if name is not None and name not in choices.names:
        raise UsageError(f"--positive {name!r} is none of the choices {', '.join(choices.names)}")


def report(
    predictions: Path,
    folder: Path | None,
    choices: Choices,
    *,
    answers: str | None = None,
    limit: int | None = None,
    positive: str | None = None,
    score_002: bool = False,
    quiet: bool = False,
) -> tuple[list[dict[str, Any]], Scores | None]:
    """Grade a predictions file, print the table and write it with ``results.json``.

    Args:
        predictions: the file.
        folder: where table and results go; None writes nothing.
        choices: the possible answers.
        answers: file of labels, one a line, for predictions that have none.
        limit: grade the first rows only.
        positive: the class whose F1 is named; None takes ``1``, ``yes`` or ``true`` if it is a choice.
        score_002: add report 002's score.
        quiet: print no table.

    Returns:
        The graded rows, and the counts of those with a label; None where no row has one.

    Raises:
        UserError: rows are missing or too many, or a label is not one of the choices.
    """
    from converters.common.files import sha256_file, write_json, write_text
    from eval.choice.files import add_answers, read_predictions, task_name
    from eval.choice.results import markdown_report, results_json, text_report
    from eval.predictions import read_meta

    rows = read_predictions(predictions, choices)[1]
    meta = read_meta(predictions)
    if meta and not meta["complete"]:
        say(f"{predictions}: unfinished; the command that made it goes on with it")
    elif meta and meta["rows"] != len(rows):
        raise UserError(f"{predictions}: {len(rows)} rows, where {meta['rows']} were answered: it was edited")
    rows = rows[:limit]
    if answers is not None:
        rows = add_answers(rows, answers, choices)
    labelled = [row for row in rows if row["label"] is not None]
    unlabelled = len(rows) - len(labelled)
    if not labelled:
        parsed = [row["parsed"] for row in rows]
        counts = ", ".join(f"{name or UNPARSED} {parsed.count(name)}" for name in (*choices.names, None))
        say(f"{len(rows)} rows answered, none has a label to grade by: {counts}")
        return rows, None
    if unlabelled:
        say(f"{predictions}: {unlabelled} of {len(rows)} rows have no label and are not graded")
    scores = Scores.of(choices, ((row["label"], row["parsed"]) for row in labelled))
    positive = positive or choices.positive
    if not quiet:
        print(text_report(scores, positive, score_002=score_002))
    if folder is not None:
        task = task_name(meta.get("data") or predictions.name)
        results = results_json(
            scores,
            task=task,
            positive=positive,
            unlabelled=unlabelled,
            meta={**meta, "sha256": sha256_file(predictions)},
            score_002=score_002,
        )
        write_text(folder / "table.md", markdown_report(scores, positive, task, score_002=score_002))
        write_json(folder / "results.json", results)
        say(f"{folder}/results.json; every row in {predictions}")
    return rows, scores
