"""A novel as rows to continue: a context and what follows it, cut at sentence ends within chapters, as report 001 asks.

With --generator and --judge the pairs are instead written by one model from each passage and scored by another one,
both behind OpenAI-compatible endpoints; those of at least --threshold are kept. Keys are taken from GENERATOR_API_KEY
and JUDGE_API_KEY, or else OPENAI_API_KEY.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from converters.common.errors import UsageError, UserError
from converters.novel.passages import Bounds, Chapter, Left, Pair, chapters, chunks, decode, pairs, tidy
from converters.pipeline.options import OutputOptions, add_output_arguments, check_output_arguments, output_options

if TYPE_CHECKING:
    from converters.novel.model_pairs import Passage, Writer, Written
    from converters.pipeline.conversion import Row, Tally

KINDS = ("pair",)
INSTRUCTION = "续写以下小说片段："
EXAMPLES = """examples:
  python -m converters.novel novel.txt -o novel_train.jsonl --context 100,400 --continuation 100,400
  python -m converters.novel novel.txt -o train.jsonl --stride 800 --holdout 50 --holdout-out test.jsonl
  python -m converters.novel novel.txt -o written.jsonl --generator-model qwen2.5-14b \\
      --generator http://localhost:8000/v1 --judge https://api.example.com/v1 --judge-model big --threshold 8
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m converters.novel",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("novel", metavar="NOVEL", help="text file, UTF-8 or GB18030 (GBK), .gz too, - for stdin")
    add_output_arguments(parser, layout=None)
    parser.add_argument(
        "--encoding", choices=["auto", "utf-8", "gb18030"], default="auto", help="(default: %(default)s)"
    )
    parser.add_argument("--instruction", default=INSTRUCTION, metavar="TEXT", help="(default: %(default)s)")
    for name, meaning in (("--context", "what is given"), ("--continuation", "what follows")):
        parser.add_argument(
            name,
            type=_bounds,
            metavar="MIN,MAX",
            default=Bounds(100, 400),
            help=f"characters of {meaning} (default: %(default)s)",
        )
    parser.add_argument(
        "--stride",
        type=int,
        metavar="INT",
        help="characters from one pair's start to the next (default: a pair starts where the last one's continuation "
        "does, so that a text is once asked for and once given)",
    )
    models = parser.add_argument_group("pairs written by a model")
    models.add_argument("--generator", metavar="URL", help="of the API that writes, such as http://localhost:8000/v1")
    models.add_argument("--judge", metavar="URL", help="of the API that scores")
    models.add_argument("--generator-model", metavar="NAME", help="the model's name there")
    models.add_argument("--judge-model", metavar="NAME", help="(default: as --generator-model)")
    models.add_argument(
        "--writes",
        choices=["pair", "continuation"],
        default="pair",
        help="pair: the generator writes context and continuation, as JSON; continuation: it goes on from the passage "
        "(default: %(default)s)",
    )
    models.add_argument(
        "--generator-prompt",
        type=Path,
        metavar="FILE",
        help="with {passage} (default: converters/prompts/generate_*.txt)",
    )
    models.add_argument(
        "--judge-prompt", type=Path, metavar="FILE", help="with {prompt} and {completion} (default: prompts/judge.txt)"
    )
    models.add_argument(
        "--threshold", type=float, default=7.0, metavar="FLOAT", help="least score, 0 to 10 (default: %(default)s)"
    )
    models.add_argument(
        "--concurrency", type=int, default=4, metavar="INT", help="requests at a time (default: %(default)s)"
    )
    models.add_argument("--tries", type=int, default=6, metavar="INT", help="of each request (default: %(default)s)")
    models.add_argument(
        "--backoff",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="before the second try; twice as long before each later one (default: %(default)s)",
    )
    models.add_argument(
        "--timeout", type=float, default=120.0, metavar="SECONDS", help="without a byte (default: %(default)s)"
    )
    models.add_argument(
        "--max-tokens", type=int, default=1024, metavar="INT", help="of an answer (default: %(default)s)"
    )
    models.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        metavar="FLOAT",
        help="of the generator; the judge's is 0 (default: 0.8)",
    )
    models.add_argument(
        "--overwrite", action="store_true", help="ask anew (default: go on with the answers in OUT.pairs.jsonl)"
    )
    return parser


