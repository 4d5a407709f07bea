"""Arithmetic rows for tests: the published examples, and operands over the whole range of each kind."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from converters.arithmetic.__main__ import main
from converters.arithmetic.problems import Problem, parse, problem_text, solution_text

# kind, problem, solution as published, answer in the seed style
EXAMPLES = [
    (
        "direct computation",
        "计算 7469.98 * -2455.65 等于多少？",
        "7469.98 * -2455.65 = -18343656.3870",
        "计算过程：7469.98 * -2455.65 = -18343656.387",
    ),
    (
        "direct computation",
        "计算 -6211.70 * -6871.61 等于多少？",
        "-6211.70 * -6871.61 = 42684379.8370",
        "计算过程：-6211.70 * -6871.61 = 42684379.837",
    ),
    (
        "direct computation",
        "计算 967.09 - -688.16 等于多少？",
        "967.09 - -688.16 = 1655.25",
        "计算过程：967.09 - -688.16 = 1655.25",
    ),
    (
        "direct computation",
        "计算 1075.16 - 8090.56 等于多少？",
        "1075.16 - 8090.56 = -7015.40",
        "计算过程：1075.16 - 8090.56 = -7015.4",
    ),
    (
        "eq solve",
        "解方程 -81x + -45 = 0",
        "方程的解为：-0.5555555555555556",
        "计算过程：-81x = 45, x = 45 / -81, x = -0.5556",
    ),
    ("eq solve", "解方程 -1x + -17 = 0", "方程的解为：-17.0", "计算过程：-1x = 17, x = 17 / -1, x = -17"),
    ("eq solve", "解方程 -81x + 0 = 0", "方程的解为：0.0", "计算过程：-81x = 0, x = 0 / -81, x = 0"),
    (
        "mean computation",
        "求以下数据的平均值：[79, 69, 19, 3, 23, 93]",
        "平均值为 47.666666666666664",
        "计算过程：(79 + 69 + 19 + 3 + 23 + 93) / 6 = 47.6667",
    ),
    ("mean computation", "求以下数据的平均值：[17, 99, 52]", "平均值为 56.0", "计算过程：(17 + 99 + 52) / 3 = 56"),
    (
        "fraction simplify",
        "将分数 4/10 进行简化。",
        "最简化的形式为：2/5",
        "计算过程：gcd(4, 10) = 2, 4 / 2 = 2, 10 / 2 = 5, 最简化的形式为：2/5",
    ),
    (
        "mass computation",
        "某物体的密度为 10 克/立方厘米，体积为 3 立方厘米，请计算该物体的质量。",
        "30 克",
        "计算过程：10 * 3 = 30",
    ),
    (
        "discount percentage",
        "商品原价为 51 元，打折后的价格为 28 元，请计算打折的折扣比例。",
        "45.09803921568628",
        "计算过程：(51 - 28) / 51 = 45.1",
    ),
    (
        "discount percentage",
        "商品原价为 1 元，打折后的价格为 84 元，请计算打折的折扣比例。",
        "-8300.0",
        "计算过程：(1 - 84) / 1 = -8300",
    ),
    (
        "area computation",
        "一个长方形的长为 57 厘米，宽为 84 厘米，请计算其面积。",
        "面积为 4788 平方厘米",
        "计算过程：57 * 84 = 4788",
    ),
    (
        "sqrt computation",
        "计算 6145.00 的平方根？",
        "√6145.00 = 78.39005038906404479030928703",
        "计算过程：√6145.00 = 78.3901",
    ),
    (
        "power computation",
        "计算 -711.31 的 4 次方？",
        "-711.31^4 = 255997460543.58343921",
        "计算过程：-711.31^4 = 255997460543.58343921",
    ),
    ("power computation", "计算 819.19 的 0 次方？", "819.19^0 = 1", "计算过程：819.19^0 = 1"),
    (
        "power computation",
        "计算 -337.33 的 2 次方？",
        "-337.33^2 = 113791.5289",
        "计算过程：-337.33^2 = 113791.5289",
    ),
    (
        "sales revenue",
        "去年销售额为 32 万元，今年销售额增加了 28%，请计算今年的销售额。",
        "40.96",
        "计算过程：32 * (1 + 0.28) = 40.96",
    ),
    (
        "sales revenue",
        "去年销售额为 28 万元，今年销售额增加了 82%，请计算今年的销售额。",
        "50.96",
        "计算过程：28 * (1 + 0.82) = 50.96",
    ),
    (
        "function computation",
        "当 x = 4.03 时，求函数 y = 57x^54 的值",
        "函数的值为：2.769155521409239378157128235E+34",
        "计算过程：57 * 4.03 ^ 54 = 2.769155521409239378157128235E+34",
    ),
    (
        "function computation",
        "当 x = 2.50 时，求函数 y = 9x^49 的值",
        "函数的值为：283989925879564249948.2222835",
        "计算过程：9 * 2.5 ^ 49 = 283989925879564249948.2222835",
    ),
]


def hundredths(low: int, high: int) -> st.SearchStrategy[Decimal]:
    return st.integers(low, high).map(lambda units: Decimal(units).scaleb(-2))


def pair(high: int) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(st.integers(1, high), st.integers(1, high))


OPERANDS: dict[str, st.SearchStrategy[tuple[Any, ...]]] = {
    "direct computation": st.tuples(
        hundredths(-1_000_000, 1_000_000), st.sampled_from("+-*/"), hundredths(-1_000_000, 1_000_000)
    ).filter(lambda operands: operands[1] != "/" or operands[2] != 0),
    "eq solve": st.tuples(st.integers(-100, 100).filter(bool), st.integers(-100, 100)),
    "mean computation": st.lists(st.integers(1, 100), min_size=3, max_size=10).map(tuple),
    "fraction simplify": st.integers(1, 9).flatmap(lambda p: st.tuples(st.just(p), st.integers(p + 1, 10))),
    "mass computation": pair(10),
    "discount percentage": pair(100),
    "area computation": pair(100),
    "sqrt computation": st.tuples(hundredths(0, 1_000_000)),
    "power computation": st.tuples(hundredths(-100_000, 100_000), st.integers(0, 5)),
    "sales revenue": pair(100),
    "function computation": st.tuples(hundredths(10, 1_000), st.integers(1, 100), st.integers(1, 100)),
}


def problem_of(kind: str, operands: tuple[Any, ...]) -> Problem:
    """A right row of this kind, read back from its texts."""
    problem = parse(problem_text(kind, operands), solution_text(kind, operands))
    assert problem is not None
    return problem


def line_of(problem: str, solution: str) -> str:
    return json.dumps({"problem": problem, "solution": solution}, ensure_ascii=False)


def write_lines(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def read_jsonl(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


RIGHT = [line_of(problem, solution) for _, problem, solution, _ in EXAMPLES]
ENGLISH = line_of('Say "$1+1$".', "It is $\\boxed{2}$.\n")


def convert(raw: Path | str, out: Path, *options: str) -> dict[str, Any]:
    """Run the command; returns its report."""
    main(["convert", str(raw), "-o", str(out), *options])
    return json.loads(out.with_name(out.name + ".report.json").read_text(encoding="utf-8"))
