"""Function values by logarithms: every line holds by itself, no value of the contest's ranges is missed."""

from __future__ import annotations

import json
import re
from decimal import Context, Decimal
from pathlib import Path

import numpy as np
import pytest
from arithmetic_rows import OPERANDS, problem_of
from hypothesis import given
from hypothesis import strategies as st

from converters.arithmetic.__main__ import main
from converters.arithmetic.problems import parse, problem_text, solution_text
from converters.arithmetic.recitation import recitations
from converters.arithmetic.steps import CELLS, choose_style, get_style
from converters.arithmetic.steps.digits import ANSWER
from converters.arithmetic.steps.logarithms import (
    ANTILOGARITHMS,
    BASES,
    EXPONENTS,
    FACTORS,
    antilogarithm,
    antilogarithm_entry,
    covers,
    logarithm,
    logarithm_entry,
)
from converters.common.errors import UsageError
from converters.tokenizers.segments import TokenLimit
from eval.math.rules import grade
from eval.math.rules import parse as read_answer

KIND = "function computation"
TINY = Path(__file__).resolve().parents[2] / "models/tiny"
CENTRAL = Context(prec=60)


def check_rows(rows: list[str], factor: str, by: str, start: str) -> int:
    """Recompute the cells of ``factor * by + start`` column by column; returns what they arrive at."""
    total, final = [int(digit) for digit in reversed(start)], []
    assert len(rows) == len(by)
    for position, (row, digit) in enumerate(zip(rows, reversed(by), strict=True)):
        shown, _, cells = row.partition(":")
        assert shown == digit
        assert len(cells) == 2 * len(factor)
        if position:
            final.append(total.pop(0))
        carry = 0
        for place, x in enumerate(reversed(factor)):
            cell = total[place] + int(x) * int(digit) + carry
            assert cells[2 * place : 2 * place + 2] == f"{cell:02}"
            carry, total[place] = divmod(cell, 10)
        total.append(carry)
    return int("".join(map(str, reversed(final + total))))


def check_steps(text: str, x: Decimal, factor: int, exponent: int) -> None:
    """Recompute every line of a function value from the lines before it, and the entries of the tables."""
    work, _, answer = text.rpartition(ANSWER)
    base_line, factor_line, exponent_line, *rest = work.split("\n")
    (base, base_log), (shown, factor_log) = base_line.split(":"), factor_line.split(":")
    assert (Decimal(base), int(shown), int(exponent_line.removeprefix("*"))) == (x, factor, exponent)
    for entry, number in ((base_log, x if x >= 1 else 10 * x), (factor_log, Decimal(factor))):
        assert abs(Decimal(entry).scaleb(-8) - CENTRAL.log10(number)) <= Decimal("0.5e-8")
    count = len(exponent_line) - 1
    total = check_rows(rest[:count], base_log, exponent_line[1:], factor_log)
    assert rest[count] == f"={total // 10**8}.{total // 100 % 10**6:06}"
    rest, power, mantissa = rest[count + 1 :], total // 10**8, f"{total // 100 % 10**6:06}"
    if x < 1:
        power -= exponent
        line = rest.pop(0)
        head = re.fullmatch(r"(-\()?(\d+)([-+])(\d+)\)?:(?:\d[-+]\d=\d[c,])+", line)
        assert head is not None
        assert (1, -1)[head[1] is not None] * (int(head[2]) - int(head[4])) == power
    if not rest:
        assert power < -2
        assert answer == "0.00"
        return
    key, _, values = rest.pop(0).partition(">")
    number, rise = values.split(",")
    assert int(key) == int(mantissa[:3]) // 2 * 2
    assert abs(Decimal(number) - CENTRAL.power(Decimal(10), Decimal(key).scaleb(-3) + 6)) <= Decimal("0.5")
    left = f"{int(mantissa) - 1000 * int(key):04}"
    rest[-1], _, sums = rest[-1].partition(";")
    product = check_rows(rest, rise, left, "00000") // 1000
    found, carry = "", 0
    for place in range(7):
        column = int(number[-1 - place]) + product // 10**place % 10 + carry
        carry = column // 10
        assert sums[2 * place : 2 * place + 2] == f"{column % 10}{'c' if carry else ','}"
        found = f"{column % 10}{found}"
    assert (carry, len(sums)) == (0, 14)
    written, value = Decimal(answer), Decimal(found).scaleb(power - 6)
    assert written == value or ("E" not in answer and 0 <= value - written < Decimal("0.01"))


@given(OPERANDS[KIND])
def test_every_line_holds_and_the_answer_is_close(operands: tuple) -> None:
    problem = problem_of(KIND, operands)
    for style in ("worked", "compact"):
        text = get_style(style)[KIND](problem)
        check_steps(text, *operands)
        label = read_answer(problem.solution)
        assert label is not None
        assert grade(read_answer(text), label)["close"]


@pytest.mark.parametrize(
    "operands",
    [("10.00", 100, 100), ("1.00", 1, 1), ("0.10", 1, 1), ("0.10", 100, 100), ("0.99", 100, 100), ("9.99", 99, 100)],
)
def test_the_ends_of_the_ranges(operands: tuple) -> None:
    given_operands = (Decimal(operands[0]), *operands[1:])
    check_steps(get_style("worked")[KIND](problem_of(KIND, given_operands)), *given_operands)