def _bounds(text: str) -> Bounds:
    try:
        return Bounds.of(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not MIN,MAX, such as 100,400") from None


def cut_rows(found: Sequence[Chapter], args: argparse.Namespace, tally: Tally) -> Iterator[Row]:
    """Rows of the novel's own text."""
    from converters.pipeline.conversion import Row

    left = Left()
    cut: list[Pair] = []
    for chapter in found:
        cut += pairs(chapter, args.context, args.continuation, args.stride, left)
    tally.rows_in = len(cut)
    _note_left(left, tally)
    # pairs that share text must be held out together; where none do, each stands for itself
    ends = [(one.chapter, one.start + len(one.context) + len(one.continuation)) for one in cut]
    shared = any(end > (after.chapter, after.start) for end, after in zip(ends, cut[1:], strict=False))
    for one in cut:
        group = str(one.chapter) if shared else None
        yield Row(KINDS[0], one.id, args.instruction, one.continuation, one.context, group=group)


def _note_left(left: Left, tally: Tally) -> None:
    tally.figures["left"] = dict(vars(left))
    if left.long_sentences:
        tally.notes.append(f"{left.long_sentences:,} sentences are longer than a passage may be and stand in no pair")
    if left.ends:
        tally.notes.append(f"{left.ends:,} ends of chapters are too short for another pair")


def passages_of(found: Sequence[Chapter], bounds: Bounds, tally: Tally) -> list[Passage]:
    """The passages that a generator is shown."""
    from converters.novel.model_pairs import Passage

    left = Left()
    shown = [
        Passage(f"{chapter.number}:{start}", text) for chapter in found for start, text in chunks(chapter, bounds, left)
    ]
    tally.rows_in = len(shown)
    _note_left(left, tally)
    return shown


def written_rows(
    passages: Sequence[Passage], written: Iterator[Written], writer: Writer, args: argparse.Namespace, tally: Tally
) -> Iterator[Row]:
    """Rows that were written, where their score is high enough."""
    from converters.pipeline.conversion import Row

    scores: list[float] = []
    for one in written:
        if one.score is None:
            tally.dropped[one.fault] += 1
            continue
        scores.append(one.score)
        if one.score < args.threshold:
            tally.dropped[f"score below {args.threshold:g}"] += 1
            continue
        yield Row(KINDS[0], one.id, args.instruction, one.completion, one.prompt)
    tally.figures["scores"] = {f"{score:g}": scores.count(score) for score in sorted(set(scores))}
    tally.figures["tokens"] = {
        "generator": writer.generator.usage.as_json(),
        "judge": writer.judge.usage.as_json(),
    }
    if scores:
        mean = sum(scores) / len(scores)
        tally.notes.append(f"scores: {min(scores):g} to {max(scores):g}, mean {mean:.2f}, of {len(scores):,} pairs")


def writer_of(args: argparse.Namespace) -> Writer:
    """Both models with their prompts.

    Raises:
        UsageError: an option is missing or cannot be meant.
    """
    from converters.novel.endpoint import Endpoint
    from converters.novel.model_pairs import PROMPTS, Writer, read_prompt

    if not (args.generator and args.judge and args.generator_model):
        raise UsageError("--generator, --judge and --generator-model belong together")
    if args.concurrency < 1 or args.tries < 1 or args.max_tokens < 1:
        raise UsageError("--concurrency, --tries and --max-tokens must be at least 1")
    if args.backoff < 0 or args.timeout <= 0 or args.temperature < 0:
        raise UsageError("--backoff and --temperature must not be negative, --timeout must be more than 0")

    def endpoint(url: str, model: str, key: str, temperature: float) -> Endpoint:
        return Endpoint(
            url,
            model,
            (key, "OPENAI_API_KEY"),
            max_tokens=args.max_tokens,
            temperature=temperature,
            tries=args.tries,
            backoff=args.backoff,
            timeout=args.timeout,
        )

    return Writer(
        endpoint(args.generator, args.generator_model, "GENERATOR_API_KEY", args.temperature),
        endpoint(args.judge, args.judge_model or args.generator_model, "JUDGE_API_KEY", 0.0),
        args.writes,
        read_prompt(args.generator_prompt or PROMPTS / f"generate_{args.writes}.txt", ["passage"]),
        read_prompt(args.judge_prompt or PROMPTS / "judge.txt", ["completion"]),
    )


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    args = build_parser().parse_args(argv)
    check_output_arguments(args, args.novel)
    if args.stride is not None and args.stride < 1:
        raise UsageError("--stride must be at least 1")
    modelled = any((args.generator, args.judge, args.generator_model, args.judge_model))
    writer = writer_of(args) if modelled else None
    from converters.common.source import open_source
    from converters.pipeline.conversion import Tally, convert

    tally = Tally()
    with open_source(args.novel, "a novel's text", array=False) as source:
        text, encoding = decode(source.lines.read_bytes(), source.name, args.encoding)
        found = chapters(tidy(text))
        if not found:
            raise UserError(f"{source.name}: no text is in it but headings")
        characters = sum(len(chapter.text) for chapter in found)
        tally.figures["novel"] = {"encoding": encoding, "chapters": len(found), "characters": characters}
        tally.notes.append(f"{encoding}, {len(found):,} chapters, {characters:,} characters")
        asked = {
            "context": str(args.context),
            "continuation": str(args.continuation),
            "stride": args.stride,
            "instruction": args.instruction,
        }
        if writer is None:
            rows = cut_rows(found, args, tally)
        else:
            from converters.novel.model_pairs import PairLog, write_pairs

            passages = passages_of(found, args.context, tally)
            identity = {"data": source.sha256, "context": str(args.context), **writer.identity()}
            log = PairLog(args.out.with_name(f"{args.out.name}.pairs.jsonl"), identity, overwrite=args.overwrite)
            written = write_pairs(passages, writer, log, args.concurrency)
            rows = written_rows(passages, written, writer, args, tally)
            asked = {**asked, "threshold": args.threshold, **writer.identity()}
        convert(source, OutputOptions(**output_options(args)), KINDS, rows, tally, asked=asked)
