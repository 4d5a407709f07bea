"""Which choice a text names, and the figures over many."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.common.errors import UsageError
from eval.choice.rules import Choices, Scores, choices_of, label_of

ENTAILMENT = Choices.of("yes,no,maybe")
BINARY = Choices.of("0,1")
LETTERS = Choices.of("A,B,C,D")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yes", "yes"),
        ("No.", "no"),
        (" MAYBE\n", "maybe"),
        # the words that hold "no" and the answer that is looked for after it
        ("I know", None),
        ("I do not know; cannot, unknown, none, now", None),
        ("I don't know, so maybe", "maybe"),
        ("Nobody knows: yes", "yes"),
        ("no-one says yes", "yes"),
        ("non-yes no", "no"),
        ("not maybe", "maybe"),
        ("maybe, not no", "maybe"),
        ("maybe not", "maybe"),
        ("yes and no", "yes"),
        ("yes/no", "yes"),
        ("yesterday eyes", None),
        ("no_entailment", None),
        ("**No**", "no"),
        ("- no", "no"),
        ("答案是no。", "no"),
        ("Ｎｏ！", "no"),
        ("", None),
    ],
)
def test_the_first_whole_word_that_is_a_choice(text, expected):
    assert ENTAILMENT.find(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", "1"),
        ("0\n1", "0"),
        ("1.", "1"),
        ("The label is 1, since", "1"),
        ("答案1", "1"),
        ("１", "1"),
        ("10", None),
        ("1.5", None),
        ("0.5", None),
        ("1,000", None),
        ("-1", None),
        ("+1", None),
        ("x1", None),
        ("10 of 0", "0"),
    ],
)
def test_a_number_is_a_choice_only_as_itself(text, expected):
    assert BINARY.find(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The right option is C.", "C"),
        ("(D)", "D"),
        ("答案是A", "A"),
        ("It is a dog, so B", "B"),
        ("abcd", None),
        ("b", None),
        ("A's friend", "A"),
    ],
)
def test_a_choice_of_one_capital_is_a_capital(text, expected):
    assert LETTERS.find(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("是。", "是"), ("答：否", "否"), ("不是", None), ("是的", None)])
def test_a_chinese_choice_stands_alone(text, expected):
    assert Choices.of("是,否").find(text) == expected


def test_the_longest_choice_at_a_place_is_taken():
    choices = Choices.of("not,not entailment,entailment")
    assert choices.find("not  entailment") == "not entailment"
    assert choices.find("not an entailment") == "not"


@given(st.sampled_from(ENTAILMENT.names), st.sampled_from("abkstzé9"), st.sampled_from("bkstz_ü0"))
def test_no_choice_inside_a_longer_word(name, before, after):
    assert ENTAILMENT.find(before + name) is None
    assert ENTAILMENT.find(name + after) is None
    assert ENTAILMENT.find(f"{before}{name}{after} ({name.upper()})") == name


@given(st.lists(st.sampled_from(["yes", "no", "maybe", "know", "not", "yesterday", "eno", "may be"])))
def test_the_first_of_many_words(words):
    expected = next((word for word in words if word in ENTAILMENT.names), None)
    assert ENTAILMENT.find(", ".join(words)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("yes", "at least two choices are expected, found yes"),
        ("", "found none"),
        ("yes,Yes", "'yes' and 'Yes' cannot be told apart"),
        ("yes,?!", "'\\?!' has no letter and no digit"),
        ("yes,unparsed", "cannot be a choice"),
    ],
)
def test_what_cannot_be_choices(text, message):
    with pytest.raises(UsageError, match=message):
        Choices.of(text)


def test_the_positive_class():
    assert (BINARY.positive, ENTAILMENT.positive, LETTERS.positive) == ("1", "yes", None)


def test_labels():
    assert label_of("Yes.", ENTAILMENT) == "yes"
    assert label_of(" ", ENTAILMENT) is None
    assert label_of(None, ENTAILMENT) is None
    with pytest.raises(UsageError, match="'entailment' is none of yes, no, maybe"):
        label_of("entailment", ENTAILMENT)


def test_choices_from_labels():
    assert choices_of(["no", "yes", "no ", "", "no"]).names == ("no", "yes")
    with pytest.raises(UsageError, match="1 different answers in 2 rows are no set of choices"):
        choices_of(["no", "no"])
    with pytest.raises(UsageError, match="30 different answers"):
        choices_of([f"answer {i}" for i in range(30)])
    with pytest.raises(UsageError, match="no answers in 1 rows"):
        choices_of([""])


PAIRS = (
    [("yes", "yes")] * 5 + [("yes", "no")] * 2 + [("yes", None)] + [("no", "no")] * 3 + [("no", "yes")]
    + [("maybe", "maybe")] * 2 + [("maybe", "no")] * 2
)  # fmt: skip


def test_figures_by_hand():
    scores = Scores.of(ENTAILMENT, PAIRS)
    assert scores.confusion == ((5, 2, 0, 1), (1, 3, 0, 0), (0, 2, 2, 0))
    assert (scores.n, scores.right, scores.unparsed) == (16, 10, 1)
    assert scores.accuracy == 10 / 16
    assert [scores.precision(i) for i in range(3)] == [5 / 6, 3 / 7, 1.0]
    assert [scores.recall(i) for i in range(3)] == [5 / 8, 3 / 4, 2 / 4]
    assert [scores.f1(i) for i in range(3)] == [10 / 14, 6 / 11, 4 / 6]
    assert scores.macro_f1 == pytest.approx((10 / 14 + 6 / 11 + 4 / 6) / 3)
    assert scores.commonest == ("yes", 0.5)


def test_a_class_that_occurs_nowhere_is_no_class():
    scores = Scores.of(ENTAILMENT, [("yes", "yes"), ("no", "no")])
    assert (scores.precision(2), scores.recall(2), scores.f1(2)) == (None, None, None)
    assert scores.macro_f1 == 1.0
    # never answered though it should be: that class has an F1, and it is 0
    assert Scores.of(ENTAILMENT, [("yes", "yes"), ("no", "no"), ("maybe", None)]).macro_f1 == pytest.approx(2 / 3)


def test_nothing_at_all():
    scores = Scores.of(BINARY, [])
    assert (scores.accuracy, scores.macro_f1, scores.mcc, scores.n) == (0.0, 0.0, 0.0, 0)


def matthews_of_indicators(pairs, names):
    """Correlation of the label's and the answer's indicators, from its definition by covariances."""
    columns = [*names, None]

    def covariance(a, b):
        total = 0.0
        for name in columns:
            x = [float(row[a] == name) for row in pairs]
            y = [float(row[b] == name) for row in pairs]
            mx, my = sum(x) / len(x), sum(y) / len(y)
            total += sum((i - mx) * (j - my) for i, j in zip(x, y, strict=True))
        return total

    spread = covariance(0, 0) * covariance(1, 1)
    return covariance(0, 1) / math.sqrt(spread) if spread > 1e-12 else 0.0


pairs_of = st.lists(
    st.tuples(st.sampled_from(ENTAILMENT.names), st.sampled_from([*ENTAILMENT.names, None])), min_size=1, max_size=40
)


@given(pairs_of)
def test_matthews_is_the_correlation_of_the_indicators(pairs):
    expected = matthews_of_indicators(pairs, ENTAILMENT.names)
    assert Scores.of(ENTAILMENT, pairs).mcc == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.tuples(st.sampled_from("01"), st.sampled_from("01")), min_size=1))
def test_two_classes_give_the_known_formulas(pairs):
    tp, tn, fp, fn = (pairs.count(pair) for pair in [("1", "1"), ("0", "0"), ("0", "1"), ("1", "0")])
    scores = Scores.of(BINARY, pairs)
    below = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    assert scores.mcc == pytest.approx((tp * tn - fp * fn) / math.sqrt(below) if below else 0.0)
    assert scores.f1(1) == (pytest.approx(2 * tp / (2 * tp + fp + fn)) if tp + fp + fn else None)


@given(pairs_of)
def test_what_holds_for_every_set_of_answers(pairs):
    scores = Scores.of(ENTAILMENT, pairs)
    assert scores.n == len(pairs)
    assert scores.right == sum(label == answer for label, answer in pairs)
    assert -1 <= scores.mcc <= 1
    assert 0 <= scores.macro_f1 <= 1
    assert scores.commonest[1] <= 1
    perfect = Scores.of(ENTAILMENT, [(label, label) for label, _ in pairs])
    assert perfect.accuracy == 1
    # a constant answer that is always right says nothing about telling classes apart
    assert perfect.mcc == pytest.approx(1 if len({label for label, _ in pairs}) > 1 else 0)
