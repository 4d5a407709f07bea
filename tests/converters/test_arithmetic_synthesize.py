"""Synthesised rows: right, in range, in the contest's mix, with the contest's duplicates."""

from __future__ import annotations

import json
import math
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest
from arithmetic_rows import read_jsonl

from converters.arithmetic import CONTEST_ROWS, report, synthesize
from converters.arithmetic.problems import CHINESE, ENGLISH, Problem, check, parse
from converters.arithmetic.synthesis import MIX, english_rows
from converters.common.errors import UsageError

ROWS = 30_000


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "raw.jsonl"
    synthesize(path, ROWS, seed=3)
    return path


@pytest.fixture(scope="module")
def problems(raw: Path) -> list[Problem]:
    found = [parse(row["problem"], row["solution"]) for row in read_jsonl(raw)]
    assert None not in found
    return [problem for problem in found if problem]


def test_lines_are_as_json_writes_them(raw: Path) -> None:
    for line in raw.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        assert list(row) == ["problem", "solution"]
        assert json.dumps(row, ensure_ascii=False) == line


def test_every_solution_follows(problems: list[Problem]) -> None:
    assert len(problems) == ROWS
    for problem in problems[::7]:
        check(problem)


def test_english_rows_come_last_and_are_all_different(problems: list[Problem]) -> None:
    english = [problem for problem in problems if problem.kind == ENGLISH]
    assert len(english) == round(ROWS * 9_993 / CONTEST_ROWS)
    assert problems[-len(english) :] == english
    assert len({problem.problem for problem in english}) == len(english)


def test_the_mix_is_the_contests(problems: list[Problem]) -> None:
    counts = Counter(problem.kind for problem in problems)
    chinese = ROWS - counts[ENGLISH]
    assert sum(MIX.values()) == pytest.approx(1)
    for kind in CHINESE:
        spread = math.sqrt(chinese * MIX[kind] * (1 - MIX[kind]))
        assert abs(counts[kind] - chinese * MIX[kind]) < 5 * spread, kind
    operators = Counter(problem.operands[1] for problem in problems if problem.kind == "direct computation")
    assert set(operators) == set("+-*/")
    assert min(operators.values()) > 0.22 * counts["direct computation"]


def expected_unique(draws: int, chances: list[float]) -> float:
    """How many different ones of equally probable or weighted outcomes are drawn."""
    return sum(1 - (1 - chance) ** draws for chance in chances)


def test_duplicates_are_those_of_the_ranges(problems: list[Problem]) -> None:
    counts = Counter(problem.kind for problem in problems)
    unique = Counter(problem.kind for problem in {problem.problem: problem for problem in problems}.values())
    fractions = [1 / 9 / (10 - p) for p in range(1, 10) for _ in range(p + 1, 11)]
    ranges = {
        "eq solve": [1 / 40_200] * 40_200,
        "mass computation": [1 / 100] * 100,
        "area computation": [1 / 10_000] * 10_000,
        "discount percentage": [1 / 10_000] * 10_000,
        "sales revenue": [1 / 10_000] * 10_000,
        "fraction simplify": fractions,
    }
    for kind, chances in ranges.items():
        expected = expected_unique(counts[kind], chances)
        assert abs(unique[kind] - expected) < 5 * math.sqrt(expected) / 2 + 1, kind
    assert unique["direct computation"] == counts["direct computation"]


def test_operands_stay_in_range_and_reach_its_ends(problems: list[Problem]) -> None:
    by_kind: dict[str, list[tuple]] = {}
    for problem in problems:
        by_kind.setdefault(problem.kind, []).append(problem.operands)

    def column(kind: str, place: int) -> list:
        return [operands[place] for operands in by_kind[kind]]

    def spans(numbers: list, low: float | Decimal, high: float) -> bool:
        width = Decimal(high) - Decimal(low)
        return low <= min(numbers) < low + width / 20 and high - width / 20 < max(numbers) <= high

    assert spans(column("direct computation", 0), -10_000, 10_000)
    assert spans(column("direct computation", 2), -10_000, 10_000)
    assert spans(column("sqrt computation", 0), 0, 10_000)
    assert spans(column("power computation", 0), -1_000, 1_000)
    assert set(column("power computation", 1)) == set(range(6))
    assert spans(column("function computation", 0), Decimal("0.1"), 10)
    assert spans(column("function computation", 2), 1, 100)
    assert spans(column("eq solve", 0), -100, 100)
    assert 0 not in column("eq solve", 0)
    assert 0 in column("eq solve", 1)
    lengths = Counter(map(len, by_kind["mean computation"]))
    assert set(lengths) == set(range(3, 11))
    assert set(by_kind["fraction simplify"]) == {(p, q) for p in range(1, 10) for q in range(p + 1, 11)}
    assert len(set(by_kind["mass computation"])) == 100
    for kind in ("direct computation", "sqrt computation", "power computation", "function computation"):
        for number in column(kind, 0)[:500]:
            assert isinstance(number, Decimal)
            assert number.as_tuple().exponent == -2


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    texts = []
    for number, seed in enumerate((1, 1, 2)):
        synthesize(tmp_path / f"{number}.jsonl", 2_000, seed)
        texts.append((tmp_path / f"{number}.jsonl").read_bytes())
    assert texts[0] == texts[1] != texts[2]


