"""Figures of a report as inline HTML: matplotlib plots as SVG, video frames as images.

matplotlib is imported when the first plot is drawn.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from orchestrator.report.page import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STRIP_FRAMES = 12
GIF_FRAME_MS = 125
COLOURS = (
    "#2f6fdb", "#8a94a3", "#d98324", "#2a9d5c", "#c2473f",
    "#8d63d2", "#1f9fb5", "#b86f9c", "#7f942c", "#8f6b4a",
)  # fmt: skip
GREEN, RED = COLOURS[3], COLOURS[4]
TEXT_COLOUR = "#123454"
"""Stands for the page's text colour: `svg` writes `currentColor` for it."""


def filmstrip(video: np.ndarray) -> Markup:
    """Frames side by side, from uint8 [T, H, W, 3]; JPEG, as a PNG of real video is far larger."""
    at = np.linspace(0, len(video) - 1, STRIP_FRAMES).round().astype(int)
    return _image([Image.fromarray(np.concatenate(list(video[at]), axis=1))], "JPEG", quality=88)


def image(picture: np.ndarray) -> Markup:
    """One picture, from uint8 [H, W, 3]."""
    return _image([Image.fromarray(picture)], "PNG")


def gif(video: np.ndarray) -> Markup:
    """An animation, from uint8 [T, H, W, 3]."""
    frames = [Image.fromarray(frame) for frame in video]
    moving: dict[str, Any] = {"append_images": frames[1:], "duration": GIF_FRAME_MS, "loop": 0}
    return _image(frames, "GIF", save_all=True, **moving)


def _image(frames: list[Image.Image], kind: str, **options: Any) -> Markup:
    stream = io.BytesIO()
    frames[0].save(stream, kind, **options)
    data = base64.b64encode(stream.getvalue()).decode()
    return Markup('<img alt="" src="data:image/{};base64,{}">').format(kind.lower(), data)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, outside pyplot's list of open figures."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def svg(figure: Figure, css_class: str = "chart") -> Markup:
    """A figure as one `<svg>` element with the page's own text colour and background.

    The same figure gives the same bytes.
    """
    import matplotlib
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_color(TEXT_COLOUR)
    for axes in figure.axes:
        axes.set_facecolor("none")
        axes.tick_params(color=TEXT_COLOUR)
        for spine in axes.spines.values():
            spine.set_edgecolor(TEXT_COLOUR)
    stream = io.StringIO()
    fonts = {"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": "orchestrator"}
    with matplotlib.rc_context(fonts):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        box = None if css_class == "curve" else "tight"
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing, bbox_inches=box)
    drawn = stream.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(TEXT_COLOUR, "currentColor")
    stretch = ' preserveAspectRatio="none"' if css_class == "curve" else ""
    # What matplotlib wrote: it escapes the text of labels itself.
    return Markup(drawn.replace("<svg", f'<svg class="{css_class}"{stretch}', 1))


def literal(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign would begin a formula."""
    return text.replace("$", r"\$")


def surprise_curve(values: np.ndarray, low: float, high: float, break_frame: int) -> Markup:
    """Surprise by frame, as wide as the filmstrip above it, with a gap where nothing is predicted.

    Args:
        values: float [frames], NaN where nothing is predicted.
        low: surprise at the lower edge, `high` at the upper one.
        break_frame: where the possible and the impossible outcome part: a dashed line.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 0.46))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.axvline(break_frame, color=RED, linestyle="--", linewidth=1)
    axes.plot(np.arange(len(values)) + 0.5, values, color=COLOURS[0], linewidth=2)
    margin = 0.06 * max(high - low, 1e-9)
    axes.set(xlim=(0, len(values)), ylim=(low - margin, high + margin))
    return svg(figure, "curve")


