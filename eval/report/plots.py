"""Draws curves as inline SVG with matplotlib; they use the page's colours, and their text stays text."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backends.run.log import running_mean

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

LOG_FROM = 20.0  # a curve that spans more than this ratio is drawn on a logarithmic scale
WIDTH = 640  # units of the picture, which the page scales to its own width
# matplotlib wants colours by value; in the page they are variables, which differ in light and dark
COLOURS = {"before": "#9aa7b3", "after": "#1668b8", "mark": "#c26a00", "soft": "#5c6670", "line": "#d9dde1"}


@dataclass(frozen=True)
class Curve:
    """One line of a plot.

    Attributes:
        colour: key of ``COLOURS``.
        points: ``(x, y)`` in ascending order of x, at least one.
        width: width of the line, in units of the picture.
    """

    colour: str
    points: Sequence[tuple[float, float]]
    width: float = 1.5


def loss_plots(log: Sequence[Mapping[str, Any]]) -> dict[str, Markup]:
    """Draw the loss with its running mean, and the learning rate if the log has it.

    Args:
        log: records of ``train_log.jsonl`` with a finite loss, at least one.

    Returns:
        Pictures under ``loss`` and ``rate``.
    """
    steps, losses = [row["step"] for row in log], [row["loss"] for row in log]
    smooth = running_mean(losses)
    title = f"Loss from {losses[0]:.4f} at step {steps[0]} to {losses[-1]:.4f} at step {steps[-1]}"
    # by the running mean: one outlier should not change the scale; min() since 0 has no logarithm
    logarithmic = min(losses) > 0 and max(smooth) / min(smooth) > LOG_FROM
    lines = [list(zip(steps, values, strict=True)) for values in (losses, smooth)]
    curves = [Curve("before", lines[0], width=0.8), Curve("after", lines[1])]
    found = {"loss": plot(curves, title=title, height=210, logarithmic=logarithmic)}
    if rates := [(row["step"], row["lr"]) for row in log if "lr" in row]:
        found["rate"] = plot([Curve("mark", rates)], title="Learning rate", height=80)
    return found


def plot(curves: Sequence[Curve], *, title: str, height: float, logarithmic: bool = False) -> Markup:
    """Draw curves over common axes.

    The same curves give the same text, so that two pages can be compared.

    Args:
        curves: at least one.
        title: description for readers who cannot see the picture.
        height: in units of the picture, which is ``WIDTH`` wide.
        logarithmic: whether the y axis is logarithmic.

    Returns:
        An ``svg`` element, escaped and ready for the page.
    """
    import matplotlib
    from markupsafe import Markup, escape
    from matplotlib.figure import Figure

    # text as text: small, searchable, and in the fonts of the page
    settings = {"svg.fonttype": "none", "svg.hashsalt": "report", "font.family": ["sans-serif"], "font.size": 9}
    with matplotlib.rc_context({**settings, "font.sans-serif": ["DejaVu Sans"], "path.simplify_threshold": 0.3}):
        # a Figure of its own, without pyplot: no global state, no display
        figure = Figure(figsize=(WIDTH / 72, height / 72))  # SVG has 72 units an inch
        axes = figure.add_axes((56 / WIDTH, 22 / height, 1 - 72 / WIDTH, 1 - 32 / height))
        for curve in curves:
            axes.plot(
                *zip(*curve.points, strict=True), color=COLOURS[curve.colour], linewidth=curve.width, clip_on=False
            )
        _set_scales(axes, logarithmic)
        buffer = io.StringIO()
        figure.savefig(
            buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    drawn = buffer.getvalue()
    inner = drawn[drawn.index(">", drawn.index("<svg")) + 1 :]
    # several pictures share one page: no style for all of it, no name twice
    inner = re.sub(r'<defs>.*?</defs>| id="[^"]*"| clip-path="[^"]*"', "", inner, flags=re.DOTALL)
    # a tenth of a unit is less than anybody sees
    inner = re.sub(r'(?<=[ "(])-?\d+\.\d+(?=[ "\n)])', lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), inner)
    for name, colour in COLOURS.items():
        # a style that names a variable follows the page into its dark form
        inner = inner.replace(colour, f"var(--{name})")
    head = f'<svg class="plot" viewBox="0 0 {WIDTH} {height:g}" role="img"><title>{escape(title)}</title>'
    return Markup(head + inner)


def _set_scales(axes: Axes, logarithmic: bool) -> None:
    """Put round numbers on both axes, and grid lines at those of y."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axes.margins(x=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    if logarithmic:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        # from 0, so that a small change does not look like a large one
        axes.set_ylim(bottom=min(0.0, axes.dataLim.y0))
        axes.yaxis.set_major_locator(MaxNLocator(max(2, round(axes.bbox.height / 40))))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.4g}"))
    axes.tick_params(which="both", length=0, labelcolor=COLOURS["soft"])
    axes.grid(axis="y", color=COLOURS["line"], linewidth=0.8)
    axes.spines[:].set_visible(False)
