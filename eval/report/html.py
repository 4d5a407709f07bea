"""HTML for a page that stands alone: no file beside it, no network, no script. What is text is escaped, always."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

# Nothing may be fetched or run, whatever a model wrote into the page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"

_CSS = """
:root { --paper: #fdfdfc; --ink: #1c2126; --soft: #5c6670; --line: #d9dde1; --panel: #f3f5f6;
  --before: #9aa7b3; --after: #1668b8; --good: #13743c; --bad: #b3261e; --mark: #c26a00 }
@media (prefers-color-scheme: dark) { :root { --paper: #14181c; --ink: #e4e8eb; --soft: #9aa5ae; --line: #333b42;
  --panel: #1c2227; --before: #66727d; --after: #5aa9f0; --good: #5cc98a; --bad: #f2867d; --mark: #f0a04b } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 62rem; padding: 1rem clamp(.8rem, 3vw, 2rem) 4rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", "Noto Sans", "Noto Sans CJK SC", sans-serif;
  -webkit-text-size-adjust: 100% }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 1rem 0 .2rem; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem }
p, li { max-width: 46rem }
.soft { color: var(--soft); overflow-wrap: anywhere } .good { color: var(--good) } .bad { color: var(--bad) }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .6rem; margin: 1rem 0 }
.tile { background: var(--panel); border-radius: .5rem; padding: .6rem .8rem; min-width: 0 }
.tile b { display: block; font-size: 1.15rem; line-height: 1.3; font-variant-numeric: tabular-nums }
.tile span { color: var(--soft); font-size: .85rem }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; margin: .6rem 0 }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .7rem .3rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
th { color: var(--soft); font-weight: 600 }
th.left, td.left { text-align: left }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .3rem 1rem; padding: .5rem 0; font-size: .92rem;
  border-bottom: 1px solid var(--line) } .pair > div { min-width: 0; overflow-wrap: anywhere }
.pair > div:first-child { grid-column: 1 / -1 } .pair span { font-size: .8rem }
.pair div div { white-space: pre-wrap; max-height: 16rem; overflow-y: auto }
@media (min-width: 56rem) { .pair { grid-template-columns: 2fr 1fr 1fr } .pair > div:first-child { grid-column: auto } }
.bars { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .45rem .8rem; font-size: .92rem;
  align-items: center; margin: .8rem 0 }
.bars .name { overflow-wrap: anywhere; line-height: 1.25 }
.bar { display: flex; align-items: center; gap: .4rem; height: 1.05rem; line-height: 1.05rem;
  font-variant-numeric: tabular-nums }
.bar i { display: block; height: .72rem; min-width: 2px; border-radius: 0 .2rem .2rem 0; background: var(--after) }
.bar.before i { background: var(--before) } .bar .room { flex: 1; min-width: 0 }
.bar em { font-style: normal; width: 3.4rem; text-align: right; font-size: .85rem }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; font-size: .9rem; margin: .6rem 0 .2rem }
.key { display: inline-block; width: .8rem; height: .8rem; border-radius: .15rem; margin-right: .35rem;
  vertical-align: -.05rem; background: var(--after) } .key.before { background: var(--before) }
