"""Read and check canonical lines by the ten thousand, in Polars: the quick way to accept.

A line passes if it is ``{"problem": "…", "solution": "…"}`` with the sentence of a known kind, and its solution
agrees with the value computed in floats to ``DIGITS`` significant digits; or if it is English with a boxed answer.
Passing is all that this module decides. Every line that does not pass (other key order, unusual escapes, rounded
solutions, errors of every sort) is left to ``problems.check``, which alone may refuse a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import polars as pl

from converters.arithmetic.problems import BY_NAME, BY_START, DECIMAL, ENGLISH, KINDS

# fewer than the 15 digits that a float holds: x^100 multiplies the rounding error of x by a hundred
DIGITS = 12
TOLERANCE = 10.0**-DIGITS
HEAD, MIDDLE = '{"problem": "', '", "solution": "'
"""What stands before the problem and before the solution, as ``json.dumps`` writes a line."""
COMPACT_HEAD, COMPACT_MIDDLE = '{"problem":"', '","solution":"'
"""The same as JSON without spaces has it."""

FOUND = {"place": pl.UInt32, "kind": pl.UInt8, "problem": pl.UInt64, "pair": pl.UInt64}
"""One line that passes: its place, its kind as index in KINDS, hashes of its problem (as JSON has it between quotes)
and, for the pair of problem and solution, of the whole line.

That two of ten million problems share a 64-bit hash has a chance of 3 in a million, and would show as a conflict.
"""

_VALUE = rf"(?<v>{DECIMAL}(?:[eE][+-]?[0-9]+)?)"
_A, _B, _V = pl.col("a"), pl.col("b"), pl.col("v")


def _near(exact: pl.Expr, scale: pl.Expr | None = None) -> pl.Expr:
    """Whether the solution is ``exact`` up to TOLERANCE times ``scale`` (default: the value itself)."""
    # Polars orders NaN above every number and equal to itself, so a division by zero has to be ruled out by name
    return exact.is_finite() & ((_V - exact).abs() <= TOLERANCE * (exact if scale is None else scale).abs())


def _direct() -> pl.Expr:
    operator = pl.col("o")
    exact = pl.when(operator == "+").then(_A + _B).when(operator == "-").then(_A - _B)
    exact = exact.when(operator == "*").then(_A * _B).otherwise(_A / _B)
    # sums and differences may cancel: their digits are counted from the larger operand's first
    is_sum = operator.is_in(["+", "-"])
    return _near(exact, pl.when(is_sum).then(pl.max_horizontal(_A.abs(), _B.abs())).otherwise(exact))


@dataclass(frozen=True)
class _BulkPattern:
    """How one kind's solution is read and checked: see ``find``."""

    solution: str
    """Pattern of the solution; its group ``v`` is the value."""
    agrees: pl.Expr
    """Whether the solution's value is right; the groups in ``numbers`` are floats by then."""
    numbers: tuple[str, ...] = ("a", "b", "v")
    echoed: pl.Expr | None = None
    """Whether the solution repeats the problem's groups, if it has to."""

    def find(self, kind: str, problem: str, lines: pl.LazyFrame) -> pl.LazyFrame:
        """Find the lines of one kind that pass.

        Args:
            kind: one of KINDS.
            problem: pattern of the problem.
            lines: columns ``place`` and ``text``.

        Returns:
            One row for each line that passes, columns as in FOUND.
        """
        pattern = rf'^\{{"problem": "(?<problem>{problem})", "solution": "{self.solution}"\}}$'
        text = pl.col("text")
        fields = lines.select("place", text.hash().alias("pair"), text.str.extract_groups(pattern).alias("fields"))
        rows = fields.unnest("fields").filter(pl.col("problem").is_not_null() if self.echoed is None else self.echoed)
        # cast in a step of its own: a filter casts again for each mention
        floats = [pl.col(name).cast(pl.Float64, strict=False) for name in self.numbers]
        rows = rows.with_columns(floats).filter(self.agrees)
        return rows.select("place", pl.lit(KINDS.index(kind), pl.UInt8).alias("kind"), pl.col("problem").hash(), "pair")


# covers the contest's denominators, up to 10; other fractions are left to the exact check
_LOWEST_TERMS = [f"{p}/{q}={p // math.gcd(p, q)}/{q // math.gcd(p, q)}" for q in range(2, 100) for p in range(1, q)]

