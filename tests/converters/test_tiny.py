"""The small base's text: every drill is right, nothing of the task it will be tuned on is in it."""

from __future__ import annotations

import random
import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.arithmetic.problems import parse
from converters.arithmetic.steps.digits import ANSWER
from converters.tiny.corpus import CHINESE, MIXES, corpus, numbers_row
from converters.tiny.drills import SKILLS, drill, surrounded


def rows(mix: str, count: int, seed: int = 0) -> list[tuple[str, list[str]]]:
    """Skill and texts of some rows."""
    found = corpus(count, seed, mix)
    return [(skill, [turn["value"] for turn in row["conversations"]]) for skill, row in found]


@pytest.mark.parametrize("mix", MIXES)
def test_shares_of_a_mix_make_a_whole(mix: str) -> None:
    assert sum(MIXES[mix].values()) == pytest.approx(1)
    assert {skill for skill, _ in rows(mix, 1500)} == set(MIXES[mix])


@pytest.mark.parametrize("mix", MIXES)
def test_same_seed_same_rows(mix: str) -> None:
    assert rows(mix, 50, seed=3) == rows(mix, 50, seed=3) != rows(mix, 50, seed=4)


@pytest.mark.parametrize("mix", MIXES)
def test_no_problem_of_the_task_is_in_the_text(mix: str) -> None:
    for _, texts in rows(mix, 1500):
        assert not any(parse(text, text) for text in texts)


@given(st.integers(0, 2**32), st.sampled_from(["signed", "divide"]))
def test_answers_of_binary_drills_follow(seed: int, skill: str) -> None:
    prompt, answer = drill(random.Random(seed), skill)
    left, operator, right = re.fullmatch(r"(-?[\d.]+)([-+*/^])(-?[\d.]+)=", prompt).groups()
    a, b, found = Decimal(left), Decimal(right), Decimal(answer.rpartition(ANSWER)[2])
    exact = {"+": a + b, "-": a - b, "*": a * b}.get(operator)
    if operator == "/":
        # cut off after two decimals, towards zero
        assert 0 <= abs(a / b) - abs(found) < Decimal("0.01")
        assert found == 0 or (found < 0) == (a / b < 0)
    else:
        assert found == exact


@given(st.integers(0, 2**32))
def test_answers_of_sums_and_means_follow(seed: int) -> None:
    prompt, answer = drill(random.Random(seed), "mean")
    terms = [int(term) for term in prompt[1 : prompt.index(")")].split("+")]
    assert 0 <= Decimal(sum(terms)) / len(terms) - Decimal(answer.rpartition(ANSWER)[2]) < Decimal("0.01")
    prompt, answer = drill(random.Random(seed), "sum")
    assert sum(map(int, prompt[:-1].split("+"))) == int(answer.rpartition(ANSWER)[2])


@given(st.integers(0, 2**32))
def test_answers_of_powers_and_shares_follow(seed: int) -> None:
    prompt, answer = drill(random.Random(seed), "power")
    base, _, exponent = prompt[:-1].partition("^")
    exact, found = (
        Decimal(base) ** int(exponent) if Decimal(base) else Decimal(exponent == "0"),
        answer.rpartition(ANSWER)[2],
    )
    assert abs(exact - Decimal(found)) <= Decimal("0.01") + abs(exact) * Decimal("1e-5")
    prompt, answer = drill(random.Random(seed), "share")
    a, b = map(int, re.findall(r"\d+", prompt)[:2])
    assert abs(Decimal(100 * (a - b)) / a - Decimal(answer.rpartition(ANSWER)[2])) < Decimal("0.01")


@given(st.integers(0, 2**32), st.sampled_from(sorted(SKILLS)))
def test_operands_survive_among_words_in_order(seed: int, skill: str) -> None:
    rng = random.Random(seed)
    prompt, _ = drill(rng, skill)
    among = surrounded(rng, prompt, CHINESE, "=")
    digits = re.findall(r"[\d.]+", prompt)
    assert re.findall(r"[\d.]+", among) == digits


@given(st.integers(0, 2**32))
def test_numbers_are_listed_in_order(seed: int) -> None:
    prompt, answer = numbers_row(random.Random(seed))
    assert re.findall(r"-?[\d.]+", prompt) == answer.split(" ")