.key.mark { background: var(--mark) }
.chart { position: relative; margin: .4rem 0 1.6rem 3.4rem }
.chart svg { display: block; width: 100%; height: 100%; overflow: visible }
.chart path { fill: none; vector-effect: non-scaling-stroke }
.chart .grid { stroke: var(--line); stroke-width: 1 }
.chart .before { stroke: var(--before); stroke-width: 1; opacity: .8 }
.chart .after { stroke: var(--after); stroke-width: 2 }
.chart .mark { stroke: var(--mark); stroke-width: 1.5 }
.chart span { position: absolute; font-size: .78rem; color: var(--soft); font-variant-numeric: tabular-nums }
.chart .y { right: 100%; padding-right: .4rem; transform: translateY(-50%); white-space: nowrap }
.chart .x { top: 100%; transform: translateX(-50%); padding-top: .2rem }
details { margin: .6rem 0 } summary { cursor: pointer; font-weight: 600 }
pre { background: var(--panel); border-radius: .5rem; padding: .8rem; overflow-x: auto; font-size: .85rem }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .15rem .9rem; font-size: .92rem }
dt { color: var(--soft) } dd { margin: 0; min-width: 0; overflow-wrap: anywhere }
@media (max-width: 30rem) { .bars, dl { grid-template-columns: 1fr; gap: .1rem } .bars .name, dt { margin-top: .4rem } }
@media print { .scroll, pre { overflow: visible } }
"""


class Html(str):
    """Text that is HTML already; any other text is escaped when it becomes part of a page."""

    __slots__ = ()


def tag(name: str, *children: Any, **attributes: str | None) -> Html:
    """Return an element; children are escaped unless they are :class:`Html`, attributes always.

    ``cls`` stands for ``class``, and an attribute of None is left out.
    """
    inner = "".join(child if isinstance(child, Html) else html.escape(str(child), quote=False) for child in children)
    named = "".join(
        f' {"class" if key == "cls" else key.replace("_", "-")}="{html.escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{named}>{inner}</{name}>")


def join(parts: Iterable[Html]) -> Html:
    """Put elements one after another."""
    return Html("".join(parts))


def table(header: Sequence[Any], rows: Iterable[Sequence[Any]], *, left: int = 1) -> Html:
    """Return a table that scrolls where the screen is narrow; the first ``left`` columns left-aligned."""

    def line(kind: str, cells: Sequence[Any]) -> Html:
        return tag("tr", *(tag(kind, cell, cls="left" if i < left else None) for i, cell in enumerate(cells)))

    head, body = tag("thead", line("th", header)), tag("tbody", *(line("td", row) for row in rows))
    return tag("div", tag("table", head, body), cls="scroll")


def side_by_side(names: tuple[str, str], items: Iterable[tuple[str, str, str, str]]) -> Html:
    """Return long texts in pairs that stay side by side on a phone.

    Args:
        names: what stands on the left and on the right.
        items: a remark, the text that both belong to, the left and the right text; line breaks in them stay.
    """
    return join(
        tag(
            "div",
            tag("div", tag("span", remark, cls="soft"), tag("div", head)),
            *(
                tag("div", tag("span", name, cls="soft"), tag("div", text))
                for name, text in zip(names, both, strict=True)
            ),
            cls="pair",
        )
        for remark, head, *both in items
    )


def pairs(values: Iterable[tuple[str, Any]]) -> Html:
    """Return a list of names and values."""
    return tag("dl", *(join([tag("dt", name), tag("dd", value)]) for name, value in values))


def tiles(values: Iterable[tuple[str, Any]]) -> Html:
    """Return the few figures that matter: ``(what, figure)``."""
    return tag(
        "div", *(tag("div", tag("b", figure), tag("span", what), cls="tile") for what, figure in values), cls="tiles"
    )


def bars(rows: Iterable[tuple[str, Sequence[tuple[str, float, str]]]]) -> Html:
    """Return horizontal bars.

    Args:
        rows: a name and its bars, each ``(class, share from 0 to 1, what is written at its end)``; the class
            is ``before`` or ``after``.
    """
    cells = []
    for name, values in rows:
        drawn = [
            tag(
                "div",
                tag("div", tag("i", style=f"width:{100 * min(max(share, 0.0), 1.0):.2f}%"), cls="room"),
                tag("em", said),
                cls=f"bar {kind}",
            )
            for kind, share, said in values
        ]
        cells.append(join([tag("div", name, cls="name"), tag("div", *drawn)]))
    return tag("div", *cells, cls="bars")


def legend(*keys: tuple[str | None, str]) -> Html:
    """Say which colour means what: ``(class, meaning)``; a class of None is a remark without a colour."""
    said = [tag("span", *([tag("i", cls=f"key {kind}")] if kind else []), meaning) for kind, meaning in keys]
    return tag("p", *said, cls="soft legend")


def page(title: str, *body: Html) -> str:
    """Return a whole document."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )
