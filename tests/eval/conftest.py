"""Reading sets and predictions for the tests of this room."""

import json
import os
from pathlib import Path

import pytest


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
def small(tmp_path):
    """A reading set of three passages and five questions."""
    path = tmp_path / "small.json"
    path.write_text(json.dumps(SMALL), encoding="utf-8")
    return path
