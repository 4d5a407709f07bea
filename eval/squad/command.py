"""Reading comprehension under a named protocol: what a model still knows of what it could do before.

::

    questions (SQuAD's JSON) → the contest's reading prompt in the run's template
                             → answers (predictions.jsonl, resumable)
                             → first line, scored (eval.squad.rules) → table on stdout, results.json, the gate

``--predictions`` starts at the third arrow and needs no torch. ``--template squad`` asks in the contest's own form:
the reading prompt alone, without BOS, whatever the run was trained in.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.generation.types import Answer, answer_limits
from converters.common.console import format_table, say
from converters.common.errors import GateNotPassed, UsageError, UserError
from eval.squad.rules import PROTOCOLS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backends.checkpoint.resolve import CheckpointFiles
    from converters.text.conversation import Turn
    from converters.text.template import Template
    from eval.math.command import Loader
    from eval.squad.data import Answered, Question

CONTEST_FORM = "squad"
EPILOG = """examples:
  python -m eval.squad --ckpt RUN
  python -m eval.squad --ckpt RUN --data dev-v1.1.json --template squad
  python -m eval.squad --ckpt RUN --data dev-v1.1.json --protocol both --limit 500 --out after
  python -m eval.squad --predictions answers.json --data dev-v1.1.json --protocol official
  python -m eval.squad --predictions contest-log.jsonl --gate 53.88321397598089 39.75326560232221
