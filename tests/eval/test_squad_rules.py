"""Both measures of a short answer, held to published figures and to their definitions."""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.common.errors import UserError
from eval.squad.data import choose, read_answers, read_questions
from eval.squad.gate import CONTEST_GATE, CONTEST_LABELS
from eval.squad.rules import (
    Scores,
    first_line,
    load_jieba,
    longest_common_run,
    mindformers_scores,
    normalise,
    official_scores,
)
from eval.squad.scores import labels_hash, tally

WORDS = st.lists(st.sampled_from(["a", "cat", "The", "sat", "on", "x-ray", "3.5", "of", ",", "中", "国"]), max_size=6)
TEXTS = WORDS.map(" ".join) | st.text(alphabet="ab ,.-'中国。cC+#", max_size=12)


EXCERPT = Path(__file__).parents[1] / "data" / "squad"


def check_logged_pairs(path, count):
    """Hold the contest's measure to the F1 and Em that its own run logged for every row."""
    logged = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(logged) == count
    wrong = []
    for row in logged:
        found = mindformers_scores(first_line(row["pred"]), row["label"])
        if (100 * found.f1, 100 * found.em) != (row["F1"], row["Em"]):
            wrong.append((row, found))
    assert not wrong


class TestContest:
    def test_every_logged_pair_of_the_excerpt_and_both_means(self):
        path = EXCERPT / "llama3_8b_base_predictions.jsonl"
        check_logged_pairs(path, 52)
        total = tally(read_answers(path, None, only_first=True), "mindformers")
        assert total.mean("f1") == pytest.approx(61.05625728820344, abs=1e-9, rel=0)
        assert total.mean("em") == pytest.approx(42.30769230769231, abs=1e-9, rel=0)
        assert total.empty == 5

    def test_every_logged_pair_and_both_means(self, squad_files):
        path = squad_files / "llama3_8b_base_predictions.jsonl"
        check_logged_pairs(path, 2067)
        total = tally(read_answers(path, None, only_first=True), "mindformers")
        assert total.mean("f1") == pytest.approx(59.87023775108988, abs=1e-9, rel=0)
        assert total.mean("em") == pytest.approx(44.17029511369134, abs=1e-9, rel=0)
        assert total.empty == 195
        gate = (0.9 * total.mean("f1"), 0.9 * total.mean("em"))
        assert gate == pytest.approx(CONTEST_GATE, abs=1e-9)

    def test_the_contests_questions_are_the_first_of_each_paragraph(self, squad_files):
        logged = read_answers(squad_files / "llama3_8b_base_predictions.jsonl", None, only_first=True)
        asked = choose(read_questions(squad_files / "dev-v1.1.json"), only_first=True, limit=None)
        assert [question.golds[0] for question in asked] == [answer.golds[0] for answer in logged]
        assert labels_hash(logged) == CONTEST_LABELS

    @pytest.mark.parametrize(
        ("said", "wanted", "f1", "em"),
        [
            ("Mercedes-Benz Superdome", "New Orleans' Mercedes-Benz Superdome", 6 / 11, 0),
            ("2013", "May 21, 2013", 2 / 7, 0),
            ("The Secret Life of Pets", "Jason Bourne", 1 / 6, 0),  # nothing in common but a space
            ("pre-game", "PREGAME", 1, 1),  # case and hyphens go
            ("CBS.", "CBS", 2 / 3, 0),  # ASCII punctuation is a token
            ("the CBS", "CBS", 1 / 2, 0),  # articles count
            ("in May 2013 he", "in June 2013 he", 2 * (4 / 7) * (4 / 7) / (8 / 7), 0),  # a run is in one piece
            ("北京大学。", "北京大学", 1, 1),
            ("北京", "北京大学", 2 / 3, 0),  # Chinese characters are tokens of their own
            ("", "CBS", 0, 0),
            ("wait…", "wait", 2 / 3, 0),  # a single ellipsis is not in the list
        ],
    )
    def test_worked_examples(self, said, wanted, f1, em):
        assert mindformers_scores(said, wanted) == pytest.approx(Scores(f1, em))

    def test_only_deleted_marks_on_both_sides_match_exactly_but_have_no_token(self):
        assert mindformers_scores("-", "*") == Scores(0, 1)

    def test_without_jieba_the_error_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "jieba", None)
        with pytest.raises(UserError, match=r"pip install jieba==0\.42\.1"):
            load_jieba.__wrapped__()

    def test_the_cutter_is_jieba_as_it_comes(self, tmp_path):
        import jieba

        jieba.setLogLevel("ERROR")
        plain = jieba.Tokenizer()
        plain.tmp_dir = str(tmp_path)  # its cache elsewhere may be another version's
        for text in ("new orleans' mercedesbenz superdome", "c# and c++, 3.5%", "at&t  tab\tend", "ǎ𠀀龥龦"):
            assert list(load_jieba()(text)) == plain.lcut(text)