def test_only_the_kinds_asked_for_are_drawn_in_the_contests_proportions(tmp_path: Path) -> None:
    counts = synthesize(tmp_path / "some.jsonl", 8_000, seed=1, kinds=["-", "*", "eq solve"])
    assert counts == {"chinese": 8_000, "english": 0}
    found = [parse(row["problem"], row["solution"]) for row in read_jsonl(tmp_path / "some.jsonl")]
    kinds = Counter(problem.operands[1] if problem.kind == "direct computation" else problem.kind for problem in found)
    assert set(kinds) == {"-", "*", "eq solve"}
    # 0.45 / 4 for each operator against 0.30
    total = 2 * 0.1125 + 0.30
    for kind, share in (("-", 0.1125), ("*", 0.1125), ("eq solve", 0.30)):
        assert kinds[kind] == pytest.approx(8_000 * share / total, rel=0.08)
    for problem in found:
        check(problem)


def test_all_kinds_by_name_are_the_whole_mix(tmp_path: Path) -> None:
    synthesize(tmp_path / "named.jsonl", 2_000, seed=1, kinds=list(MIX))
    kinds = Counter(parse(row["problem"], row["solution"]).kind for row in read_jsonl(tmp_path / "named.jsonl"))
    assert set(kinds) == set(MIX)


@pytest.mark.parametrize("kinds", [["plus"], [], ["+", "eq solv"]])
def test_an_unknown_kind_is_refused_before_anything_is_written(tmp_path: Path, kinds: list[str]) -> None:
    with pytest.raises(UsageError, match="--kinds"):
        synthesize(tmp_path / "none.jsonl", 10, kinds=kinds)
    assert not list(tmp_path.iterdir())


def test_english_answers_are_right() -> None:
    import numpy as np

    rows = list(english_rows(np.random.default_rng(0), 600))
    assert len({problem for problem, _ in rows}) == 600
    checked = 0
    for problem, solution in rows:
        boxed = solution.rpartition("\\boxed{")[2]
        assert boxed
        if problem.startswith("What is the remainder"):
            product, modulus = problem.split("$")[1], int(problem.split("$")[3])
            a, rest = product.split(" \\cdot ")
            b, c = rest.split(" + ")
            assert boxed.startswith(f"{(int(a) * int(b) + int(c)) % modulus}}}")
            checked += 1
        if problem.startswith("Find the value of $x$"):
            left, right = problem.split("$")[3].split(" = ")
            x = int(boxed.split("}")[0])
            a, d = left.split("x + ")
            b, e = right.split("x + ")
            assert int(a) * x + int(d) == int(b) * x + int(e.strip("()"))
            checked += 1
    assert checked > 150


@pytest.mark.slow
def test_the_twelve_shares_of_report_004(tmp_path: Path) -> None:
    """The contest's whole mix: its own counts differ from the expected ones by chance alone."""
    published = {
        "direct computation": 0.654617427706388,
        "eq solve": 0.07301317807710105,
        "area computation": 0.015784909881189635,
        "sqrt computation": 0.07145927985105895,
        "power computation": 0.07142284612946359,
        "function computation": 0.03648472880559331,
        "discount percentage": 0.011431080150544138,
        "mass computation": 0.000182168607976799,
        "mean computation": 0.035903610946147316,
        "sales revenue": 0.011414684975826225,
        "fraction simplify": 8.197587358955955e-05,
        "english": 0.018204108995121523,
    }
    path = tmp_path / "raw.jsonl"
    synthesize(path)
    found = report(path)
    unique = {kind: one["unique"] for kind, one in found.kinds.items()}
    assert found.rows["in"] - found.rows["rejected"] == 809_993
    assert unique[ENGLISH] == 9_993
    assert sum(unique.values()) - 9_993 == pytest.approx(538_949, abs=3_000)
    for kind, share in published.items():
        assert unique[kind] / sum(unique.values()) == pytest.approx(share, rel=0.03), kind
