#!/usr/bin/env bash
# MindSpore 2.9.0: the same MindRecord file name means all rows as a string and about a third of them in a list.
#
# FileWriter with shard_num=3 writes one data set as rows.mindrecord0, 1 and 2. MindDataset("rows.mindrecord1"), a
# string, finds the sister files and reads all ten rows, whichever part is named. MindDataset(["rows.mindrecord1"]), a
# list with that same string, reads the part's own rows alone. The library's documentation has a sentence on it, but
# no warning is given in either case. One would expect a name and a list of that one name to mean the same rows, or a
# message that parts of a set are left out.
# It matters to whoever writes a path into a recipe: putting brackets around it, or a tool that turns one path into a
# list, trains on about a third of the data; and naming one part as a string to read it alone (for a test set, for
# each of several workers) reads everything.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export TMPDIR="$work" GLOG_v=3
python3.11 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet mindspore==2.9.0 numpy==1.26.4
cd "$work"

"$work/venv/bin/python" -I - <<'PY'
import mindspore
import mindspore.dataset as ds
from mindspore.mindrecord import FileWriter

ROWS = 10
writer = FileWriter("rows.mindrecord", shard_num=3)
writer.add_schema({"id": {"type": "int32"}}, "rows by number")
writer.write_raw_data([{"id": number} for number in range(ROWS)])
writer.commit()
parts = [f"rows.mindrecord{number}" for number in range(3)]


def rows_of(files):
    """The row numbers that MindDataset reads, and the size that it reports."""
    dataset = ds.MindDataset(files, shuffle=False)
    rows = [int(row["id"]) for row in dataset.create_dict_iterator(num_epochs=1, output_numpy=True)]
    print(f"MindDataset({files!r}): size {dataset.get_dataset_size()}, rows {rows}")
    return rows


print("mindspore", mindspore.__version__)
whole = list(range(ROWS))
as_strings = [rows_of(part) for part in parts]
as_lists = [rows_of([part]) for part in parts]
all_listed = rows_of(parts)
as_measured = (
    as_strings == [whole] * 3
    and all_listed == whole
    and all(0 < len(rows) <= 4 for rows in as_lists)
    and sum(as_lists, []) == whole
)
print("behaviour as described" if as_measured else "BEHAVIOUR HAS CHANGED")
raise SystemExit(0 if as_measured else 1)
PY