class TestOfficial:
    def test_published_predictions_of_the_excerpt(self):
        path, data = EXCERPT / "match_lstm_predictions.json", EXCERPT / "dev-v1.1.json"
        total = tally(read_answers(path, data, only_first=False), "official")
        assert total.n == 52
        # what transformers.data.metrics.squad_metrics, which has the official scorer's rules, gives for them
        assert total.mean("em") == pytest.approx(59.61538461538461, abs=1e-9, rel=0)
        assert total.mean("f1") == pytest.approx(67.87064431295201, abs=1e-9, rel=0)

    def test_published_predictions(self, squad_files):
        path, data = squad_files / "match_lstm_predictions.json", squad_files / "dev-v1.1.json"
        total = tally(read_answers(path, data, only_first=False), "official")
        assert total.n == 10570
        assert total.mean("em") == pytest.approx(67.63481551561021, abs=1e-9, rel=0)
        assert total.mean("f1") == pytest.approx(76.75556184979695, abs=1e-9, rel=0)

    @pytest.mark.parametrize(
        ("said", "golds", "f1", "em"),
        [
            ("the C.B.S.", ["CBS"], 1, 1),
            ("Mercedes-Benz Superdome", ["New Orleans' Mercedes-Benz Superdome"], 2 / 3, 0),
            ("2013 May", ["May 2013"], 1, 0),  # a bag of words has no order
            ("two two", ["two"], 2 / 3, 0),  # and counts
            ("in May", ["June", "in May 2013", "may"], 4 / 5, 0),  # the best of all, f1 and em each
            ("may", ["in May 2013", "May"], 1, 1),
            ("", ["May"], 0, 0),
            ("another", ["other"], 0, 0),  # an article is a whole word
        ],
    )
    def test_worked_examples(self, said, golds, f1, em):
        assert official_scores(said, golds) == pytest.approx(Scores(f1, em))

    @given(TEXTS)
    def test_normalising_twice_changes_nothing_more(self, text):
        # an article may appear where punctuation stood: once is enough only for what is without
        assert normalise(normalise(text)) == normalise(text)

    @given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3))
    def test_more_gold_answers_never_hurt(self, said, golds):
        fewer, all_of_them = official_scores(said, golds[:1]), official_scores(said, golds)
        assert all_of_them.f1 >= fewer.f1
        assert all_of_them.em >= fewer.em


@pytest.mark.parametrize("scores", [mindformers_scores, lambda said, wanted: official_scores(said, [wanted])])
class TestBoth:
    @given(said=TEXTS, wanted=TEXTS)
    def test_figures_are_shares_and_sides_may_change_places(self, scores, said, wanted):
        found = scores(said, wanted)
        assert 0 <= found.f1 <= 1
        assert found.em in (0, 1)
        assert scores(wanted, said) == pytest.approx(found)

    @given(text=TEXTS, other=TEXTS)
    def test_an_exact_match_has_the_whole_f1_if_it_has_any(self, scores, text, other):
        assert scores(text, text).em == 1
        found = scores(text, other)
        if found.em and found.f1:
            assert found.f1 == 1


@given(st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abc"), max_size=8))
def test_the_longest_run_is_the_longest_of_all_common_slices(left, right):
    def slices(tokens):
        return {tuple(tokens[i:j]) for i in range(len(tokens)) for j in range(i + 1, len(tokens) + 1)}

    assert longest_common_run(left, right) == max(map(len, slices(left) & slices(right)), default=0)
    assert longest_common_run(left, right) <= (Counter(left) & Counter(right)).total()


@pytest.mark.parametrize(
    ("text", "line"), [("\n May \n1\n", "May "), ("a\r\nb", "a\r"), ("", ""), (" \n ", ""), ("one", "one")]
)
def test_the_first_line_is_what_counts(text, line):
    assert first_line(text) == line
