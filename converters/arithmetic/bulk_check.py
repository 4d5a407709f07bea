"""Read and check canonical lines by the ten thousand, in Polars: the quick way to accept.

A line passes if it is ``{"problem": "…", "solution": "…"}`` with the sentence of a known kind, and its solution
agrees with the value computed in floats to ``DIGITS`` significant digits; or if it is English with a boxed answer.
Passing is all that this module decides. Every line that does not pass (other key order, unusual escapes, rounded
solutions, errors of every sort) is left to ``problems.check``, which alone may refuse a row.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import polars as pl

from converters.arithmetic.problems import ENGLISH, KINDS

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

_INTEGER = r"-?[0-9]+"
_DECIMAL = r"-?[0-9]+(?:\.[0-9]+)?"
_VALUE = rf"(?<v>{_DECIMAL}(?:[eE][+-]?[0-9]+)?)"
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
    """How one kind is found: see ``find``."""

    start: str
    """The first two characters of the problem."""
    word: str
    """What the problem also has, and no other kind with this start."""
    problem: str
    solution: str
    """Patterns of the two texts; group ``v`` is the solution's value."""
    agrees: pl.Expr
    """Whether the solution's value is right; the groups in ``numbers`` are floats by then."""
    numbers: tuple[str, ...] = ("a", "b", "v")
    echoed: pl.Expr | None = None
    """Whether the solution repeats the problem's groups, if it has to."""

    def find(self, kind: str, lines: pl.LazyFrame) -> pl.LazyFrame:
        """The ones among ``lines`` that pass."""
        pattern = rf'^\{{"problem": "(?<problem>{self.problem})", "solution": "{self.solution}"\}}$'
        text = pl.col("text")
        fields = lines.select("place", text.hash().alias("pair"), text.str.extract_groups(pattern).alias("fields"))
        rows = fields.unnest("fields").filter(pl.col("problem").is_not_null() if self.echoed is None else self.echoed)
        # cast in a step of its own: a filter casts again for each mention
        floats = [pl.col(name).cast(pl.Float64, strict=False) for name in self.numbers]
        rows = rows.with_columns(floats).filter(self.agrees)
        return rows.select("place", pl.lit(KINDS.index(kind), pl.UInt8).alias("kind"), pl.col("problem").hash(), "pair")


_LOWEST_TERMS = [f"{p}/{q}={p // math.gcd(p, q)}/{q // math.gcd(p, q)}" for q in range(2, 100) for p in range(1, q)]

