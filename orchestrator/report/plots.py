"""Pictures of a report, each a piece of HTML that needs nothing else: filmstrips, GIFs, plots."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

STRIP_FRAMES = 12
GIF_FRAME_MS = 125
BLUE, RED, GREY = "#2f6fdb", "#b3261e", "#8a94a3"

IntervalDict = Mapping[str, float]
"""value, low, high."""


def filmstrip(video: np.ndarray) -> str:
    """Frames side by side, from uint8 [T, S, S, 3]."""
    at = np.linspace(0, len(video) - 1, STRIP_FRAMES).round().astype(int)
    return _image([Image.fromarray(np.concatenate(list(video[at]), axis=1))], "JPEG", quality=88)


def image(picture: np.ndarray) -> str:
    """One picture, from uint8 [S, S, 3]."""
    return _image([Image.fromarray(picture)], "PNG")


def gif(video: np.ndarray) -> str:
    """A moving picture, from uint8 [T, S, S, 3]."""
    frames = [Image.fromarray(frame) for frame in video]
    moving: dict[str, Any] = {"append_images": frames[1:], "duration": GIF_FRAME_MS, "loop": 0}
    return _image(frames, "GIF", save_all=True, **moving)


def _image(frames: list[Image.Image], kind: str, **options: Any) -> str:
    stream = io.BytesIO()
    frames[0].save(stream, kind, **options)
    data = base64.b64encode(stream.getvalue()).decode()
    return f"<img alt='' src='data:image/{kind.lower()};base64,{data}'>"


def surprise_curve(values: np.ndarray, low: float, top: float, t_break: int) -> str:
    """Surprise by frame, broken where nothing is predicted; dashed: where the outcomes part."""
    count, scale = len(values), 40 / max(top - low, 1e-9)
    known = np.flatnonzero(~np.isnan(values))
    runs = np.split(known, np.flatnonzero(np.diff(known) > 1) + 1)
    drawn = "".join(
        f"<polyline points='{_points(values, run, count, low, scale)}' fill='none' stroke='{BLUE}'"
        " stroke-width='2' vector-effect='non-scaling-stroke'/>"
        for run in runs
    )
    x = 1000 * t_break / count
    return (
        "<svg class='curve' viewBox='0 0 1000 46' preserveAspectRatio='none'>"
        f"<line x1='{x:.0f}' x2='{x:.0f}' y1='0' y2='46' stroke='{RED}' stroke-dasharray='4'/>"
        f"{drawn}</svg>"
    )


def _points(values: np.ndarray, run: np.ndarray, count: int, low: float, scale: float) -> str:
    return " ".join(
        f"{1000 * (i + 0.5) / count:.0f},{43 - (values[i] - low) * scale:.1f}" for i in run
    )


def bar_chart(
    groups: Mapping[str, Mapping[str, float]], low: float, high: float, axis_label: str
) -> str:
    """Bars of `what` from 0, a group for each target and in it one for each arm; cut off at `low`
    and `high`."""
    arms = list(dict.fromkeys(arm for group in groups.values() for arm in group))
    width, height, left = 130 * len(groups) + 60, 150, 44
    parts = [_axis(left, width, height, low, high, axis_label)]
    for i, (name, group) in enumerate(groups.items()):
        for j, (arm, value) in enumerate(group.items()):
            y0, y1 = (_y(v, low, high, height) for v in (0.0, min(max(value, low), high)))
            x = left + 20 + 130 * i + 40 * j
            parts.append(
                f"<rect x='{x}' y='{min(y0, y1):.1f}' width='32' height='{abs(y1 - y0):.1f}'"
                f" fill='{_colour(arms.index(arm))}'/>"
                f"<text x='{x + 16}' y='{min(y0, y1) - 3:.1f}' text-anchor='middle'>"
                f"{round(value, 2) + 0.0:.2f}</text>"
            )
        parts.append(
            f"<text x='{left + 20 + 130 * i + 20 * len(group)}' y='{height + 16}'"
            f" text-anchor='middle'>{html.escape(name)}</text>"
        )
    return _chart(parts, width, height + 24) + _legend(arms)


def line_chart(
    series: Mapping[str, Sequence[IntervalDict]], ticks: Sequence[str], y_label: str, x_label: str
) -> str:
    """One line for each series over the same places, with a bar for each interval.

    Args:
        y_label: what the height is, from -1 or below to 1.
        x_label: what the ticks are.
    """
    width, height, left, high = 520, 170, 52, 1.0
    low = min(-1.0, *(math.floor(v["low"]) for values in series.values() for v in values))
    step = (width - left - 40) / max(1, len(ticks) - 1)
    parts = [_axis(left, width, height, low, high, y_label)]
    for number, values in enumerate(series.values()):
        colour = _colour(number)
        places = [left + 16 + step * i + 3 * number for i in range(len(values))]
        heights = [_y(min(max(v["value"], low), high), low, high, height) for v in values]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(places, heights, strict=True))
        parts.append(
            f"<polyline points='{points}' fill='none' stroke='{colour}' stroke-width='2'/>"
        )
        for x, y, value in zip(places, heights, values, strict=True):
            ends = [_y(min(max(value[k], low), high), low, high, height) for k in ("low", "high")]
            parts.append(
                f"<line x1='{x:.1f}' x2='{x:.1f}' y1='{ends[0]:.1f}' y2='{ends[1]:.1f}'"
                f" stroke='{colour}'/><circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='{colour}'/>"
            )
    parts += [
        f"<text x='{left + 16 + step * i:.1f}' y='{height + 16}' text-anchor='middle'>"
        f"{html.escape(tick)}</text>"
        for i, tick in enumerate(ticks)
    ]
    parts.append(
        f"<text x='{width}' y='{height + 32}' text-anchor='end'>{html.escape(x_label)}</text>"
    )
    return _chart(parts, width, height + 38) + _legend(list(series))


def _y(value: float, low: float, high: float, height: int) -> float:
    return 10 + (height - 14) * (high - value) / (high - low)


def _axis(left: int, width: int, height: int, low: float, high: float, what: str) -> str:
    """Lines at the ends and at 0, and what they measure."""
    marks = sorted({low, 0.0, high}) if low < 0 < high else [low, high]
    return f"<text x='{left + 4}' y='8'>{html.escape(what)}</text>" + "".join(
        f"<line x1='{left}' x2='{width}' y1='{_y(v, low, high, height):.1f}'"
        f" y2='{_y(v, low, high, height):.1f}' stroke='#d8dee6'/>"
        f"<text x='{left - 6}' y='{_y(v, low, high, height) + 4:.1f}' text-anchor='end'>{v:.3g}"
        "</text>"
        for v in marks
    )


def _chart(parts: list[str], width: int, height: int) -> str:
    return (
        f"<svg class='chart' viewBox='0 0 {width} {height}' width='{width}'>{''.join(parts)}</svg>"
    )


def _legend(names: Sequence[str]) -> str:
    keys = "".join(
        f"<span><i style='background:{_colour(i)}'></i>{html.escape(name)}</span>"
        for i, name in enumerate(names)
    )
    return f"<div class='legend'>{keys}</div>"


def _colour(number: int) -> str:
    return (BLUE, GREY, "#d98324", "#0a7a3b")[number % 4]
