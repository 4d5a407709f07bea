"""The quick check says yes to the data set's own lines, and never where the exact check says no."""

from __future__ import annotations

import json

import polars as pl
import pytest
from arithmetic_rows import EXAMPLES, OPERANDS, line_of, problem_of
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.arithmetic.bulk_check import accepted_lines
from converters.arithmetic.problems import CHINESE, KINDS
from converters.arithmetic.records import checked, read_row
from converters.pipeline.rows import RowError


def passed(lines: list[str]) -> dict[int, str]:
    found = accepted_lines(pl.Series("text", lines, dtype=pl.String))
    return {place: KINDS[kind] for place, kind in found.select("place", "kind").iter_rows()}


def compact(problem: str, solution: str) -> str:
    return json.dumps({"problem": problem, "solution": solution}, ensure_ascii=False, separators=(",", ":"))


@pytest.mark.parametrize("write", [line_of, compact])
def test_published_rows_pass(write) -> None:
    lines = [write(problem, solution) for _, problem, solution, _ in EXAMPLES]
    assert passed(lines) == dict(enumerate(kind for kind, *_ in EXAMPLES))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_every_right_row_passes(data: st.DataObject) -> None:
    rows = [problem_of(kind, data.draw(OPERANDS[kind])) for kind in CHINESE]
    assert passed([line_of(row.problem, row.solution) for row in rows]) == dict(enumerate(CHINESE))


def exactly(line: str) -> str | None:
    try:
        return checked(*read_row(line)).kind
    except RowError:
        return None


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_what_passes_is_right_by_the_exact_check(data: st.DataObject) -> None:
    lines = []
    for kind in CHINESE:
        row = problem_of(kind, data.draw(OPERANDS[kind]))
        line = line_of(row.problem, row.solution)
        # near the number's first digits, so that a change is one the quick check must see
        place = data.draw(st.integers(0, len(line) - 1))
        piece = data.draw(st.sampled_from(["", "0", "9", ".", "-", "+", "e", " ", '"', "\\", "x", "，", "\t", "inf"]))
        lines.append(line[:place] + piece + line[place + data.draw(st.integers(0, 1)) :])
    for place, kind in passed(lines).items():
        if exactly(lines[place]) != kind:
            # only digits beyond what floats hold may differ
            assert differs_late(lines[place])


def differs_late(line: str) -> bool:
    """Whether the row would be right if its solution were cut to twelve digits: then only later ones are wrong."""
    problem, solution = read_row(line)
    try:
        checked(problem, solution)
    except RowError as error:
        expected, found = error.detail.removeprefix("the solution does not follow: expected ").split(", found ")
        return abs(float(expected) - float(found)) <= 1e-12 * abs(float(expected))
    return True


@pytest.mark.parametrize(
    "line",
    [
        line_of("计算 1.00 + 1.00 等于多少？", "1.00 + 1.00 = 2.01"),
        line_of("计算 1.00 + 1.00 等于多少？", "1.00 + 2.00 = 2.00"),
        line_of("计算 1.00 / 0.00 等于多少？", "1.00 / 0.00 = 0"),
        line_of("计算 0.00 / 0.00 等于多少？", "0.00 / 0.00 = 0"),
        line_of("计算 1.00 + 1.00 等于多少？", "1.00 + 1.00 = inf"),
        line_of("计算 -4.00 的平方根？", "√-4.00 = 2"),
        line_of("解方程 0x + 5 = 0", "方程的解为：5"),
        line_of("将分数 4/10 进行简化。", "最简化的形式为：4/10"),
        line_of("将分数 4/0 进行简化。", "最简化的形式为：1/0"),
        line_of("计算 2.00 的 3 次方？", "2.00^2 = 8.000000"),
        line_of("Simplify 十", "\\boxed{1}"),
        line_of("Simplify", "$\\frac{1}{2}$"),
        line_of("Simplify", "\\\boxed{1}"),
        '{"solution": "30 克", "problem": "x"}',
        '{"problem": "解方程 1x + 1 = 0", "solution": "方程的解为：-1.0", "id": 1}',
        '{"problem": "解方程 1x + 1 = 0", "solution": "方程的解为：-1.0"',
        "",
        "{",
    ],
)
def test_what_must_not_pass(line: str) -> None:
    assert passed([line_of(*EXAMPLES[0][1:3]), line]) == {0: EXAMPLES[0][0]}


def test_english_passes_with_its_escapes() -> None:
    rows = [('Simplify $\\sqrt{4}$.\n"[asy]"', "It\tis\r\n$\\boxed{2}$."), ("x", "\\fbox{1}"), ("", "\\boxed 1")]
    lines = [line_of(*row) for row in rows]
    assert passed(lines) == dict.fromkeys(range(3), "english")
    assert [exactly(line) for line in lines] == ["english"] * 3


def test_no_lines() -> None:
    assert passed([]) == {}


def test_hashes_tell_problems_and_pairs_apart() -> None:
    lines = [
        line_of("计算 1.00 / 3.00 等于多少？", "1.00 / 3.00 = 0.3333333333333333333333333333"),
        compact("计算 1.00 / 3.00 等于多少？", "1.00 / 3.00 = 0.3333333333333333333333333333"),
        line_of("计算 1.00 / 3.00 等于多少？", "1.00 / 3.00 = 0.33333333333333"),
        line_of("计算 1.00 / 4.00 等于多少？", "1.00 / 4.00 = 0.25"),
    ]
    lines[1] = lines[0]
    found = accepted_lines(pl.Series("text", lines)).sort("place")
    assert found["problem"].n_unique() == 2
    assert found["pair"].n_unique() == 3