_KINDS = {
    "direct computation": _BulkPattern(
        "计算",
        "等于",
        rf"计算 (?<said>(?<a>{_DECIMAL}) (?<o>[-+*/]) (?<b>{_DECIMAL})) 等于多少？",
        rf"(?<again>{_DECIMAL} [-+*/] {_DECIMAL}) = {_VALUE}",
        _direct(),
        echoed=pl.col("said") == pl.col("again"),
    ),
    "eq solve": _BulkPattern(
        "解方",
        "方程",
        rf"解方程 (?<a>{_INTEGER})x \+ (?<b>{_INTEGER}) = 0",
        rf"方程的解为：{_VALUE}",
        _near(-_B / _A),
    ),
    "mean computation": _BulkPattern(
        "求以",
        "平均值",
        rf"求以下数据的平均值：\[(?<items>{_INTEGER}(?:, {_INTEGER})*)\]",
        rf"平均值为 {_VALUE}",
        _near(pl.col("items").str.split(", ").cast(pl.List(pl.Float64)).list.mean()),
        numbers=("v",),
    ),
    "fraction simplify": _BulkPattern(
        "将分",
        "分数",
        r"将分数 (?<a>[0-9]+/[0-9]+) 进行简化。",
        r"最简化的形式为：(?<b>[0-9]+/[0-9]+)",
        pl.concat_str("a", "b", separator="=").is_in(_LOWEST_TERMS),
        numbers=(),
    ),
    "mass computation": _BulkPattern(
        "某物",
        "质量",
        r"某物体的密度为 (?<a>[0-9]+) 克/立方厘米，体积为 (?<b>[0-9]+) 立方厘米，请计算该物体的质量。",
        rf"{_VALUE} 克",
        _near(_A * _B),
    ),
    "discount percentage": _BulkPattern(
        "商品",
        "折扣",
        r"商品原价为 (?<a>[0-9]+) 元，打折后的价格为 (?<b>[0-9]+) 元，请计算打折的折扣比例。",
        _VALUE,
        _near((_A - _B) / _A * 100),
    ),
    "area computation": _BulkPattern(
        "一个",
        "面积",
        r"一个长方形的长为 (?<a>[0-9]+) 厘米，宽为 (?<b>[0-9]+) 厘米，请计算其面积。",
        rf"面积为 {_VALUE} 平方厘米",
        _near(_A * _B),
    ),
    "sqrt computation": _BulkPattern(
        "计算",
        "平方根",
        rf"计算 (?<a>{_DECIMAL}) 的平方根？",
        rf"√(?<a2>{_DECIMAL}) = {_VALUE}",
        _near(_A.sqrt()),
        numbers=("a", "v"),
        echoed=pl.col("a") == pl.col("a2"),
    ),
    "power computation": _BulkPattern(
        "计算",
        "次方",
        rf"计算 (?<a>{_DECIMAL}) 的 (?<b>[0-9]+) 次方？",
        rf"(?<a2>{_DECIMAL})\^(?<b2>[0-9]+) = {_VALUE}",
        _near(_A.pow(_B)),
        echoed=(pl.col("a") == pl.col("a2")) & (pl.col("b") == pl.col("b2")),
    ),
    "sales revenue": _BulkPattern(
        "去年",
        "销售额",
        r"去年销售额为 (?<a>[0-9]+) 万元，今年销售额增加了 (?<b>[0-9]+)%，请计算今年的销售额。",
        _VALUE,
        _near(_A + _A * _B / 100),
    ),
    "function computation": _BulkPattern(
        "当 ",
        "函数",
        rf"当 x = (?<x>{_DECIMAL}) 时，求函数 y = (?<a>{_INTEGER})x\^(?<b>[0-9]+) 的值",
        rf"函数的值为：{_VALUE}",
        _near(_A * pl.col("x").pow(_B)),
        numbers=("a", "b", "x", "v"),
    ),
}


# JSON's escapes but for \\b and \\f, which could be taken for the beginning of \\boxed and \\fbox
_ESCAPE = r'\\["\\nrt]'
_ENGLISH = _BulkPattern(
    "",
    "",
    rf'(?:[^"\\\x00-\x1f\x{{4e00}}-\x{{9fff}}]|{_ESCAPE})*',
    rf'(?<solution>(?:[^"\\\x00-\x1f]|{_ESCAPE})*)',
    pl.col("solution").str.contains(r"\\\\(?:boxed|fbox)"),
    numbers=(),
)


def accepted_lines(texts: pl.Series) -> pl.DataFrame:
    """Find the lines that pass: columns as in FOUND, where ``place`` counts from 0."""
    if not len(texts):
        return pl.DataFrame(schema=FOUND)
    if texts[0].startswith(COMPACT_HEAD):
        texts = texts.str.replace(COMPACT_HEAD, HEAD, literal=True).str.replace(COMPACT_MIDDLE, MIDDLE, literal=True)
    lines = pl.DataFrame({"text": texts}).with_row_index("place")
    starts = texts.str.slice(len(HEAD), 2)
    groups = {start: lines.filter(starts == start) for start in {pattern.start for pattern in _KINDS.values()}}
    shared = Counter(pattern.start for pattern in _KINDS.values())
    found = [_ENGLISH.find(ENGLISH, lines.filter(~starts.is_in(list(groups))).lazy())]
    for kind, pattern in _KINDS.items():
        group = groups[pattern.start].lazy()
        if shared[pattern.start] > 1:
            group = group.filter(pl.col("text").str.contains(pattern.word, literal=True))
        found.append(pattern.find(kind, group))
    return pl.concat(pl.collect_all(found))
