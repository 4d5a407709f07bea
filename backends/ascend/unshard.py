"""Join the checkpoints of several cards into one, by MindSpore's own transform: ``python -m backends.ascend unshard``.

Training with a model split over cards leaves ``rank_0 … rank_3``, each with a piece of every weight, and strategy files
that say how the pieces fit together. All other commands read one file of whole weights.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path

from backends.ascend.device import silence
from backends.ascend.train.start_weights import NO_WEIGHTS
from backends.weights.files import check_output_file
from backends.weights.mindspore_ckpt import open_weights, weights_writer
from converters.common.errors import UsageError, UserError, first_line
from converters.common.files import atomic

FORMATS = ("safetensors", "ckpt")


@dataclass(frozen=True)
class JoinReport:
    """What :func:`unshard` wrote.

    Attributes:
        weights: number of tensors in the output.
        ranks: number of ranks whose pieces were joined.
        left_behind: number of tensors left out: optimizer moments and counters.
    """

    weights: int
    ranks: int
    left_behind: int


def unshard(folder: Path, out: Path, strategy: Path | None = None) -> JoinReport:
    """Join the newest checkpoints of all ranks into one file of whole weights.

    Args:
        folder: holds rank_0, rank_1, …
        out: the file, ``.ckpt`` or ``.safetensors``.
        strategy: strategy file, or the directory of all of them; None looks for ``strategy`` in or beside the folder.

    Raises:
        UsageError: there are no ranks, no strategy, or the output's name says no format.
        UserError: MindSpore cannot join the pieces.
    """
    check_output_file(out)
    files = newest_files(folder)
    left_behind, kept = _join(folder, files, strategy_files(folder, strategy), out)
    return JoinReport(kept, len(files), left_behind)


def newest_files(folder: Path) -> list[Path]:
    """Return the newest checkpoint of every rank, in the order of the ranks.

    Raises:
        UsageError: there are no ranks.
        UserError: a rank is missing or has no checkpoint.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such directory")
    ranks = {int(path.name[5:]): path for path in folder.glob("rank_*") if path.name[5:].isdigit()}
    if not ranks:
        raise UsageError(f"{folder}: no rank_0, rank_1, … there")
    missing = [f"rank_{rank}" for rank in range(max(ranks) + 1) if rank not in ranks]
    if missing:
        raise UserError(f"{folder}: {', '.join(missing)} of {max(ranks) + 1} is missing; copy those of all machines")
    chosen = []
    for rank in sorted(ranks):
        found = [file for kind in FORMATS for file in ranks[rank].glob(f"*.{kind}")]
        if not found:
            raise UserError(f"{ranks[rank]}: no .ckpt or .safetensors there")
        chosen.append(max(found, key=lambda file: (file.stat().st_mtime, file.name)))
    if len({file.suffix for file in chosen}) > 1:
        raise UserError(f"{folder}: some ranks hold .ckpt, some .safetensors files; they are not of one checkpoint")
    return chosen


def strategy_files(folder: Path, given: Path | None) -> list[Path]:
    """Return the strategy files that belong to a checkpoint.

    Args:
        folder: holds rank_0, rank_1, …
        given: what the user named, a file or a directory; None looks in and beside ``folder``.

    Raises:
        UsageError: there are none.
    """
    places = [given] if given is not None else [folder / "strategy", folder.parent / "strategy"]
    for place in places:
        if place.is_file():
            return [place]
        found = sorted(place.glob("*strategy*.ckpt")) + sorted(place.glob("*strategy*.json"))
        if found:
            return found
    raise UsageError(f"{' and '.join(map(str, places))}: no strategy files there; name them with --strategy PATH")


def _join(folder: Path, files: list[Path], strategies: list[Path], out: Path) -> tuple[int, int]:
    """Join the pieces.

    Returns:
        How many tensors were left behind (optimizer copies, counters), and how many were written.
    """
    silence()
    import mindspore as ms

    out.parent.mkdir(parents=True, exist_ok=True)
    # pieces and whole lie beside the output for a while: a temporary folder elsewhere may be too small
    with tempfile.TemporaryDirectory(prefix=".tmp-unshard-", dir=out.parent) as scratch:
        source, target, strategy = Path(scratch) / "source", Path(scratch) / "target", Path(scratch) / "strategy"
        for rank, file in enumerate(files):
            # one file per rank: of several, MindSpore takes the last by name, not the newest
            (source / f"rank_{rank}").mkdir(parents=True)
            (source / f"rank_{rank}" / file.name).symlink_to(file.resolve())
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                merged = strategies[0]
                # pipeline stages write one strategy file each
                if len(strategies) > 1:
                    merged = Path(scratch) / f"merged{strategies[0].suffix}"
                    strategy.mkdir()
                    for file in strategies:
                        (strategy / file.name).symlink_to(file.resolve())
                    ms.merge_pipeline_strategys(str(strategy), str(merged))
                kind = files[0].suffix.removeprefix(".")
                # no target strategy: whole tensors; "whole" is the file's prefix, 1 the number of processes
                ms.transform_checkpoints(str(source), str(target), "whole", str(merged), None, 1, kind)
        except (RuntimeError, ValueError, TypeError, KeyError, OSError) as error:
            raise UserError(f"{folder}: MindSpore cannot join the ranks ({first_line(error)})") from error
        (whole,) = (file for file in target.rglob("*") if file.suffix == files[0].suffix)
        return _write(whole, out)


def _write(whole: Path, out: Path) -> tuple[int, int]:
    tensors = open_weights(whole)
    names = [name for name in tensors.names() if not any(part in name for part in NO_WEIGHTS)]
    with atomic(out) as temporary, weights_writer(temporary) as writer:
        for name in names:
            writer.add(name, tensors.read(name))
    return len(tensors) - len(names), len(names)