def test_no_value_of_the_ranges_is_off_by_more_than_half_of_what_close_allows() -> None:
    """All 9.91 million triples, with whole numbers as the steps have them; none is written in the long form."""
    logs = np.array([logarithm(base) for base in BASES])[:, None]
    below = np.array([base < 1 for base in BASES])[:, None]
    exponents = np.array(EXPONENTS)[None]
    numbers, rises = np.array([antilogarithm(entry) for entry in ANTILOGARITHMS]).T
    bases = np.array([float(base) for base in BASES])[:, None]
    largest = 0.0
    for factor in FACTORS:
        total = logs * exponents + logarithm(Decimal(factor))
        power, mantissa = total // 10**8 - below * exponents, total % 10**8 // 100
        entry, left = mantissa // 2000, mantissa % 2000
        found = numbers[entry] + rises[entry] * left // 1000
        assert found.min() >= 10**6
        assert found.max() < 10**7
        # logarithms of at most 102 with an error of 1e-14: far below what is measured
        error = np.log10(found) - 6 + power - np.log10(bases) * exponents - np.log10(factor)
        largest = max(largest, float(np.abs(np.expm1(error * np.log(10))).max()))
    assert largest < 4.9e-6


@given(OPERANDS[KIND])
def test_the_whole_numbers_above_are_those_of_the_steps(operands: tuple) -> None:
    x, factor, exponent = operands
    text = get_style("worked")[KIND](problem_of(KIND, operands))
    total = logarithm(x) * exponent + logarithm(Decimal(factor))
    assert f"\n={total // 10**8}.{total % 10**8 // 100:06}\n" in text
    if text.endswith("0.00"):
        return
    mantissa = total % 10**8 // 100
    number, rise = antilogarithm(mantissa // 2000 * 2)
    found = number + rise * (mantissa % 2000) // 1000
    assert ";" + "".join(text.rpartition(";")[2].split("\n")[0])[::2][::-1] == f";{found:07}"


def test_a_value_above_or_below_the_tables_is_worked_as_a_power() -> None:
    assert covers(Decimal("0.10"), 1, 1)
    for operands in ((Decimal("10.01"), 1, 2), (Decimal("2.505"), 1, 2), (Decimal(2), 101, 2), (Decimal(2), 1, 101)):
        assert not covers(*operands)
        problem = parse(problem_text(KIND, operands), solution_text(KIND, operands))
        assert problem is not None
        assert "E0^" in get_style("worked")[KIND](problem) or "E1^" in get_style("worked")[KIND](problem)


def test_rows_fit_256_tokens() -> None:
    """With every digit a token; only 10.00 and numbers just below 1, to the hundredth power, are longer."""
    steps = get_style("worked")[KIND]
    bases = (Decimal("0.10"), Decimal("1.00"), Decimal("9.99"))
    drawn = [(x, a, b) for x in bases for a in (1, 99, 100) for b in (1, 2, 99, 100)]
    drawn += [(Decimal("0.99"), 100, 99), (Decimal("10.00"), 100, 99)]
    problems = [problem_of(KIND, operands) for operands in drawn]
    lengths = TokenLimit(256, TINY, "bare").lengths([(one.problem, steps(one)) for one in problems])
    assert max(lengths) <= 256


def test_cells_of_two_digits_are_spaced() -> None:
    text = get_style(choose_style("worked", digits=CELLS))[KIND](problem_of(KIND, (Decimal("4.03"), 57, 54)))
    assert "4.03:060530505\n57:175587486\n" in text
    assert "\n4:26 10 25 09 20 27 07 31 04\n" in text


def test_recitations_have_each_entry_as_often_as_asked() -> None:
    rows = list(recitations(3, 7))
    assert rows == list(recitations(3, 7)) != list(recitations(3, 8))
    lines = sorted(line for _, answer in rows for line in answer.split("\n"))
    entries = [*map(logarithm_entry, (*BASES, *FACTORS)), *map(antilogarithm_entry, ANTILOGARITHMS)]
    assert lines == sorted(3 * entries)
    for prompt, answer in rows:
        head, *asked = prompt.split()
        keys = [re.split("[:>]", line)[0] for line in answer.split("\n")]
        assert keys == asked if head == "lg" else keys == [f"{int(key) // 2 * 2:03}" for key in asked]


def test_the_command_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tables.jsonl"
    main(["recite", "-o", str(out), "--times", "2", "--seed", "1"])
    rows = [json.loads(line)["conversations"] for line in out.read_text(encoding="utf-8").splitlines()]
    assert [(human["value"], gpt["value"]) for human, gpt in rows] == list(recitations(2, 1))
    assert f"{len(rows)} rows, 8 entries a row; each entry occurs 2 times" in capsys.readouterr().err
    with pytest.raises(UsageError, match="at least 1"):
        main(["recite", "-o", str(out), "--times", "0"])


@given(st.sampled_from(ANTILOGARITHMS))
def test_the_rise_leads_to_the_next_entry(entry: int) -> None:
    number, rise = antilogarithm(entry)
    after = antilogarithm(entry + 2)[0] if entry < 998 else 10**7
    assert abs(number + 2 * rise - after) <= 2