"""


def options() -> argparse.ArgumentParser:
    """Return the options of the command."""
    from backends.cli.model_arguments import add_checkpoint_arguments, add_device_arguments, add_limit_arguments
    from eval.squad.results import MAX_NEW_TOKENS

    parser = argparse.ArgumentParser(
        prog="python -m eval.squad",
        description="Measure reading comprehension: F1 and exact match under a named protocol, and a gate.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_checkpoint_arguments(parser, required=False)
    parser.add_argument("--data", metavar="FILE", help="SQuAD v1.1's JSON (.gz too; default: the shipped reading set)")
    parser.add_argument(
        "--protocol",
        choices=[*PROTOCOLS, "both"],
        default="mindformers",
        help="mindformers: the contest's; official: SQuAD v1.1's own (default: %(default)s)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="the first N questions only (default: all)")
    parser.add_argument(
        "--predictions",
        metavar="FILE",
        help="score these instead of asking a model: {id: text}, this command's predictions.jsonl, or rows of "
        "pred and label",
    )
    parser.add_argument(
        "--gate",
        nargs=2,
        type=float,
        metavar=("F1", "EM"),
        help="least figures in percent, exit 3 below (default: the contest's for Llama-3-8B in --template squad)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="for predictions.jsonl, answers.json, results.json and table.md (default: eval/squad-… in the run; "
        "runs/eval/… for a model)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="start over (default: go on with the predictions in --out)"
    )
    add_limit_arguments(parser, MAX_NEW_TOKENS)
    add_device_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    args = options().parse_args(argv)
    if (args.ckpt is None) == (args.predictions is None):
        raise UsageError("one of --ckpt and --predictions is needed")
    if args.limit is not None and args.limit < 1:
        raise UsageError(f"--limit {args.limit}: at least 1 is needed")
    return regrade(args) if args.predictions else evaluate(args)


def evaluate(args: argparse.Namespace, load: Loader | None = None) -> int:
    """Ask the checkpoint every question that is not answered yet, then score all.

    Args:
        args: the options of the command.
        load: loads the model, once for several evaluations; None takes the backend asked for.

    Raises:
        UsageError: the data is missing or empty, or no template is known.
        UserError: the data has another shape, or predictions there were made with something else.
        GateNotPassed: a figure is below the gate.
    """
    from backends.checkpoint.resolve import open_checkpoint
    from backends.cli import model_arguments as asking
    from backends.generation import registry
    from backends.generation.predictions_log import AnswerLog, answer_missing
    from converters.common.files import sha256_file, write_json
    from eval.squad.data import SHIPPED, Answered, choose, read_questions
    from eval.squad.results import scores_by_task
    from eval.squad.rules import load_jieba
    from mindrecord.tokens.encode import encode_prompts

    limits = answer_limits(None, args.max_new_tokens, args.min_new_tokens)
    protocols = _protocols(args.protocol)
    data = args.data or SHIPPED
    if args.data is None:
        say(f"data: {SHIPPED.name}, the shipped reading set; --data FILE takes SQuAD's own")
    questions = choose(read_questions(data), only_first=args.protocol == "mindformers", limit=args.limit)
    if "mindformers" in protocols:
        load_jieba()  # if it is missing, that is said before a model is loaded
    # naming the contest's own form is asking for its measure, not a mistake about how the run was trained
    allowed = args.allow_template_mismatch or args.template == CONTEST_FORM
    files = open_checkpoint(args.ckpt, base=args.base, template=args.template, allow_mismatch=allowed)
    turns = [[reading_turn(question, files.template)] for question in questions]
    prompts = dict(enumerate(encode_prompts(turns, files.template, files.tokenizer)))
    identity = {
        **files.identity,
        "data": sha256_file(data)[:16],
        "protocol": args.protocol,
        "rows": len(prompts),
        "max_new_tokens": limits.max_new,
        "min_new_tokens": limits.min_new,
        **registry.conditions(asking.runtime_from(args)),
    }
    about = {"ckpt": str(args.ckpt), "data": str(data), "parameters": files.parameters}
    folder = Path(args.out) if args.out else default_out(files, args)
    log = AnswerLog(folder / "predictions.jsonl", identity, about, overwrite=args.overwrite)

    def to_row(index: int, answer: Answer) -> dict[str, Any]:
        question = questions[index]
        predict = files.tokenizer.decode(answer.ids).strip()
        scored = Answered(question.id, predict, question.golds, question.first)
        return {
            "idx": index,
            "id": question.id,
            "first": question.first,
            "prompt": files.tokenizer.decode(prompts[index], skip_special=False),
            "predict": predict,
            "label": question.golds[0],
            "labels": list(question.golds),
            "scores": scores_by_task(scored, protocols),
            "finish_reason": answer.finish_reason,
            "n_tokens": len(answer.ids),
        }

    load_model = functools.partial(load or registry.load_generator, files, asking.runtime_from(args))
    rows = answer_missing(log, prompts, load_model, files.stop_ids, limits, to_row)
    answers = [
        Answered(row["id"], row["predict"], tuple(row["labels"]), row["first"], row["finish_reason"]) for row in rows
    ]
    write_json(folder / "answers.json", {answer.id: answer.text for answer in answers})
    return _report(args, answers, log.path, {}, folder)


def reading_turn(question: Question, template: Template) -> Turn:
    """Return the user turn that asks a question: the contest's reading prompt, as text in any template but its own.

    Raises:
        UserError: the question has an empty line, where the contest's own template parts passage and question.
    """
    from converters.text.conversation import Turn

    if template.name != CONTEST_FORM:
        return Turn("user", question.prompt)
    turn = Turn("user", f"{question.context}\n\n{question.text}")
    if "".join(segment.text for segment in template.prompt([turn])) != question.prompt:
        raise UserError(f"question {question.id} has an empty line in it; --template {CONTEST_FORM} cannot hold that")
    return turn


def default_out(files: CheckpointFiles, args: argparse.Namespace) -> Path:
    """Where an evaluation goes by default: into the run, but never into a model directory that others may share."""
    parts = ["squad", Path(args.data).name.split(".")[0] if args.data else "reading"]
    if args.protocol != "mindformers":
        parts.append(args.protocol)
    if args.template:
        parts.append(args.template)
    if args.limit is not None:
        parts.append(f"limit{args.limit}")
    home = files.path / "eval" if files.run is not None else Path("runs") / "eval" / files.path.resolve().name
    return home / "-".join(parts)


def regrade(args: argparse.Namespace) -> int:
    """Score predictions of this command or of another tool; results.json is written only where ``--out`` says.

    Raises:
        UsageError: a file is missing or empty.
        UserError: the predictions have another shape or do not fit the data.
        GateNotPassed: a figure is below the gate.
    """
    from converters.common.files import sha256_file
    from eval.squad.data import read_answers

    only_first = args.protocol == "mindformers"
    answers = read_answers(args.predictions, args.data, only_first=only_first, limit=args.limit)
    known = {"data": sha256_file(args.data)[:16]} if args.data else {}
    return _report(args, answers, Path(args.predictions), known, Path(args.out) if args.out else None)


def _protocols(name: str) -> list[str]:
    return list(PROTOCOLS) if name == "both" else [name]


def _report(
    args: argparse.Namespace,
    answers: Sequence[Answered],
    predictions: Path,
    known: dict[str, str],
    folder: Path | None,
) -> int:
    """Print the figures, write results.json and hold them against the gate."""
    from converters.common.files import sha256_file, write_json, write_text
    from eval.markdown import markdown_table
    from eval.predictions import read_meta
    from eval.squad.data import choose
    from eval.squad.results import (
        Gate,
        contest_gate,
        gate_line,
        labels_hash,
        results_json,
        squad_rows,
        summary_lines,
        tally,
    )

    meta = read_meta(predictions)
    if meta and not meta["complete"]:
        say(f"{predictions}: unfinished; the command that made it goes on with it")
    what = {"protocol": args.protocol, "rows": len(answers), "labels": labels_hash(answers)}
    meta = {**meta, "identity": {**known, **meta.get("identity", {}), **what}, "sha256": sha256_file(predictions)}
    tallies = {protocol: tally(answers, protocol) for protocol in _protocols(args.protocol)}
    gate, why_not = None, "the contest's is for the mindformers protocol"
    if args.gate:
        f1, em = args.gate
        gate = Gate(next(iter(tallies)), f1, em, "--gate")
    elif "mindformers" in tallies:
        gate, why_not = contest_gate(labels_hash(choose(answers, only_first=True, limit=None)), meta)
    verdict = gate_line(gate, why_not, tallies)
    header, rows = squad_rows(tallies)
    lines = [*summary_lines(tallies, meta), verdict]
    print(format_table(header, rows))
    print("\n".join(["", *lines]))
    if folder is not None:
        title = f"# Reading, {args.protocol} protocol{'s' if args.protocol == 'both' else ''}"
        text = [title, "", markdown_table(header, rows), *(f"- {line}" for line in lines)]
        write_text(folder / "table.md", "\n".join(text) + "\n")
        write_json(folder / "results.json", results_json(tallies, gate, meta))
        say(f"{folder}/results.json; every row in {predictions}")
    if gate and not gate.passed(tallies[gate.protocol]):
        raise GateNotPassed(verdict)
    return 0
