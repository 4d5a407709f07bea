"""``python -m eval.sweep``: evaluate every checkpoint of a run."""

from __future__ import annotations

import argparse

from backends.cli.model_arguments import add_device_arguments, runtime_from
from converters.common.console import run_main
from converters.common.errors import GateNotPassed
from eval.cli import add_loss_gate_argument
from eval.math.rules import RULES
from eval.retention import THRESHOLD
from eval.squad.prompts import CONTEST, PROMPTS
from eval.squad.rules import PROTOCOLS
from eval.sweep import sweep

EPILOG = """examples:
  python -m eval.sweep --ckpt RUN --math heldout.jsonl
  python -m eval.sweep --ckpt RUN --math heldout.jsonl --squad dev-v1.1.json --squad-template squad --limit 500
  python -m eval.sweep --ckpt RUN --math heldout.jsonl --text dev-v1.1.json --loss-gate 0.05
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.sweep",
        description="Evaluate every checkpoint of a run: accuracy, reading, contest score; name the best.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ckpt", required=True, metavar="RUN", help="run directory with checkpoints")
    parser.add_argument("--base", metavar="DIR", help="the frozen model (default: where the adapter says)")
    parser.add_argument("--math", required=True, metavar="FILE", help='problems, one {"problem", "solution"} a line')
    parser.add_argument("--squad", metavar="FILE", help="SQuAD v1.1's JSON (default: the shipped reading set)")
    parser.add_argument(
        "--text",
        metavar="FILE",
        help="held-out text whose loss is measured: SQuAD's JSON for its passages, .txt or JSON rows with 'text' "
        "(default: no loss)",
    )
    add_loss_gate_argument(parser, "that loss may rise above the base's, in nats a token")
    parser.add_argument(
        "--protocol", choices=list(PROTOCOLS), default="mindformers", help="reading protocol (default: %(default)s)"
    )
    parser.add_argument(
        "--prompt",
        choices=list(PROMPTS),
        default=CONTEST,
        help="prompt of the reading questions (default: %(default)s)",
    )
    parser.add_argument(
        "--squad-template",
        metavar="NAME",
        help="prompt template of the reading questions; squad: the contest's own (default: the run's own)",
    )
    parser.add_argument("--rule", choices=list(RULES), default="close", help="grading rule (default: %(default)s)")
    parser.add_argument(
        "--threshold",
        type=float,
        default=THRESHOLD,
        metavar="SHARE",
        help="smallest share of the base's F1 and EM that a checkpoint must keep (float, default: %(default)s)",
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="the first N problems and questions, and N passages (default: all)"
    )
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="a solution is cut after N tokens (default: the longest row the run was trained on, at least 128)",
    )
    parser.add_argument("--out", metavar="DIR", help="directory of all results (default: eval/sweep in the run)")
    parser.add_argument("--overwrite", action="store_true", help="start over (default: continue with what is in --out)")
    add_device_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Raises:
        GateNotPassed: no checkpoint keeps enough.
    """
    args = _parser().parse_args(argv)
    found = sweep(
        args.ckpt,
        args.math,
        args.squad,
        text=args.text,
        loss_gate=args.loss_gate,
        base=args.base,
        protocol=args.protocol,
        prompt=args.prompt,
        squad_template=args.squad_template,
        rule=args.rule,
        threshold=args.threshold,
        limit=args.limit,
        max_new_tokens=args.max_new_tokens,
        out=args.out,
        overwrite=args.overwrite,
        runtime=runtime_from(args),
    )
    print(found.text)
    if found.best is None:
        raise GateNotPassed(found.verdict)
    return 0


if __name__ == "__main__":
    run_main(main)
