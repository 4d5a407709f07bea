"""A novel's text as chapters, sentences, and pairs of a context and what follows it.

Lengths are characters. Nothing is cut inside a sentence, and no pair crosses from one chapter to the next.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from converters.common.errors import UserError

_NUMERAL = "[0-9０-９零〇一二三四五六七八九十百千两]"
_HEADING = re.compile(
    # 卷 部 集 篇 are common in prose and need a gap behind them; after 章 回 节 a title may follow directly
    rf"(?:正文\s*)?第\s*{_NUMERAL}+\s*[章回节節卷部集篇](?:\s|[：:、.．]|$).{{0,40}}"
    rf"|第\s*{_NUMERAL}+\s*[章回节節]\S{{0,30}}"
    r"|(?:序章|序言|楔子|引子|尾声|后记|番外)(?:\s|[：:、.．]|$).{0,30}"
    r"|(?:chapter|prologue|epilogue)\b.{0,60}",
    re.IGNORECASE,
)
_ENDS_SENTENCE = "。！？!?.…"
_CLOSES = "”’」』\"'）)】》"
# with the quotes and brackets that close after it; a plain full stop must be followed by one of these or by space
_END = re.compile(rf"(?:[。！？!?…]|\.(?=[\s{_CLOSES}]|$))+[{_CLOSES}]*\s*")


@dataclass(frozen=True)
class Chapter:
    """A chapter: its number from 1 (0 is what stands before the first heading), its heading, and its text."""

    number: int
    heading: str
    text: str


@dataclass(frozen=True)
class Bounds:
    """The fewest and the most characters of a passage."""

    least: int
    most: int

    @classmethod
    def of(cls, text: str) -> Bounds:
        """Read ``MIN,MAX``.

        Raises:
            ValueError: it is something else.
        """
        least, most = (int(part) for part in text.split(","))
        if not 1 <= least <= most:
            raise ValueError(text)
        return cls(least, most)

    def __str__(self) -> str:
        return f"{self.least},{self.most}"


@dataclass(frozen=True)
class Pair:
    """A context and what follows it, and where it starts: chapter and character."""

    chapter: int
    start: int
    context: str
    continuation: str

    @property
    def id(self) -> str:
        """The same for the same text and bounds."""
        return f"{self.chapter}:{self.start}"


@dataclass
class Leftover:
    """What no pair could hold."""

    long_sentences: int = 0
    """Sentences that are longer than a passage may be."""
    ends: int = 0
    """Ends of chapters that are shorter than a pair must be."""


def decode(data: bytes, name: str, encoding: str = "auto") -> tuple[str, str]:
    """Decode a text file: UTF-8, or else GB18030 (GBK and GB2312 are part of it).

    Args:
        data: the file.
        name: of the file, for the error.
        encoding: ``utf-8``, ``gb18030``, or ``auto`` for the first of them that fits.

    Returns:
        The text, and the encoding it was in.

    Raises:
        UserError: it is in none of them.
    """
    found = []
    # UTF-8 first: text in GBK is hardly ever valid UTF-8, but almost any bytes can be read as GB18030
    for one in ("utf-8-sig", "gb18030") if encoding == "auto" else (encoding,):
        try:
            return data.decode(one), one.removesuffix("-sig")
        except UnicodeDecodeError as error:
            found.append(f"not {one.removesuffix('-sig')} (byte {error.start})")
    raise UserError(f"{name}: {', '.join(found)}; convert it first: iconv -f ENCODING -t UTF-8")


def tidy(text: str) -> str:
    """Strip the spaces around each line and leave out empty lines."""
    lines = (line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    return "\n".join(line for line in lines if line)


def chapters(text: str) -> list[Chapter]:
    """Cut a tidied text at its headings; without headings it is one chapter. Empty chapters are left out."""
    found: list[tuple[str, list[str]]] = [("", [])]
    for line in text.split("\n"):
        # a sentence may begin as headings do, but no heading ends as sentences do
        if _HEADING.fullmatch(line) and line[-1] not in "。！？，,":
            found.append((line, []))
        else:
            found[-1][1].append(line)
    cut = [Chapter(i, heading, "\n".join(lines)) for i, (heading, lines) in enumerate(found)]
    return [chapter for chapter in cut if chapter.text.strip()]


def sentences(text: str) -> list[str]:
    """Cut after the marks that end a sentence and after each paragraph; joined again they are the text."""
    cut = []
    for line in text.split("\n"):
        start = 0
        for match in _END.finditer(line):
            cut.append(line[start : match.end()])
            start = match.end()
        # an empty line is kept, so that the sentences joined again are the text
        if start < len(line) or not line:
            cut.append(line[start:])
        cut[-1] += "\n"
    # the last line has no line break
    cut[-1] = cut[-1][:-1]
    return [sentence for sentence in cut if sentence]


def whole_sentences(text: str) -> str:
    """A text without the sentence at its end that was cut off; empty when no sentence is whole."""
    kept = sentences(text)
    while kept and not kept[-1].rstrip().rstrip(_CLOSES).endswith(tuple(_ENDS_SENTENCE)):
        kept.pop()
    return "".join(kept).rstrip()


def _fill(lengths: list[int], start: int, bounds: Bounds) -> tuple[int, bool]:
    """Find the longest passage that starts at a sentence.

    Args:
        lengths: characters of each sentence.
        start: the first sentence of the passage.
        bounds: the fewest and the most characters of the passage.

    Returns:
        The sentence after the passage, and whether the passage is long enough.
    """
    total, end = 0, start
    while end < len(lengths) and total + lengths[end] <= bounds.most:
        total += lengths[end]
        end += 1
    return end, total >= bounds.least


def pairs(
    chapter: Chapter, context: Bounds, continuation: Bounds, stride: int | None, leftover: Leftover
) -> Iterator[Pair]:
    """Yield the pairs of a chapter.

    Args:
        chapter: its text.
        context: how long what is given may be.
        continuation: how long what follows may be.
        stride: characters from one start to the next at least; None starts the next pair where this one's
            continuation begins, so that each text is once asked for and once given.
        leftover: counts what no pair could hold.
    """
    cut = sentences(chapter.text)
    lengths = [len(sentence) for sentence in cut]
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    first, longest = 0, max(context.most, continuation.most)
    leftover.long_sentences += sum(length > longest for length in lengths)
    while first < len(cut):
        middle, enough = _fill(lengths, first, context)
        end = middle
        if enough:
            end, enough = _fill(lengths, middle, continuation)
        if not enough:
            if end == len(cut):
                leftover.ends += 1
                return
            # a sentence that does not fit stands in the way: try from the next one on
            first += 1
            continue
        given, following = "".join(cut[first:middle]).strip(), "".join(cut[middle:end]).strip()
        yield Pair(chapter.number, starts[first], given, following)
        if stride is None:
            first = middle
        else:
            first = next((i for i in range(first + 1, len(cut)) if starts[i] >= starts[first] + stride), len(cut))


def chunks(chapter: Chapter, bounds: Bounds, leftover: Leftover) -> Iterator[tuple[int, str]]:
    """Yield the passages of a chapter, one after the other without overlap.

    Args:
        chapter: its text.
        bounds: the fewest and the most characters of a passage.
        leftover: counts what no passage could hold.

    Returns:
        ``(start, text)`` of each passage; ``start`` is its first character's place in the chapter.
    """
    cut = sentences(chapter.text)
    lengths = [len(sentence) for sentence in cut]
    leftover.long_sentences += sum(length > bounds.most for length in lengths)
    first, start = 0, 0
    while first < len(cut):
        end, enough = _fill(lengths, first, bounds)
        if enough:
            yield start, "".join(cut[first:end]).strip()
        elif end == len(cut):
            leftover.ends += 1
        # a sentence that fits no passage is passed over
        end = max(end, first + 1) if enough or end == len(cut) else first + 1
        start += sum(lengths[first:end])
        first = end