_KINDS = {
    "direct computation": _BulkPattern(
        rf"(?<again>{DECIMAL} [-+*/] {DECIMAL}) = {_VALUE}",
        _direct(),
        echoed=pl.col("problem") == pl.concat_str(pl.lit("计算 "), "again", pl.lit(" 等于多少？")),
    ),
    "eq solve": _BulkPattern(rf"方程的解为：{_VALUE}", _near(-_B / _A)),
    "mean computation": _BulkPattern(
        rf"平均值为 {_VALUE}",
        _near(pl.col("items").str.split(", ").cast(pl.List(pl.Float64)).list.mean()),
        numbers=("v",),
    ),
    "fraction simplify": _BulkPattern(
        r"最简化的形式为：(?<terms>[0-9]+/[0-9]+)",
        pl.concat_str("a", pl.lit("/"), "b", pl.lit("="), "terms").is_in(_LOWEST_TERMS),
        numbers=(),
    ),
    "mass computation": _BulkPattern(rf"{_VALUE} 克", _near(_A * _B)),
    "discount percentage": _BulkPattern(_VALUE, _near((_A - _B) / _A * 100)),
    "area computation": _BulkPattern(rf"面积为 {_VALUE} 平方厘米", _near(_A * _B)),
    "sqrt computation": _BulkPattern(
        rf"√(?<a2>{DECIMAL}) = {_VALUE}", _near(_A.sqrt()), numbers=("a", "v"), echoed=pl.col("a") == pl.col("a2")
    ),
    "power computation": _BulkPattern(
        rf"(?<a2>{DECIMAL})\^(?<b2>[0-9]+) = {_VALUE}",
        _near(_A.pow(_B)),
        echoed=(pl.col("a") == pl.col("a2")) & (pl.col("b") == pl.col("b2")),
    ),
    "sales revenue": _BulkPattern(_VALUE, _near(_A + _A * _B / 100)),
    "function computation": _BulkPattern(
        rf"函数的值为：{_VALUE}", _near(_A * pl.col("x").pow(_B)), numbers=("a", "b", "x", "v")
    ),
}


# JSON's escapes but for \\b and \\f, which could be taken for the beginning of \\boxed and \\fbox
_ESCAPE = r'\\["\\nrt]'
_ENGLISH_PROBLEM = rf'(?:[^"\\\x00-\x1f\x{{4e00}}-\x{{9fff}}]|{_ESCAPE})*'
_ENGLISH = _BulkPattern(
    rf'(?<solution>(?:[^"\\\x00-\x1f]|{_ESCAPE})*)', pl.col("solution").str.contains(r"\\\\(?:boxed|fbox)"), numbers=()
)


def accepted_lines(texts: pl.Series) -> pl.DataFrame:
    """Find the lines that pass.

    Args:
        texts: the lines of one block, without line ends.

    Returns:
        One row for each line that passes, columns as in FOUND; ``place`` is the position in ``texts``, from 0.
    """
    if not len(texts):
        return pl.DataFrame(schema=FOUND)
    # a file is written in one form throughout; compact lines of a mixed file may take the slow way
    if texts[0].startswith(COMPACT_HEAD):
        texts = texts.str.replace(COMPACT_HEAD, HEAD, literal=True).str.replace(COMPACT_MIDDLE, MIDDLE, literal=True)
    lines = pl.DataFrame({"text": texts}).with_row_index("place")
    # sorted by the first two characters, each line meets only the patterns that could match
    starts = texts.str.slice(len(HEAD), 2)
    found = [_ENGLISH.find(ENGLISH, _ENGLISH_PROBLEM, lines.filter(~starts.is_in(list(BY_START))).lazy())]
    for start, kinds in BY_START.items():
        group = lines.filter(starts == start).lazy()
        for kind in kinds:
            # kinds with the same start differ in how their sentence ends
            ends = pl.col("text").str.contains(BY_NAME[kind].sentence.rpartition("%s")[2], literal=True)
            found.append(
                _KINDS[kind].find(kind, BY_NAME[kind].pattern, group.filter(ends) if len(kinds) > 1 else group)
            )
    # collect_all runs the queries of all kinds in parallel
    return pl.concat(pl.collect_all(found))
