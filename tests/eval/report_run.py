"""What a run and its evaluations leave on the disk, for the tests of the page."""

import json

from graded_rows import prediction_row

from converters.text.conversation import Turn
from converters.text.template import get_template
from eval.choice import __main__ as choice
from eval.math import __main__ as eval_math
from eval.report import cli as report
from eval.squad import __main__ as squad

HOSTILE = '<script>document.title="hit"</script><img src=x onerror=alert(1)>&amp;'
RECIPE = """seed: 0
run_mode: finetune
load_checkpoint: models/base  # <not a tag>
model: {model_config: {seq_length: 64, pet_config: {pet_type: lora, lora_rank: 4}}}
data: {train: rows.jsonl, template: vicuna}
"""


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_predictions(folder, rows, identity, data):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "predictions.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    asked = {"data": data, "rows": len(rows), "template": "vicuna 9b48", "max_new_tokens": 16, "dtype": "auto"}
    meta = {"complete": True, "rows": len(rows), "identity": {**asked, **identity}, "data": f"{data}.jsonl"}
    write_json(folder / "predictions.meta.json", {**meta, "parameters": {"trainable": 10, "base": 1000}})
    return str(file)


def math_results(folder, right, identity):
    """Evaluate 40 problems of two kinds, ``right`` of them rightly."""
    rows = []
    for i in range(40):
        problem, answer = (f"计算 {i} + 1 等于多少？", i + 1) if i % 2 else (f"解方程 2x + {2 * i} = 0", -i)
        kind = "direct computation" if i % 2 else "eq solve"
        said = f"答案：{answer}" if i < right else HOSTILE
        prompt = f"<|begin_of_text|>{''.join(s.text for s in get_template('vicuna').prompt([turn(problem)])[1:])}"
        finish = "length" if i == 39 else "stop"
        rows.append(prediction_row(i, kind, prompt, said, f"方程的解为：{answer}", finish, 4))
    eval_math.main(["--predictions", write_predictions(folder, rows, identity, "math1"), "--out", str(folder)])


def choice_results(folder, right, identity):
    labels = ["yes", "no", "no"]
    rows = [
        {"idx": i, "prompt": f"?{i}", "label": labels[i % 3], "predict": labels[i % 3] if i < right else "I know not"}
        for i in range(30)
    ]
    more = {**identity, "choices": ["yes", "no"], "way": "generate"}
    choice.main(["--predictions", write_predictions(folder, rows, more, "rte"), "--out", str(folder)])


def squad_results(folder, right, identity):
    rows = [
        {"idx": i, "id": f"q{i}", "prompt": "?", "pred": "blue sky" if i < right else "green", "label": "blue sky"}
        for i in range(50)
    ]
    for row in rows:
        row["predict"] = row["pred"]
        row["scores"] = {"squad_official": {"f1": 100.0, "em": 100.0} if row["idx"] < right else {"f1": 0.0, "em": 0.0}}
        row["labels"], row["first"], row["finish_reason"], row["n_tokens"] = ["blue sky"], True, "stop", 2
    file = write_predictions(folder, rows, {**identity, "protocol": "official"}, "reading")
    squad.main(["--predictions", file, "--protocol", "official", "--out", str(folder)])


def turn(text):
    return Turn("user", text)


def made(run, *more):
    report.main([str(run), *map(str, more)])
    return (run / "report.html").read_text(encoding="utf-8")
