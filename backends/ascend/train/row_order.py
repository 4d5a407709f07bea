"""The order of rows, given to mindformers: a data loader in its registry; imported after ``device.start``.

mindformers' own shuffling is MindSpore's, which no other framework repeats. This loader reads the same MindRecord file
through MindSpore's reader and hands out the rows of every optimizer step in the order that all backends share.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

import mindspore.dataset as ms_dataset
import numpy as np
from mindformers.tools.register import MindFormerModuleType, MindFormerRegister

from mindrecord.tokens.order import rows_of_step


@MindFormerRegister.register(MindFormerModuleType.DATASET_LOADER)
class StepOrderDataset:
    """The rows of the steps ``first_step … steps`` of a run, one after the other, as one MindSpore dataset."""

    def __new__(
        cls,
        dataset_dir: str,
        rows: int,
        step_rows: int,
        first_step: int,
        steps: int,
        seed: int,
        shuffle: bool,
        num_shards: int | None = None,
        shard_id: int | None = None,
        num_parallel_workers: int = 1,
        **_: Any,
    ) -> Any:
        """Build the dataset.

        Args:
            dataset_dir: the MindRecord file; the name of the argument is mindformers'.
            rows: in the file.
            step_rows: of one optimizer step, over all workers.
            first_step: steps that are done already.
            steps: of the whole run.
            seed: of the order.
            shuffle: whether an epoch has an order of its own.
            num_shards: workers that share a step's rows; None: each takes all of them.
            shard_id: which of them this is.
            num_parallel_workers: threads that read.
        """
        epochs: dict[int, list[np.ndarray]] = {}
        for step in range(first_step, steps):
            indices = rows_of_step(rows, step_rows, step, seed, shuffle)
            share = np.array_split(indices, num_shards)[shard_id or 0] if num_shards else indices
            epochs.setdefault(step // (rows // step_rows), []).append(share)
        # MindSpore takes no row twice in one list, so that each epoch is a dataset of its own
        parts = [
            ms_dataset.MindDataset(
                dataset_dir,
                columns_list=["input_ids", "labels"],
                num_parallel_workers=num_parallel_workers,
                sampler=ms_dataset.SubsetSampler(np.concatenate(indices).tolist()),
            )
            for indices in epochs.values()
        ]
        return reduce(add, parts)
