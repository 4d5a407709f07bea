"""Pairs that one model writes from a novel's passages and another one scores.

Every answered passage is appended to a log at once, and a run that was stopped continues from it: nothing is asked
twice, and a run with another threshold asks nothing at all.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from converters.common.console import progress, say
from converters.common.errors import UsageError, UserError
from converters.common.files import atomic
from converters.common.reader import read_log, read_text
from converters.novel.endpoint import Endpoint, side_by_side
from converters.novel.passages import whole_sentences

Writes = Literal["pair", "continuation"]
PROMPTS = Path(__file__).parent / "prompts"
REPLIES = 3
"""Times that a sampling model is asked again for an answer of the right form."""
BEST = 10
# the minus belongs to the number, so that a negative score is refused instead of read as a positive one
_SCORE = re.compile(r"(?:score|rating|评分|得分|分数|答案)[^\d\n-]{0,8}(-?\d+(?:\.\d+)?)", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Passage:
    """What is shown to the generator."""

    id: str
    text: str


@dataclass(frozen=True)
class Written:
    """What came of a passage; without a pair, ``fault`` says why."""

    id: str
    prompt: str = ""
    completion: str = ""
    score: float | None = None
    fault: str = ""
    reply: str = ""


def read_prompt(path: Path, needed: Sequence[str]) -> str:
    """Read a prompt file.

    Args:
        path: the file.
        needed: names that must stand in it in braces.

    Raises:
        UsageError: it is missing, not UTF-8, or lacks a place such as ``{passage}``.
    """
    try:
        text = read_text(path)
    except UserError as error:
        raise UsageError(f"no prompt can be read: {error}") from None
    missing = [f"{{{name}}}" for name in needed if f"{{{name}}}" not in text]
    if missing:
        raise UsageError(f"{path}: the prompt has no {' and no '.join(missing)}, where the text would stand")
    return text.strip()


def filled(prompt: str, texts: Mapping[str, str]) -> str:
    """Put texts into a prompt.

    Args:
        prompt: with a name in braces where each text goes.
        texts: by name; braces around other names stay as they are.
    """
    return re.sub(r"\{(\w+)\}", lambda match: texts.get(match[1], match[0]), prompt)


def find_pair(reply: str) -> tuple[str, str] | None:
    """Find the first JSON object in a reply that has the texts ``prompt`` and ``completion``.

    Returns:
        Both texts, without space around them; None if there is no such object.
    """
    # models break lines inside texts, which strict JSON forbids
    decoder = json.JSONDecoder(strict=False)
    for match in re.finditer(r"\{", reply):
        try:
            value, _ = decoder.raw_decode(reply, match.start())
        except (ValueError, RecursionError):
            continue
        given, following = (value.get(key) for key in ("prompt", "completion"))  # what begins with { is an object
        if isinstance(given, str) and isinstance(following, str) and given.strip() and following.strip():
            return given.strip(), following.strip()
    return None


def find_score(reply: str) -> float | None:
    """Find the score in a reply: the number after a word such as ``score`` or ``评分``, or else the first number.

    Returns:
        The score; None if there is no number, or it is not from 0 to 10.
    """
    match = _SCORE.search(reply)
    number = match[1] if match else next((found[0] for found in _NUMBER.finditer(reply)), None)
    score = float(number) if number is not None else None
    return score if score is not None and 0 <= score <= BEST else None


@dataclass(frozen=True)
class Writer:
    """Two models that write pairs and score them.

    Attributes:
        generator: writes a pair from a passage.
        judge: scores it.
        writes: ``pair``: the generator writes context and continuation, as JSON; ``continuation``: it goes on from
            the passage.
        generator_prompt: with ``{passage}`` in it.
        judge_prompt: with ``{prompt}`` and ``{completion}`` in it.
        threshold: the least score of a pair that is kept, 0 to 10.
        concurrency: passages at a time.
        overwrite: ask anew; otherwise the answers in OUT.pairs.jsonl are gone on with.
    """

    generator: Endpoint
    judge: Endpoint
    writes: Writes
    generator_prompt: str
    judge_prompt: str
    threshold: float = 7.0
    concurrency: int = 4
    overwrite: bool = False

    def identity(self) -> dict[str, Any]:
        """Return what an answer depends on: models, prompts and sampling; the threshold is not part of it."""
        return {
            "writes": self.writes,
            "generator": {"model": self.generator.model, "prompt": self.generator_prompt, **_sampling(self.generator)},
            "judge": {"model": self.judge.model, "prompt": self.judge_prompt, **_sampling(self.judge)},
        }

    def work(self, passage: Passage) -> Written:
        """Have a pair written from a passage, and scored.

        Raises:
            UserError: a server refuses, or does not answer after all tries.
        """
        reply = ""
        # at temperature 0 the same question would get the same answer
        for _ in range(REPLIES if self.generator.temperature else 1):
            answer = self.generator.ask(filled(self.generator_prompt, {"passage": passage.text}))
            reply = answer.text
            if self.writes == "pair":
                pair = find_pair(reply)
            else:
                # an answer cut at the token limit ends inside a sentence
                text = whole_sentences(reply) if answer.cut else reply.strip()
                pair = (passage.text, text) if text else None
            if pair:
                break
        else:
            form = "no JSON with prompt and completion" if self.writes == "pair" else "no whole sentence"
            return Written(passage.id, fault=f"{form} in the generator's answer", reply=reply[:2_000])
        question = filled(self.judge_prompt, {"passage": passage.text, "prompt": pair[0], "completion": pair[1]})
        for _ in range(REPLIES if self.judge.temperature else 1):
            reply = self.judge.ask(question).text
            score = find_score(reply)
            if score is not None:
                return Written(passage.id, *pair, score=score)
        return Written(passage.id, *pair, fault="no score from 0 to 10 in the judge's answer", reply=reply[:2_000])


def _sampling(endpoint: Endpoint) -> dict[str, float]:
    return {"max_tokens": endpoint.max_tokens, "temperature": endpoint.temperature}


class PairLog:
    """The log: what it was made with on the first line, then one answered passage a line and the tokens so far."""

    def __init__(self, path: Path, identity: Mapping[str, Any], *, overwrite: bool):
        self.path, self.identity = path, dict(identity)
        self.rows: dict[str, Written] = {}
        self.usage: dict[str, dict[str, int]] = {}
        if path.is_file() and not overwrite:
            self._read()
        else:
            with atomic(path) as temporary:
                temporary.write_text(json.dumps({"identity": self.identity}, ensure_ascii=False) + "\n", "utf-8")
        self._handle: IO[str] | None = None

    def _read(self) -> None:
        """Take over what is there; a torn last line, as a kill leaves it, is cut off.

        Raises:
            UserError: it is no such log, or of other models, prompts or data.
        """
        try:
            [(_, first), *rest], whole = read_log(self.path)
            old = first["identity"]
            for _, row in rest:
                # every line has the totals so far, so the last one counts
                self.usage = row.pop("usage")
                self.rows[row["id"]] = Written(**row)
        except (UserError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{self.path}: no log of written pairs ({error}); move it away or --overwrite") from None
        other = [key for key in {**old, **self.identity} if old.get(key) != self.identity.get(key)]
        if other:
            raise UserError(
                f"{self.path}: made with another {', '.join(other)}; take another OUT, or --overwrite to start over"
            )
        if whole < self.path.stat().st_size:
            say(f"{self.path}: cut off a torn last line")
            os.truncate(self.path, whole)

    def add(self, row: Written, usage: Mapping[str, Mapping[str, int]]) -> None:
        """Append a row; it is on the disk when this returns."""
        self._handle = self._handle or self.path.open("a", encoding="utf-8")
        record = {key: value for key, value in vars(row).items() if value not in ("", None)}
        line = json.dumps({**record, "usage": usage}, ensure_ascii=False) + "\n"
        # a model may answer with half a surrogate pair
        self._handle.write(line.encode(errors="replace").decode())
        self._handle.flush()
        os.fsync(self._handle.fileno())
        self.rows[row.id] = row

    def close(self) -> None:
        """Close the file."""
        if self._handle:
            self._handle.close()


def write_pairs(passages: Sequence[Passage], writer: Writer, log: PairLog) -> Iterator[Written]:
    """Ask for the passages that the log lacks, then yield all of them in the order of the passages.

    Args:
        passages: what the generator is shown.
        writer: both models and how they are asked.
        log: answers of earlier runs; new ones are appended as they come.

    Raises:
        UserError: a server refuses, or does not answer after all tries; what was answered is in the log.
    """
    sides = {"generator": writer.generator, "judge": writer.judge}
    for name, endpoint in sides.items():
        # the totals include what earlier runs spent
        endpoint.usage.add(log.usage.get(name, {}))
    missing = [passage for passage in passages if passage.id not in log.rows]
    if log.rows:
        say(f"{log.path}: {len(passages) - len(missing)} of {len(passages)} passages are answered already")
    try:
        with progress(total=len(missing), desc="pairs", unit="pair") as bar:
            for done in side_by_side(missing, writer.work, writer.concurrency):
                if done.error is not None:
                    # a fault of this program, not of a server: show where it is
                    if not isinstance(done.error, UserError):
                        raise done.error
                    so_far = len(passages) - len(missing) + int(bar.n)
                    raise UserError(
                        f"{done.error}\n{so_far} of {len(passages)} passages are answered; "
                        "the same command goes on there"
                    )
                assert done.result is not None
                usage = {name: endpoint.usage.as_json() for name, endpoint in sides.items()}
                log.add(done.result, usage)
                tokens = sum(side.usage.prompt_tokens + side.usage.completion_tokens for side in sides.values())
                bar.set_postfix_str(f"{tokens:,} tokens", refresh=False)
                bar.update()
    finally:
        for endpoint in sides.values():
            endpoint.stop.set()
        log.close()
        for name, endpoint in sides.items():
            say(f"{name} {endpoint.model}: {endpoint.usage}")
    yield from (log.rows[passage.id] for passage in passages)
