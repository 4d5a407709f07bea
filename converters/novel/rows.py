"""A novel as rows to continue: a context and what follows it, cut at sentence ends within chapters.

With --generator and --judge the pairs are instead written by one model from each passage and scored by another one,
both behind OpenAI-compatible endpoints; those of at least --threshold are kept. Keys are taken from GENERATOR_API_KEY
and JUDGE_API_KEY, or else OPENAI_API_KEY.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.common.errors import UsageError, UserError
from converters.novel.passages import Bounds, Chapter, Leftover, Pair, chapters, chunks, decode, pairs, tidy
from converters.pipeline.output import OutputOptions
from converters.pipeline.rows import Intake, Row
from converters.pipeline.source import Source

if TYPE_CHECKING:
    from converters.novel.model_pairs import Passage, Writer, Written
    from converters.pipeline.conversion import Report

KINDS = ("pair",)
INSTRUCTION = "续写以下小说片段："
DEFAULT_BOUNDS = Bounds(100, 400)


def convert(
    novel: str | Path,
    output: OutputOptions,
    *,
    context: Bounds = DEFAULT_BOUNDS,
    continuation: Bounds = DEFAULT_BOUNDS,
    stride: int | None = None,
    instruction: str = INSTRUCTION,
    encoding: str = "auto",
    writer: Writer | None = None,
) -> Report:
    """Convert a novel's text.

    Args:
        novel: a text file, gzip too; ``-`` is stdin.
        output: how rows are chosen and written.
        context: characters of what is given.
        continuation: characters of what follows.
        stride: characters from one pair's start to the next; None starts a pair where the last one's continuation
            does, so that each text is once asked for and once given.
        instruction: what every row asks.
        encoding: ``utf-8``, ``gb18030`` (GBK), or ``auto`` for the first of them that fits.
        writer: two models that write the pairs and score them; None cuts them from the text.

    Raises:
        UsageError: there is no such file, or an option is invalid.
        UserError: the text cannot be decoded, no pair comes of it, or a model's server does not answer.
    """
    # imported here because it needs numpy, which --help does without
    from converters.pipeline.conversion import convert as convert_rows

    if stride is not None and stride < 1:
        raise UsageError("--stride must be at least 1")
    settings: dict[str, Any] = {
        "context": str(context),
        "continuation": str(continuation),
        "stride": stride,
        "instruction": instruction,
    }
    if writer is not None:
        settings |= {"threshold": writer.threshold, **writer.identity()}

    def read(source: Source, intake: Intake) -> Iterator[Row]:
        text, found_encoding = decode(source.read(), source.name, encoding)
        found = chapters(tidy(text))
        if not found:
            raise UserError(f"{source.name}: no text is in it but headings")
        characters = sum(len(chapter.text) for chapter in found)
        intake.figures["novel"] = {"encoding": found_encoding, "chapters": len(found), "characters": characters}
        intake.notes.append(f"{found_encoding}, {len(found):,} chapters, {characters:,} characters")
        if writer is None:
            return cut_rows(found, context, continuation, stride, instruction, intake)
        from converters.novel.model_pairs import PairLog, write_pairs

        passages = passages_of(found, context, intake)
        # answers about another text or other passages must not be taken over
        made_of = {"data": source.sha256, "context": str(context), **writer.identity()}
        log = PairLog(output.out.with_name(f"{output.out.name}.pairs.jsonl"), made_of, overwrite=writer.overwrite)
        return written_rows(write_pairs(passages, writer, log), writer, instruction, intake)

    return convert_rows(novel, output, KINDS, read, expected="a novel's text", array=False, settings=settings)


def cut_rows(
    found: Sequence[Chapter],
    context: Bounds,
    continuation: Bounds,
    stride: int | None,
    instruction: str,
    intake: Intake,
) -> Iterator[Row]:
    """Yield rows of the novel's own text.

    Args:
        found: the chapters.
        context: characters of what is given.
        continuation: characters of what follows.
        stride: characters from one pair's start to the next; None starts a pair at the last one's continuation.
        instruction: what every row asks.
        intake: takes the number of rows, figures and notes.
    """
    leftover = Leftover()
    cut: list[Pair] = []
    for chapter in found:
        cut += pairs(chapter, context, continuation, stride, leftover)
    intake.rows_in = len(cut)
    _note_leftover(leftover, intake)
    # pairs that share text must be held out together; where none do, each stands for itself
    ends = [(one.chapter, one.start + len(one.context) + len(one.continuation)) for one in cut]
    shared = any(end > (after.chapter, after.start) for end, after in zip(ends, cut[1:], strict=False))
    for one in cut:
        # overlaps can link all pairs of a chapter, but none crosses into the next
        group = str(one.chapter) if shared else None
        yield Row(KINDS[0], one.id, instruction, one.continuation, one.context, group=group)


def _note_leftover(leftover: Leftover, intake: Intake) -> None:
    intake.figures["left"] = dict(vars(leftover))
    if leftover.long_sentences:
        long = f"{leftover.long_sentences:,} sentences are longer than a passage may be and stand in no pair"
        intake.notes.append(long)
    if leftover.ends:
        intake.notes.append(f"{leftover.ends:,} ends of chapters are too short for another pair")


def passages_of(found: Sequence[Chapter], bounds: Bounds, intake: Intake) -> list[Passage]:
    """Cut the passages that a generator is shown.

    Args:
        found: the chapters.
        bounds: characters of a passage.
        intake: takes the number of passages, figures and notes.
    """
    from converters.novel.model_pairs import Passage

    leftover = Leftover()
    shown = [
        Passage(f"{chapter.number}:{start}", text)
        for chapter in found
        for start, text in chunks(chapter, bounds, leftover)
    ]
    intake.rows_in = len(shown)
    _note_leftover(leftover, intake)
    return shown


def written_rows(written: Iterable[Written], writer: Writer, instruction: str, intake: Intake) -> Iterator[Row]:
    """Yield the rows that a model wrote and whose score is high enough.

    Args:
        written: what came of each passage.
        writer: has the threshold, and the tokens spent.
        instruction: what every row asks.
        intake: takes dropped rows, figures and notes.
    """
    scores: list[float] = []
    for one in written:
        if one.score is None:
            intake.dropped[one.fault] += 1
            continue
        scores.append(one.score)
        if one.score < writer.threshold:
            intake.dropped[f"score below {writer.threshold:g}"] += 1
            continue
        yield Row(KINDS[0], one.id, instruction, one.completion, one.prompt)
    intake.figures["scores"] = {f"{score:g}": scores.count(score) for score in sorted(set(scores))}
    intake.figures["tokens"] = {
        "generator": writer.generator.usage.as_json(),
        "judge": writer.judge.usage.as_json(),
    }
    if scores:
        mean = sum(scores) / len(scores)
        intake.notes.append(f"scores: {min(scores):g} to {max(scores):g}, mean {mean:.2f}, of {len(scores):,} pairs")
