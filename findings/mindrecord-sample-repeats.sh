#!/usr/bin/env bash
# MindSpore 2.9.0 draws rows with replacement as soon as a shuffled MindDataset is given num_samples.
#
# A MindRecord file of 100 rows is read four times. With shuffle alone every row comes once. With num_samples=100 and
# no shuffle every row comes once. With both, 100 rows come, but only about 63 different ones: some rows come three
# or four times and the others never. The dataset reports a size of 100 in all cases and nothing is logged. A
# RandomSampler given by hand, without replacement, does what one would expect of num_samples: that many different
# rows in random order.
# It matters to whoever takes a random part of a training file or limits an epoch with num_samples: more than a third
# of the rows is not seen, even where the number asked for is the number of rows.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export TMPDIR="$work" GLOG_v=3
python3.11 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet mindspore==2.9.0 numpy==1.26.4
cd "$work"

"$work/venv/bin/python" -I - <<'PY'
from collections import Counter

import mindspore
import mindspore.dataset as ds
from mindspore.mindrecord import FileWriter

ROWS = 100
writer = FileWriter("rows.mindrecord", shard_num=1)
writer.add_schema({"id": {"type": "int32"}}, "rows by number")
writer.write_raw_data([{"id": number} for number in range(ROWS)])
writer.commit()
ds.config.set_seed(7)
sampler = ds.RandomSampler(replacement=False, num_samples=ROWS)
ways = {
    "shuffle=True": {"shuffle": True},
    "shuffle=False, num_samples=100": {"shuffle": False, "num_samples": ROWS},
    "shuffle=True, num_samples=100": {"shuffle": True, "num_samples": ROWS},
    "RandomSampler(replacement=False)": {"sampler": sampler},
}
print("mindspore", mindspore.__version__)
different = []
for name, options in ways.items():
    dataset = ds.MindDataset("rows.mindrecord", **options)
    size = dataset.get_dataset_size()
    seen = Counter(int(row["id"]) for row in dataset.create_dict_iterator(num_epochs=1, output_numpy=True))
    different.append(len(seen))
    print(f"{name:34} size {size}, rows {seen.total()}, different {len(seen)}, most often {max(seen.values())} times")
as_measured = different[:2] == [ROWS, ROWS] and different[2] < 0.8 * ROWS and different[3] == ROWS
print("behaviour as described" if as_measured else "BEHAVIOUR HAS CHANGED")
raise SystemExit(0 if as_measured else 1)
PY
