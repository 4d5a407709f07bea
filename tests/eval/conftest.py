"""Reading sets and predictions for the tests of this room."""

import json
import os
import shutil
from pathlib import Path

import pytest
from report_run import RECIPE, choice_results, math_results, squad_results, write_json

from converters.text.template import get_template


@pytest.fixture(scope="session")
def squad_files():
    """The directory of SQuAD's dev set and published predictions to it, which the project does not ship."""
    home = Path(os.environ.get("SHARED_DATA", Path(__file__).parents[3] / "shared" / "data")) / "squad"
    if not (home / "dev-v1.1.json").is_file():
        pytest.skip(f"no dev-v1.1.json in {home}; SHARED_DATA=DIR says where it is")
    return home


def squad_json(*paragraphs):
    """A data set in SQuAD's shape: each paragraph is ``(context, [(id, question, [answers]), …])``."""
    entries = [
        {
            "context": context,
            "qas": [
                {"id": name, "question": question, "answers": [{"text": text, "answer_start": 0} for text in golds]}
                for name, question, golds in qas
            ],
        }
        for context, qas in paragraphs
    ]
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": entries}]}


SMALL = squad_json(
    (
        "Ann has 3 cats. Ben has a dog.",
        [("a1", "Who has cats?", ["Ann", "Ann, with 3"]), ("a2", "Who has a dog?", ["Ben"])],
    ),
    ("The fair is in May.", [("b1", "When is the fair?", ["May", "in May"])]),
    ("Oakdale lies on the Alder.", [("c1", "Which river?", ["the Alder"]), ("c2", "Which town?", ["Oakdale"])]),
)


@pytest.fixture
def reading_set():
    """What makes a data set in SQuAD's shape of ``(context, [(id, question, [answers]), …])``."""
    return squad_json


@pytest.fixture
def small(tmp_path):
    """A reading set of three passages and five questions."""
    path = tmp_path / "small.json"
    path.write_text(json.dumps(SMALL), encoding="utf-8")
    return path


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the run for one test; ``before`` lies beside it."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path / "my run"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished LoRA run with its evaluations, and ``before`` with those of its base."""
    from backends.checkpoint.fingerprint import fingerprint

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