def bar_chart(
    groups: Mapping[str, Mapping[str, float]], low: float, high: float, label: str
) -> Markup:
    """Bars from 0, one group for each target and in it one bar for each model.

    Bars end at `low` and `high`; the number above a bar is not clipped.
    """
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    figure = new_figure(max(4.0, 1.4 * len(groups) + 1.4), 2.4)
    axes = figure.subplots()
    width = 0.8 / max(1, len(names))
    for number, name in enumerate(names):
        at = [i + width * number for i, group in enumerate(groups.values()) if name in group]
        values = [group[name] for group in groups.values() if name in group]
        heights = np.clip(values, low, high)
        bars = axes.bar(at, heights, 0.9 * width, color=_colour(number), label=literal(name))
        axes.bar_label(bars, [f"{round(v, 2) + 0.0:.2f}" for v in values], fontsize=8, padding=1)
    middle = (width * (len(names) - 1)) / 2
    axes.set_xticks(np.arange(len(groups)) + middle, [literal(name) for name in groups])
    axes.axhline(0, color=TEXT_COLOUR, linewidth=0.8)
    margin = 0.12 * (high - low)  # for the numbers
    axes.set(ylim=(low - margin, high + margin), ylabel=label)
    return _finish(figure, axes)


def share_chart(shares: Mapping[str, float], label: str) -> Markup:
    """One horizontal bar for each share, the first on top."""
    figure = new_figure(6.4, 0.7 + 0.32 * len(shares))
    axes = figure.subplots()
    bars = axes.barh(
        [literal(name) for name in shares], list(shares.values()), 0.6, color=COLOURS[0]
    )
    axes.bar_label(bars, [f"{share:.2f}" for share in shares.values()], fontsize=8, padding=3)
    axes.set(xlabel=label, xlim=(0, 1.1 * max(shares.values())))
    axes.invert_yaxis()
    return _finish(figure, axes, legend=False)


def interval_chart(
    series: Mapping[str, Sequence[Interval]], ticks: Sequence[str], y_label: str, x_label: str
) -> Markup:
    """One line for each series over the same ticks, with an error bar for each interval.

    Args:
        y_label: what the height is, at most 1; what is below -1 extends the axis.
    """
    floor = min(-1.0, *(math.floor(v["low"]) for values in series.values() for v in values))
    figure = new_figure(6.4, 2.6)
    axes = figure.subplots()
    for number, (name, values) in enumerate(series.items()):
        middle = np.array([v["value"] for v in values])
        ends = np.abs([[v[key] for v in values] for key in ("low", "high")] - middle)
        at = np.arange(len(values)) + 0.04 * number
        axes.errorbar(
            at, middle, ends, color=_colour(number), marker="o", markersize=4, label=literal(name)
        )
    axes.set_xticks(range(len(ticks)), list(ticks))
    axes.axhline(0, color=TEXT_COLOUR, linewidth=0.8)
    axes.set(ylim=(floor, 1.0), ylabel=y_label, xlabel=x_label)
    return _finish(figure, axes)


def skill_chart(rows: Sequence[Mapping[str, Any]], step_seconds: float) -> Markup:
    """Skill over each baseline by seconds ahead; `rows` as of `rollout.rollout_table`."""
    names = [f"{row['tubelets_ahead'] * step_seconds:.3g}" for row in rows]
    skills = {f"over {rule}": [row["skill"][rule] for row in rows] for rule in ("copy", "linear")}
    return interval_chart(skills, names, "skill", "seconds ahead")


def seed_curves(
    series: Mapping[str, Sequence[Sequence[float]]],
    places: Sequence[int],
    y_label: str,
    x_label: str,
) -> Markup:
    """Mean over seeds by a count on a logarithmic axis, with a point for each seed.

    Args:
        series: name: [seeds, places]; with one place (nothing was trained): a dashed level line.
    """
    figure = new_figure(7.6, 3.6)
    axes = figure.subplots()
    for number, (name, rows) in enumerate(series.items()):
        values, colour = np.asarray(rows), _colour(number)
        if values.shape[1] == 1:
            axes.plot(
                (places[0], places[-1]),
                [values.mean()] * 2,
                color=colour,
                linestyle="--",
                label=literal(name),
            )
            continue
        axes.plot(places, values.mean(0), color=colour, linewidth=2, label=literal(name))
        axes.scatter(np.tile(places, len(values)), values, s=12, color=colour, alpha=0.6)
    axes.set_xscale("log", base=2)
    axes.set_xticks(places, [f"{place:,}" for place in places])
    axes.set(ylabel=y_label, xlabel=x_label)
    return _finish(figure, axes)


def _finish(figure: Figure, axes: Any, *, legend: bool = True) -> Markup:
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return svg(figure)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]
