#!/usr/bin/env bash
# datasets 5.2.0 turns answers that are text into numbers because of another row in the same JSON Lines file.
#
# Every row below is valid chat data: "content" is a string, or a list of parts as multimodal chat data has it. As
# long as all are strings, "02" comes back as the string "02". One row that holds a list of parts is enough, and the
# column becomes a JSON type whose strings are parsed again: "02" comes back as the integer 2, "3.140" as 3.14 and
# "true" as a boolean, in every row. "2nd" stays text. No warning is given. One would expect each string to come back
# as it was written, or an error for the mixed column (datasets 4.0.0 refuses the same file).
# It matters to whoever puts text rows and multimodal rows into one file: leading and trailing zeros of arithmetic
# answers are lost before the tokenizer sees them, so the model learns other text than the file holds.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1
python3.11 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet datasets==5.2.0 pyarrow==26.0.1
cd "$work"

"$work/venv/bin/python" -I - <<'PY'
import json

import datasets

answers = ["02", "3.140", "true", "2nd"]
text_rows = [
    {"messages": [{"role": "user", "content": "Repeat the code."}, {"role": "assistant", "content": answer}]}
    for answer in answers
]
parts = [{"type": "text", "text": "Name the colour."}]
mixed_row = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "red"}]}


def answers_read(name, rows):
    with open(name, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    loaded = datasets.load_dataset("json", data_files=name, split="train")
    return [row["messages"][1]["content"] for row in loaded][: len(answers)]


alone = answers_read("text.jsonl", text_rows)
beside = answers_read("mixed.jsonl", [*text_rows, mixed_row])
print("datasets", datasets.__version__)
print("answers in the file:            ", answers)
print("read, all contents text:        ", alone)
print("read, one more row has parts:   ", beside)
kinds = [type(answer) for answer in beside]
as_measured = alone == answers and beside == [2, 3.14, True, "2nd"] and kinds == [int, float, bool, str]
print("behaviour as described" if as_measured else "BEHAVIOUR HAS CHANGED")
raise SystemExit(0 if as_measured else 1)
PY
