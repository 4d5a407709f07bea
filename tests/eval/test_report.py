"""The page of a run: what is in it, what is missing, hostile text, and how a browser shows it."""

import html.parser
import json
import re
import shutil
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.cli import UsageError, UserError
from converters.template import get_template
from eval import choice, report, squad
from eval import math as eval_math
from eval.predictions import prediction_row
from eval.report_chart import even_ticks, log_ticks, running_mean, thin
from eval.report_data import compare, find_evaluations, question_of, wrong_answers
from eval.report_html import Html, page, tag

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
    from converters.conversation import Turn

    return Turn("user", text)


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the run for one test; ``before`` lies beside it."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path / "my run"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished LoRA run with its evaluations, and ``before`` with those of its base."""
    from backends.checkpoint import fingerprint

    home = tmp_path_factory.mktemp("report")
    folder = home / "my run"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(RECIPE)
    write_json(folder / "template.json", get_template("vicuna").to_json())
    write_json(folder / "adapter_config.json", {"base_model_name_or_path": "models/base"})
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    log = [{"step": i, "total": 90, "loss": 4 / i, "lr": 1e-3 * i, "tokens": 5} for i in range(1, 91)]
    (folder / "train_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log) + '{"step": 91, "lo')
    audit = {"rows": 9, "kept": 8, "tokens": 100, "supervised": 60, "dropped": 1, "examples": {"dropped": ["r7"]}}
    audit |= {"longest": 60, "seq_length": 64, "histogram": [[10, 20, 3], [21, 31, 6]]}
    files = [{"path": "rows.jsonl", "sha256": "ab" * 32}]
    write_json(folder / "data.json", {"files": files, "audit": audit, "template": {"name": "vicuna", "hash": "9b48"}})
    write_json(
        folder / "environment.json", {"command": ["train", "x.yaml"], "packages": {"torch": "2.6"}, "code": None}
    )
    result = {"steps": 90, "seconds": 3725.0, "tokens_per_s": 5000.4, "trainable_parameters": 81920}
    write_json(folder / "result.json", result)
    own = {"checkpoint": fingerprint([folder / "adapter_model.safetensors"]), "base": "base-hash"}
    math_results(folder / "eval" / "math-test", 30, own)
    choice_results(folder / "eval" / "choice-rte", 24, own)
    squad_results(folder / "eval" / "squad-reading", 44, own)
    base = {"checkpoint": "base-hash", "base": None}
    math_results(home / "before" / "math", 4, base)
    choice_results(home / "before" / "rte", 12, base)
    squad_results(home / "before" / "squad", 46, base)
    return home


def made(run, *more):
    report.main([str(run), *map(str, more)])
    return (run / "report.html").read_text(encoding="utf-8")


class Outline(html.parser.HTMLParser):
    """Collects tags, attributes and the text in order; complains of tags that are not closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open, self.text = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.tags.append(name)
        self.attributes += [(name, *pair) for pair in attributes]
        if name not in ("meta", "br"):
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text.append(data)


def test_the_page_has_what_was_learned_and_kept(run, tmp_path):
    outline = Outline(made(run, "--before", tmp_path / "before"))
    text = re.sub(r"\s+", " ", " ".join(outline.text)).strip()
    assert text.startswith("my run: report my run LoRA on models/base, template vicuna, finished.")
    for found in (
        "10.0 → 75.0 % math, close",
        "40.0 → 80.0 % choice_rte, accuracy",
        "4.000 → 0.044 loss, first → last step",
        "81,920 trained parameters",
        "1 h 02 min time in steps",
        "eq solve (20) 10.0 75.0",
        "direct computation (20) 10.0 75.0",
        "all (40) 10.0 75.0",
        "label → yes → no → unparsed yes 8 0 2 no 0 16 4",
        "F1 92.0 % 88.0 % 0.957",
        "Kept : every measure must be at least 0.9",
        "row 30, eq solve 解方程 2x + 60 = 0 right 方程的解为：-30 answered",
        "[…cut at the limit]",
        "math: math1.jsonl: 10 of 10 wrong answers to 40 questions",
        "dropped 1 (rows r7, …)",
        "tokens 100, of them supervised 60 (60.0%)",
        "10 to 20 3 21 to 31 6",
        "load_checkpoint: models/base # <not a tag>",
        "packages torch 2.6",
    ):
        assert found in text
    assert "learning rate" in text
    assert outline.tags.count("svg") == 2
    assert "code None" not in text


def test_nothing_is_fetched_and_nothing_runs(run, tmp_path):
    whole = made(run, "--before", tmp_path / "before")
    outline = Outline(whole)
    assert not {"script", "img", "link", "iframe", "object", "base", "form", "a"} & set(outline.tags)
    assert not [
        one for one in outline.attributes if one[1] in ("src", "href", "srcset", "action") or one[1][:2] == "on"
    ]
    assert "http://" not in whole
    assert "https://" not in whole
    assert "url(" not in whole
    assert "@import" not in whole
    assert ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'") in outline.attributes
    assert ("meta", "content", "width=device-width, initial-scale=1") in outline.attributes
    # what a model wrote is shown, not obeyed
    assert HOSTILE in "".join(outline.text)


@given(st.text(st.characters(exclude_categories=["Cs"]).filter(lambda c: c not in "\r\x00")))
def test_text_is_escaped_and_html_is_not(text):
    outline = Outline(tag("p", text, Html("<b>bold</b>"), title=text))
    assert outline.tags == ["p", "b"]
    assert "".join(outline.text) == f"{text}bold"
    assert outline.attributes == [("p", "title", text)]
    assert Outline(page(text, tag("p", "x"))).tags.count("title") == 1


def test_before_is_found_by_itself_where_it_is_of_the_same_base(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tmp_path / "before" / "math", tmp_path / "runs" / "eval" / "base" / "math")
    assert "10.0 → 75.0 %" in made(run)
    assert "3 evaluations, 1 with a before" in capsys.readouterr().err
    # the base may be a run itself
    shutil.copytree(tmp_path / "before" / "squad", tmp_path / "models" / "base" / "eval" / "squad")
    assert "92.0 → 88.0 %" in made(run)
    # of another base: not taken
    for file in [*(tmp_path / "runs").rglob("results.json"), *(tmp_path / "models").rglob("results.json")]:
        file.write_text(file.read_text().replace("base-hash", "other-hash"))
    assert "→ 75.0" not in (whole := made(run))
    assert "→ 88.0" not in whole


def test_results_of_other_weights_are_left_out(run, capsys):
    squad_results(run / "eval" / "sweep" / "step-000010" / "squad", 10, {"checkpoint": "early", "base": "base-hash"})
    capsys.readouterr()
    assert "20.0 %" not in made(run)
    assert "1 of 4 results under" in capsys.readouterr().err


def test_the_same_evaluation_twice_is_shown_once(run):
    shutil.copytree(run / "eval" / "math-test", run / "eval" / "sweep" / "step-000090" / "math")
    assert made(run).count("direct computation (20)") == 1


def test_a_sweep_is_drawn(run):
    point = {"f1": 1.0, "em": 1.0, "f1_kept": None, "em_kept": None, "passed": None, "score": None}
    points = [
        {**point, "step": 0, "accuracy": 0.0},
        {**point, "step": 90, "accuracy": 0.75, "f1_kept": 0.97, "score": 0.82},
    ]
    write_json(run / "eval" / "sweep" / "sweep.json", {"points": points, "best": 90})
    text = " ".join(Outline(made(run)).text)
    assert "Over its checkpoints" in text
    assert "90 best 75.0 97.0 – 0.8200" in text


def test_what_is_not_alike_is_said(run, tmp_path):
    for file in (tmp_path / "before").rglob("results.json"):
        file.write_text(file.read_text().replace("vicuna 9b48", "bare e571").replace("base-hash", "other"))
    text = " ".join(Outline(made(run, "--before", tmp_path / "before")).text)
    assert "Note: template was bare e571 before and vicuna 9b48 after." in text
    assert "the model before is not the base of the model after" in text
    # reading asked in another way is no retention
    assert "Kept :" not in text
    assert "the results differ in template" in text


def test_too_much_forgotten_is_said(run, tmp_path):
    text = " ".join(Outline(made(run, "--before", tmp_path / "before", "--threshold", 0.99)).text)
    assert "Not kept : every measure must be at least 0.99" in text


def test_a_run_that_is_not_finished_and_not_evaluated(run):
    for name in ("result.json", "data.json", "environment.json"):
        (run / name).unlink()
    shutil.rmtree(run / "eval")
    text = " ".join(Outline(made(run)).text)
    assert "not finished: step 90 of 90" in text
    assert "no evaluation of a task yet" in text
    assert "no evaluation of its reading yet" in text
    (run / "train_log.jsonl").unlink()
    text = " ".join(Outline(made(run)).text)
    assert "not finished: no step yet" in text
    assert "There is no step in train_log.jsonl." in text


def test_predictions_that_were_changed_are_not_shown(run, capsys):
    file = run / "eval" / "math-test" / "predictions.jsonl"
    file.write_text(file.read_text() + "\n")
    assert "math: math1.jsonl: the predictions are not beside the results" in made(run)
    assert "not the predictions that results.json was made from" in capsys.readouterr().err


def test_a_broken_file_among_the_runs_own_is_left_out_and_said(run, capsys):
    (run / "eval" / "math-test" / "results.json").write_text('{"results": ')
    assert "40.0" not in made(run)
    assert "left out: " in capsys.readouterr().err
    (run / "eval" / "math-test" / "results.json").write_text("[]")
    made(run)
    assert "not a results.json of an evaluation" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["nowhere"], UsageError, "nowhere: no such run directory"),
        (["RUN", "--before", "nowhere"], UsageError, "nowhere: no such file"),
        (["RUN", "--before", "EMPTY"], UsageError, r"no results\.json there or below"),
        (["RUN", "--after", "RUN/data.json"], UserError, r"data\.json: not a results\.json of an evaluation"),
        (["RUN", "--wrong", "-1"], UsageError, "--wrong -1"),
        (["RUN", "--threshold", "0"], UsageError, "--threshold 0"),
        (["EMPTY"], UsageError, r"it has no recipe\.yaml"),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(run, tmp_path, arguments, error, message):
    (tmp_path / "empty").mkdir()
    words = [word.replace("RUN", str(run)).replace("EMPTY", str(tmp_path / "empty")) for word in arguments]
    with pytest.raises(error, match=message) as caught:
        report.main(words)
    assert "\n" not in str(caught.value)
    assert not (run / "report.html").exists()


def test_wrong_answers_come_from_every_kind_in_turn(run):
    [one] = find_evaluations([run / "eval" / "math-test"])
    chosen, count = wrong_answers(one, get_template("vicuna"), 5)
    assert count == 10
    assert [wrong.row for wrong in chosen] == [
        "row 30, eq solve", "row 31, direct computation", "row 32, eq solve", "row 33, direct computation",
        "row 34, eq solve",
    ]  # fmt: skip
    # a choice: in turn by what would have been right
    [one] = find_evaluations([run / "eval" / "choice-rte"])
    chosen, count = wrong_answers(one, None, 3)
    assert [(wrong.right, wrong.said) for wrong in chosen] == [(label, "I know not") for label in ("yes", "no", "yes")]
    assert count == 6


def test_rows_of_other_data_are_not_compared(run, tmp_path):
    after, before = find_evaluations([run / "eval"]), find_evaluations([tmp_path / "before"])
    assert all(one.before is not None for one in compare(after, before))
    for one in before:
        one.value["hashes"]["data"] = "other"
    assert all(one.before is None for one in compare(after, before))


@pytest.mark.parametrize("name", ["bare", "vicuna", "alpaca", "llama3", "chatml", "gemma"])
def test_the_question_is_taken_out_of_its_template(name):
    template = get_template(name)
    question = "1 + 1?\n\nUSER: why? ASSISTANT"
    segments = template.prompt([turn(question)])
    prompt = "".join("<|begin_of_text|>" if one.text == "BOS" else one.text for one in segments)
    assert question_of(prompt, template) == question
    assert question_of("something else", get_template("vicuna")) == "something else"
    assert question_of(prompt, None) == prompt


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_even_ticks_hold_the_range(low, size, about):
    ticks = even_ticks(low, low + size, about)
    assert ticks[0] <= low + 1e-6 * size + 1e-9
    assert ticks[-1] >= low + size - 1e-6 * size - 1e-9
    assert 2 <= len(ticks) <= about + 3
    assert ticks == sorted(set(ticks))


@given(st.floats(1e-6, 1e4), st.floats(1.01, 1e6))
def test_log_ticks_hold_the_range(low, ratio):
    ticks = log_ticks(low, low * ratio)
    assert ticks[0] <= low * 1.0001
    assert ticks[-1] >= low * ratio * 0.9999
    assert 2 <= len(ticks) <= 12
    assert ticks == sorted(set(ticks))


@given(st.integers(1, 3000))
def test_thinning_keeps_ends_and_order(n):
    points = [(float(i), float(i % 7)) for i in range(n)]
    few = thin(points, 100)
    assert len(few) <= 100
    assert (few[0], few[-1]) == (points[0], points[-1])
    assert few == sorted(few)
    if n <= 100:
        assert few == points


def test_running_mean_by_hand():
    assert running_mean([(0, 1.0), (1, 3.0)], keep=0.5) == [(0, 1.0), (1, 2.0)]


def test_help_is_light():
    line = [sys.executable, "-X", "importtime", "-m", "eval.report", "--help"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "transformers", "numpy", "polars", "tokenizers", "matplotlib", "yaml"}
    assert "examples:" in done.stdout


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# runs in the frame around the page: the page itself can run nothing
MEASURE = """<body style="margin:0">
<iframe id="f" src="report.html" style="border:0;width:WIDTHpx;height:900px"></iframe>
<script>
document.getElementById("f").onload = function () {
  const page = this.contentDocument, root = page.documentElement;
  const boxes = [...page.querySelectorAll("svg path:not(.grid)")].map(p => p.getBoundingClientRect());
  document.body.dataset.found = JSON.stringify({
    title: page.title, inner: root.clientWidth, wide: root.scrollWidth, tall: root.scrollHeight,
    scripts: page.scripts.length, images: page.images.length,
    paper: getComputedStyle(page.body).backgroundColor, ink: getComputedStyle(page.body).color,
    lines: boxes.map(b => [b.width, b.height]), size: getComputedStyle(page.querySelector(".chart span")).fontSize,
    tables: [...page.querySelectorAll("table")].map(t => t.parentElement.getBoundingClientRect().right)
  });
};
</script></body>"""


def browse(folder, page, *flags):
    """Open a local file in headless Chromium without a network."""
    known = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    known += " --disable-component-update --disable-sync --hide-scrollbars --allow-file-access-from-files"
    line = [CHROMIUM, *known.split(), f"--user-data-dir={folder / 'profile'}", *flags, (folder / page).as_uri()]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
class TestInABrowser:
    def measure(self, run, width, *flags):
        (run / "measure.html").write_text(MEASURE.replace("WIDTH", str(width)))
        found = browse(run, "measure.html", "--virtual-time-budget=4000", "--dump-dom", *flags)
        value = re.search(r'data-found="([^"]*)"', found)
        assert value, found[:2000]
        return json.loads(html.unescape(value[1]))

    @pytest.mark.parametrize("width", [360, 390, 1200])
    def test_it_fits_and_shows_its_curves(self, run, tmp_path, width):
        made(run, "--before", tmp_path / "before")
        found = self.measure(run, width)
        assert found["inner"] == width
        assert found["wide"] == width  # nothing makes the page scroll sideways
        assert all(right <= width for right in found["tables"])
        assert found["tall"] > 2000
        assert all(w > width * 0.5 and h > 20 for w, h in found["lines"])
        assert float(found["size"].removesuffix("px")) >= 11
        # hostile text has made no element and run no script
        assert (found["scripts"], found["images"], found["title"]) == (0, 0, "my run: report")

    def test_dark_where_the_reader_wants_it(self, run, tmp_path):
        made(run)
        light = self.measure(run, 390)
        dark = self.measure(run, 390, "--force-dark-mode", "--blink-settings=preferredColorScheme=0")
        assert light["paper"] != dark["paper"]
        assert brightness(light["paper"]) > 200 > brightness(light["ink"])
        assert brightness(dark["paper"]) < 60 < brightness(dark["ink"])

    def test_a_screenshot(self, run, tmp_path):
        made(run, "--before", tmp_path / "before")
        browse(run, "report.html", "--window-size=1000,2400", f"--screenshot={tmp_path / 'page.png'}")
        picture = (tmp_path / "page.png").read_bytes()
        assert picture[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">II", picture[16:24]) == (1000, 2400)
        assert len(picture) > 40_000  # an empty page has about 8 kB


def brightness(colour):
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3
