"""The grader and the styles of steps agree: what training data teach is what grading counts as right."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from converters.arithmetic.problems import CHINESE, StepError, parse, problem_text, solution_text
from converters.arithmetic.steps import get_style
from eval.math.rules import RULES, grade
from eval.math.rules import parse as answer_of


def hundredths(low, high):
    return st.integers(low * 100, high * 100).map(lambda whole: Decimal(whole).scaleb(-2))


small = st.tuples(st.integers(1, 100), st.integers(1, 100))
OPERANDS = {
    "direct computation": st.tuples(
        hundredths(-10000, 10000), st.sampled_from("+-*/"), hundredths(-10000, 10000).filter(bool)
    ),
    "power computation": st.tuples(hundredths(-1000, 1000), st.integers(0, 5)),
    "sqrt computation": st.tuples(hundredths(0, 10000)),
    "fraction simplify": st.integers(1, 9).flatmap(lambda p: st.tuples(st.just(p), st.integers(p + 1, 10))),
    "mean computation": st.lists(st.integers(1, 100), min_size=3, max_size=10).map(tuple),
    "eq solve": st.tuples(st.integers(-100, 100).filter(bool), st.integers(-100, 100)),
    "function computation": st.tuples(hundredths(1, 10), st.integers(1, 100), st.integers(1, 100)),
    "area computation": small,
    "mass computation": small,
    "discount percentage": small,
    "sales revenue": small,
}
problems = st.one_of([st.tuples(st.just(kind), OPERANDS[kind]) for kind in CHINESE])


def test_the_kinds_drawn_here_are_the_kinds_there_are():
    assert set(OPERANDS) == set(CHINESE)


@given(problems)
def test_a_raw_solution_is_right_under_every_rule(problem):
    label = answer_of(solution_text(*problem))
    assert label is not None
    assert label.value is not None
    assert grade(label, label) == dict.fromkeys(RULES, True)


@given(problems)
def test_worked_steps_end_in_an_answer_that_is_close(problem):
    kind, operands = problem
    solution = solution_text(kind, operands)
    try:
        text = get_style("worked")[kind](parse(problem_text(kind, operands), solution))
    except StepError:
        return
    assert grade(answer_of(text), answer_of(solution))["close"]
    if kind == "fraction simplify":
        assert grade(answer_of(text), answer_of(solution))["exact"]


@given(problems)
def test_the_published_steps_end_in_their_rounded_answer(problem):
    kind, operands = problem
    solution = solution_text(kind, operands)
    try:
        text = get_style("seed")[kind](parse(problem_text(kind, operands), solution))
    except StepError:
        return
    label, answer = answer_of(solution), answer_of(text)
    assert answer is not None
    # rounded to four decimals, discounts to two
    assert abs(answer.value - label.value) <= max(Decimal("0.0051"), abs(label.value) * Decimal("1e-9"))
