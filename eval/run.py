"""Runs every evaluation: asks a checkpoint the questions still unanswered, grades all answers, writes the figures.

::

    data → rows (the task) → prompts in the run's template → answers (predictions.jsonl, resumable)
         → graded (the task) → figures, table, results.json

Texts whose loss is measured take the place of prompts, and their losses that of answers.

:func:`grade_predictions` starts at the last arrow and needs no framework.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.checkpoint.resolve import CheckpointFiles, open_checkpoint
from backends.generation import registry
from backends.generation.perplexity import row_losses
from backends.generation.predictions_log import AnswerLog, answer_missing
from backends.generation.types import DEFAULT_RUNTIME, Answer, Runtime, answer_limits
from converters.common.console import WorkBar, format_table, say
from converters.common.errors import UsageError, UserError
from converters.common.files import sha256_file, sha256_text, write_json, write_text
from eval.predictions import read_meta
from eval.results import markdown_page, results_json
from eval.task import Row, Task, get_task

if TYPE_CHECKING:
    from backends.generation.base_generator import Generator
    from mindrecord.tokens.encode import TokenRows


@dataclass(frozen=True)
class Results:
    """What an evaluation found.

    Attributes:
        task: the task's name.
        rows: the graded rows, as ``predictions.jsonl`` has them.
        predictions: the file they are in.
        value: the content of ``results.json``; empty where no row has a label.
        table: the figures as plain text; empty where no row has a label.
        lines: the lines printed under the table.
        folder: where files were written; None if none were written.
        passed: whether the task's gate was passed; None without one.
        verdict: the gate's verdict in words.
    """

    task: str
    rows: list[dict[str, Any]]
    predictions: Path
    value: dict[str, Any]
    table: str = ""
    lines: tuple[str, ...] = ()
    folder: Path | None = None
    passed: bool | None = None
    verdict: str = ""

    @property
    def figures(self) -> dict[str, dict[str, Any]]:
        """The figures by part of the task: ``{"math": {"close,none": 0.57, …}, …}``."""
        return dict(self.value.get("results", {}))

    @property
    def text(self) -> str:
        """Table and lines, as the command prints them."""
        return "\n".join([self.table, "", *self.lines]) if self.table else ""


def evaluate(
    task: Task | str,
    ckpt: str | Path | CheckpointFiles,
    data: str | Path | None = None,
    *,
    limit: int | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    runtime: Runtime = DEFAULT_RUNTIME,
    template: str | None = None,
    allow_template_mismatch: bool = False,
    base: str | None = None,
    max_new_tokens: int | None = None,
    min_new_tokens: int = 0,
    generator: Generator | Callable[[], Generator] | None = None,
    **options: Any,
) -> Results:
    """Ask a checkpoint every question that is not answered yet, then grade all.

    Args:
        task: a task, or the name of one: ``math``, ``squad``, ``choice``, ``webqa``, ``my_task.py``.
        ckpt: run, checkpoint of a run, adapter or model directory.
        data: file of the questions; None takes the task's own data.
        limit: the first rows only.
        out: folder of the files; None takes one in the run, for a model one under ``runs/eval``.
        overwrite: start over instead of continuing with the predictions in ``out``.
        runtime: where and in which precision the model runs.
        template: prompt template around each question; None takes the one the run was trained with.
        allow_template_mismatch: accept a template the run was not trained with.
        base: the frozen model under an adapter, if it is not where the adapter says.
        max_new_tokens: an answer is cut after so many; None takes the task's limit.
        min_new_tokens: no answer ends before so many.
        generator: the loaded model, or what loads it when the first question needs it; None loads it by ``runtime``.
        options: options of a task that is given by name.

    Returns:
        The graded rows and their figures, read back from the ``predictions.jsonl`` that was written.

    Raises:
        UsageError: the data are missing or empty, or no template is known.
        UserError: the data have another shape, or existing predictions were made with another model or setting.
    """
    from mindrecord.tokens.encode import encode_prompts

    chosen = get_task(task, **options)
    _check_limit(limit)
    source = chosen.default_data if data is None else Path(data)
    if source is None:
        raise UsageError(f"{chosen.name}: data are needed to ask a model")
    # data before checkpoint: reading rows is quick, and bad data should not wait for a model to be opened
    rows = chosen.read_data(source, limit)
    _check_rows(chosen, rows, source)
    if chosen.plain_text and template is not None:
        raise UsageError(f"--template {template}: {chosen.name} reads texts as they are, in no template")
    asked_in = template or chosen.asked_in
    # asking in the task's own form is the purpose of naming it, so a mismatch needs no second permission
    allowed = allow_template_mismatch or (asked_in is not None and asked_in in (chosen.own_template, chosen.asked_in))
    unused = "bare" if chosen.plain_text else None
    files = open_checkpoint(ckpt, base=base, template=asked_in, allow_mismatch=allowed, default_template=unused)
    if out is None:
        name = chosen.folder_name(source, template) + (f"-limit{limit}" if limit is not None else "")
        # never into a model's directory, which others may share
        home = files.path / "eval" if files.run is not None else Path("runs") / "eval" / files.path.resolve().name
        out = home / name
    # answers depend on all of this: AnswerLog refuses to continue a file made with anything else
    identity = {**files.identity, "data": sha256_file(source)[:16], **chosen.settings(), "rows": len(rows)}
    if chosen.plain_text:
        texts = chosen.token_rows(rows, files)
        # the tokens say what was measured; before and after tuning the templates differ, and neither is read
        identity |= {"task": chosen.name, "labels": texts.sha256[:16]}
        del identity["template"]
    else:
        # all prompts before the model is loaded: what cannot be encoded is reported at once
        encoded = encode_prompts([chosen.turns(row, files.template) for row in rows], files.template, files.tokenizer)
        prompts = {row.idx: ids for row, ids in zip(rows, encoded, strict=True)}
        candidates = chosen.candidates(rows, files)
        most = chosen.max_new_tokens if max_new_tokens is None else max_new_tokens
        # scored choices are not written token by token, so no limit applies and none belongs to their identity
        limits = None if candidates else answer_limits(files, most, min_new_tokens)
        identity |= {"max_new_tokens": limits.max_new, "min_new_tokens": limits.min_new} if limits else {}
        if not chosen.asks_the_data:
            identity |= {"task": chosen.name, "prompts": sha256_text(json.dumps([encoded, candidates]))[:16]}
    identity |= registry.conditions(runtime)
    # kept for the reader of results, not compared: a moved checkpoint still continues its file
    about = {
        "ckpt": str(files.path if isinstance(ckpt, CheckpointFiles) else ckpt),
        "data": str(source),
        "parameters": files.parameters,
        **chosen.about(files),
    }
    log = AnswerLog(Path(out) / "predictions.jsonl", identity, about, overwrite=overwrite)
    if generator is None:
        generator = partial(registry.load_generator, files, runtime)
    load = generator if callable(generator) else lambda: generator
    asked = {row.idx: row for row in rows}

    def measured(idx: int, nats: float, tokens: int) -> dict[str, Any]:
        row = asked[idx].answered(asked[idx].turns[-1].text, "")
        return {**row, **chosen.measured_row(nats, tokens)}

    def graded(idx: int, predict: str, **more: Any) -> dict[str, Any]:
        # special tokens stay visible: a prompt without them would hide a wrong template
        row = asked[idx].answered(files.tokenizer.decode(prompts[idx], skip_special=False), predict)
        return {**row, **chosen.grade_row(row), **more}

    def written(idx: int, answer: Answer) -> dict[str, Any]:
        text = files.tokenizer.decode(answer.ids).strip()
        return graded(idx, text, finish_reason=answer.finish_reason, n_tokens=len(answer.ids))

    if chosen.plain_text:
        _measure_missing(log, texts, load, measured)
    elif limits is not None:
        answer_missing(log, prompts, load, files.stop_ids, limits, written)
    elif candidates is not None:
        _score_missing(log, prompts, load, candidates, graded)
    # from the file and not from memory: grading it again later gives the same figures by the same path
    results = _report(chosen, log.path, Path(out), None, None)
    chosen.export(results.rows, Path(out))
    return results


def grade_predictions(
    task: Task | str,
    predictions: str | Path,
    data: str | Path | None = None,
    *,
    limit: int | None = None,
    out: str | Path | None = None,
    **options: Any,
) -> Results:
    """Grade a file of predictions, of this project or another tool; needs neither torch nor mindspore.

    Args:
        task: a task, or the name of one.
        predictions: the file.
        data: the data they answer, for predictions without labels.
        limit: the first rows only.
        out: folder of table and results; None writes nothing.
        options: options of a task that is given by name.

    Returns:
        The graded rows and their figures.

    Raises:
        UsageError: a file is missing or empty.
        UserError: the predictions have another shape or do not fit the data.
    """
    chosen = get_task(task, **options)
    _check_limit(limit)
    folder = None if out is None else Path(out)
    return _report(chosen, Path(predictions), folder, limit, None if data is None else Path(data))


def _check_rows(task: Task, rows: Sequence[Row], source: Path) -> None:
    """Refuse rows that could not be graded, before a model is asked."""
    if not task.name:
        raise UsageError(f"{type(task).__name__} has no name")
    if not rows:
        raise UsageError(f"{source}: no row to ask")
    seen: set[int] = set()
    for row in rows:
        if row.idx in seen:
            raise UserError(f"{source}: two rows have idx {row.idx}; each needs its own")
        seen.add(row.idx)
        if row.label is None and type(task).grade_row is Task.grade_row:
            raise UserError(f"{source}: row {row.idx} has no label, by which the task {task.name} grades")


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: at least 1 is needed")


def _score_missing(
    log: AnswerLog,
    prompts: Mapping[int, list[int]],
    load: Callable[[], Generator],
    candidates: Mapping[str, list[int]],
    graded: Callable[..., dict[str, Any]],
) -> None:
    """Take the likeliest candidate, by summed log-probability, for the prompts that the log lacks."""
    missing = {idx: prompt for idx, prompt in prompts.items() if idx not in log.rows}
    if log.rows:
        say(f"{log.path}: {len(log.rows)} of {len(prompts)} rows are there already, {len(missing)} to go")
    # a file that is complete already needs no model
    if missing:
        scorer = load().scorer(list(candidates.values()))
        with log, WorkBar(len(missing), sum(map(len, missing.values())), "scores") as bar:
            for idx, values in scorer.score(missing):
                scores = dict(zip(candidates, values, strict=True))
                # of equal log-probabilities max() takes the first choice, so a rerun decides alike
                log.append(graded(idx, max(scores, key=scores.__getitem__), logprobs=scores))
                bar.finish(len(missing[idx]))
    log.finish()


def _measure_missing(
    log: AnswerLog,
    texts: TokenRows,
    load: Callable[[], Generator],
    measured: Callable[[int, float, int], dict[str, Any]],
) -> None:
    """Measure the loss of the texts that the log lacks; a text without a token to predict is left out, and said."""
    tokens = texts.supervised.tolist()
    able = [i for i, count in enumerate(tokens) if count]
    if len(able) < len(tokens):
        say(f"{len(tokens) - len(able)} of {len(tokens)} texts have no token to predict and are not measured")
    if not able:
        raise UserError("no text has a token to predict")
    missing = [i for i in able if i not in log.rows]
    if log.rows:
        say(f"{log.path}: {len(log.rows)} of {len(able)} rows are there already, {len(missing)} to go")
    if missing:
        generator = load()
        with log, WorkBar(len(missing), int(texts.lengths[missing].sum()), "texts") as bar:
            for idx, nats in row_losses(generator, texts, missing):
                log.append(measured(idx, nats, tokens[idx]))
                bar.finish(int(texts.lengths[idx]))
    log.finish()


def _report(task: Task, predictions: Path, folder: Path | None, limit: int | None, data: Path | None) -> Results:
    """Grade a file of predictions; write table and results if a folder is given."""
    meta = read_meta(predictions)
    rows = task.read_predictions(predictions, data=data, limit=limit, meta=meta)
    if not rows:
        raise UsageError(f"{predictions}: no prediction in it")
    identity = task.graded_identity(rows, meta.get("identity", {}), data)
    digest = sha256_file(predictions) if predictions.is_file() else None
    # another tool's predictions name no data: the file's own name stands in for it
    source = str(meta.get("data") or predictions.name)
    meta = {**meta, "identity": identity, "sha256": digest}
    figures = task.figures(rows, meta, source)
    if figures is None:
        return Results(task.name, rows, predictions, {})
    value = results_json(figures, meta, packages=task.packages, not_in_config=task.not_in_config)
    if folder is not None:
        if figures.title is not None:
            page = markdown_page(figures.title, figures.header, figures.table, figures.lines)
            write_text(folder / "table.md", page)
        write_json(folder / "results.json", value)
        say(f"{folder}/results.json; every row in {predictions}")
    return Results(
        task=task.name,
        rows=rows,
        predictions=predictions,
        value=value,
        table=format_table(figures.header, figures.table),
        lines=tuple(figures.lines),
        folder=folder,
        passed=figures.passed,
        verdict=figures.verdict,
    )
