"""Asking a model: a few questions, or a file of conversations whose answers are kept as they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.generation import registry
from backends.generation.predictions_log import AnswerLog, answer_missing
from backends.generation.types import (
    DEFAULT_RUNTIME,
    GREEDY,
    Answer,
    FinishReason,
    Limits,
    Runtime,
    Sampling,
    answer_limits,
)
from converters.common.console import say

if TYPE_CHECKING:
    from backends.checkpoint.resolve import CheckpointFiles
    from converters.text.conversation import Conversation


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer as text.

    Attributes:
        text: the answer, without spaces around it.
        finish_reason: ``stop`` when the model ended it, ``length`` when the limit cut it.
        tokens: number of tokens the model generated, without the stop token.
    """

    text: str
    finish_reason: FinishReason
    tokens: int

    def __str__(self) -> str:
        return self.text


def ask(
    checkpoint: str | Path | CheckpointFiles,
    questions: str | Sequence[str],
    *,
    runtime: Runtime = DEFAULT_RUNTIME,
    sampling: Sampling = GREEDY,
    max_new_tokens: int | None = None,
    min_new_tokens: int = 0,
    template: str | None = None,
) -> list[Answered]:
    """Ask a model questions, each a conversation of its own.

    Args:
        checkpoint: run, adapter, model directory or mindformers file; or what ``open_checkpoint`` made of it.
        questions: the user's turns; a single text is one question.
        runtime: where and in which precision the model runs.
        sampling: how tokens are chosen; greedy unless said otherwise.
        max_new_tokens: an answer is cut after this many; None takes the longest row the run was trained on.
        min_new_tokens: no answer ends before this many.
        template: how questions are put, where ``checkpoint`` is a path; None takes the one that it was trained in, else
            the model's own chat template.

    Returns:
        One answer for each question, in the order of the questions.

    Raises:
        UsageError: there is no such checkpoint, no template is known, or the limits cannot be meant.
        UserError: the model cannot be loaded, or a question does not fit the template or the memory.
    """
    from backends.checkpoint.resolve import open_checkpoint
    from converters.text.conversation import Turn
    from mindrecord.tokens.encode import encode_prompts

    files = open_checkpoint(checkpoint, template=template)
    questions = [questions] if isinstance(questions, str) else questions
    limits = answer_limits(files, max_new_tokens, min_new_tokens)
    prompts = encode_prompts([[Turn("user", question)] for question in questions], files.template, files.tokenizer)
    generator = registry.load_generator(files, runtime, sampling)
    # answers come as they are finished, longest prompts first, so they are put back in order
    answers = dict(generator.generate(dict(enumerate(prompts)), files.stop_ids, limits))
    return [_as_text(files, answers[index]) for index in range(len(prompts))]


@dataclass(frozen=True)
class AnswerFile:
    """A whole file of answers.

    Attributes:
        path: JSONL, one answer a line, in the order of the data.
        rows: its lines: ``idx``, ``id``, ``prompt``, ``predict``, ``label``, ``finish_reason``, ``n_tokens``.
        cut: how many answers ended at the limit instead of a stop token.
        limits: the limits the answers were made with.
    """

    path: Path
    rows: list[dict[str, Any]]
    cut: int
    limits: Limits


def generate_file(
    checkpoint: str | Path | CheckpointFiles,
    data: str | Path,
    out: str | Path,
    *,
    limits: Limits,
    runtime: Runtime = DEFAULT_RUNTIME,
    sampling: Sampling = GREEDY,
    first: int | None = None,
    overwrite: bool = False,
    about: Mapping[str, Any] | None = None,
) -> AnswerFile:
    """Answer the last question of each conversation of a file; after a kill, the same call continues.

    Args:
        checkpoint: as :func:`ask` takes it.
        data: conversations, ShareGPT or Alpaca; a last turn of the assistant is kept as the label.
        out: JSONL of the answers, with what they were made with in ``.meta.json`` beside it.
        limits: how long answers may and must be.
        runtime: where and in which precision the model runs.
        sampling: how tokens are chosen.
        first: the first rows only.
        overwrite: start ``out`` over.
        about: further entries of the meta file; they are not compared when a run continues.

    Returns:
        The finished file, its rows and how many answers were cut.

    Raises:
        UserError: the data cannot be read, or ``out`` holds answers that were made with something else.
    """
    from backends.checkpoint.resolve import open_checkpoint
    from converters.common.files import sha256_file
    from converters.text.conversation import read_conversations
    from mindrecord.tokens.encode import encode_prompts

    files = open_checkpoint(checkpoint)
    asked = [_question(conversation) for conversation in read_conversations(data)[:first]]
    prompts = encode_prompts([conversation.turns for conversation, _ in asked], files.template, files.tokenizer)
    # what answers depend on; the batch size is not part of it, since it never changes an answer
    identity = {
        **files.identity,
        "data": sha256_file(data)[:16],
        # the first rows of a file and the whole file have the same hash
        "rows": len(prompts),
        "max_new_tokens": limits.max_new,
        "min_new_tokens": limits.min_new,
        "sampling": asdict(sampling),
        **registry.conditions(runtime),
    }
    log = AnswerLog(Path(out), identity, {**(about or {}), "data": str(data)}, overwrite=overwrite)

    def to_row(index: int, answer: Answer) -> dict[str, Any]:
        conversation, label = asked[index]
        said = _as_text(files, answer)
        return {
            "idx": index,
            "id": conversation.id,
            # with the template's special tokens: the text that the model saw
            "prompt": files.tokenizer.decode(prompts[index], skip_special=False),
            "predict": said.text,
            "label": label,
            "finish_reason": said.finish_reason,
            "n_tokens": said.tokens,
        }

    # not called when every row is in the file already: loading takes minutes
    load = partial(registry.load_generator, files, runtime, sampling)
    rows = answer_missing(log, dict(enumerate(prompts)), load, files.stop_ids, limits, to_row)
    cut = sum(row["finish_reason"] == "length" for row in rows)
    say(f"{out}: {len(rows)} answers, {cut} cut after {limits.max_new} tokens")
    return AnswerFile(Path(out), rows, cut, limits)


def _as_text(files: CheckpointFiles, answer: Answer) -> Answered:
    return Answered(files.tokenizer.decode(answer.ids).strip(), answer.finish_reason, len(answer.ids))


def _question(conversation: Conversation) -> tuple[Conversation, str | None]:
    """Split a conversation into the question and the answer that it ends with, None if it ends with a question."""
    from converters.text.conversation import Conversation

    turns = conversation.turns
    if turns[-1].role == "assistant":
        return Conversation(conversation.id, turns[:-1]), turns[-1].text
    return conversation, None
