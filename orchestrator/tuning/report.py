"""A sweep as one HTML file that needs nothing else, and as a picture: what was tried, what won."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.study.report import BOTTOM, HEIGHT, STYLE, WIDTH

LEFT, TOP = 70, 24
"""Room for an objective of six signs, and its name above."""

COLOURS = {
    "best": "#0a7a3b",
    "done": "#2f6fdb",
    "pruned": "#8a94a3",
    "collapsed": "#b3261e",
    "failed": "#8a5a00",
    "stopped": "#8a94a3",
}
Row = Mapping[str, Any]


def render_html(result: Mapping[str, Any]) -> str:
    """The whole report."""
    name = html.escape(result["name"])
    rows: list[Row] = result["trials"]
    best = next((row for row in rows if row["number"] == result["best"]), None)
    won = (
        f"Trial {best['number']} won with {best['objective']:.4f}"
        if best
        else "No trial can win: each collapsed, failed or was ended early"
    )
    head = (
        f"<h1>{name}</h1><p class='dim'>{len(rows)} trials of {result['budget']:,} steps,"
        f" search {result['search']}, scheduler {result['scheduler']}. Objective:"
        f" {html.escape(_measured(rows))}, on videos that no trial was trained on.</p>"
        f"<p><b>{won}.</b> What collapsed never wins, however low its loss.</p>{_legend()}"
    )
    parts = [head, "<h2>History</h2>", _history(rows, result["best"])]
    parts += ["<h2>Parallel coordinates</h2>", _parallel(result)]
    parts += ["<h2>Importance</h2>", _importance(result["importance"])]
    parts += ["<h2>Slices</h2>", *(_slice(result, key) for key in result["keys"])]
    parts += ["<h2>Trials, best first</h2>", _table(result)]
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Sweep {name}</title>"
        f"<style>{STYLE}path:hover,circle:hover{{stroke-width:4;opacity:1}}</style>"
        f"<body>{''.join(parts)}</body></html>"
    )


def _measured(rows: Sequence[Row]) -> str:
    """What the objective is the mean of."""
    parts = [row["rungs"][-1]["scores"] for row in _scored(rows) if row["rungs"]]
    scores: Mapping[str, float] = parts[0] if parts else {}
    return "the mean of " + ", ".join(scores) if len(scores) > 1 else ", ".join(scores) or "none"


def render_png(result: Mapping[str, Any]) -> bytes:
    """History, and the objective by each key, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    keys = list(result["keys"])
    figure = Figure(figsize=(4 * (len(keys) + 1), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(keys) + 1, sharey=True, squeeze=False)[0]
    places = [("trial", None), *((key, key) for key in keys)]
    for axis, (title, key) in zip(axes, places, strict=True):
        scale = AxisScale.from_result(result, key) if key else None
        for row in _scored(result["trials"]):
            if scale is not None and key not in row["values"]:
                continue
            x = scale.position(row["values"][key]) if scale else row["number"]
            axis.scatter(x, row["objective"], s=18, color=_colour(row, result["best"]))
        if scale is not None:
            axis.set_xticks([place for place, _ in scale.ticks], [text for _, text in scale.ticks])
        axis.set_xlabel(title)
    axes[0].set_ylabel("objective")
    figure.suptitle(f"Sweep {result['name']}")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


class AxisScale:
    """Where the values of a key lie between 0 and 1."""

    def __init__(self, values: Sequence[Any], log: bool) -> None:
        numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
        self._log, self._names = log, None if numbers else sorted({_text(v) for v in values})
        if self._names is not None:
            self.ticks = [(self._of_name(name), name) for name in self._names]
            return
        points = [self._number(value) for value in values] or [0.0]
        self._low, self._span = min(points), max(max(points) - min(points), 1e-12)
        ends = [min(values), max(values)] if values else []
        self.ticks = [(self.position(value), _text(value)) for value in dict.fromkeys(ends)]

    @classmethod
    def from_result(cls, result: Mapping[str, Any], key: str) -> AxisScale:
        """Of what was tried."""
        tried = [row["values"][key] for row in result["trials"] if key in row["values"]]
        return cls(tried, key in result["log"])

    def position(self, value: Any) -> float:
        """Between 0 and 1."""
        if self._names is not None:
            return self._of_name(_text(value))
        return (self._number(value) - self._low) / self._span

    def _of_name(self, name: str) -> float:
        assert self._names is not None
        return (self._names.index(name) + 0.5) / len(self._names)

    def _number(self, value: float) -> float:
        return math.log(value) if self._log else float(value)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value.get("kind", value)) if isinstance(value, dict) else str(value)


def _colour(row: Row, best: int | None) -> str:
    return COLOURS["best" if row["number"] == best else row["state"]]


def _scored(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["objective"] is not None]


def _legend() -> str:
    marks = (
        f"<span style='color:{colour}'>&#9679; {name}</span>" for name, colour in COLOURS.items()
    )
    return f"<p>{' &nbsp; '.join(marks)}</p>"


def _title(row: Row) -> str:
    values = ", ".join(f"{key}={_text(value)}" for key, value in row["values"].items())
    score = "none" if row["objective"] is None else f"{row['objective']:.4f}"
    text = f"trial {row['number']} ({row['state']} at {row['steps']}): {score}; {values}"
    return f"<title>{html.escape(text)}</title>"


def _heights(rows: Sequence[Row]) -> tuple[Callable[[float], float], list[float]]:
    """From an objective to its height in a plot, and the values that an axis names."""
    values: list[float] = [row["objective"] for row in _scored(rows)] or [0.0]
    low, high = min(values), max(values)
    pad = 0.06 * max(high - low, 1e-6)
    low, high = low - pad, high + pad

    def y(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    return y, [low + (high - low) * i / 4 for i in range(5)]


def _frame(inside: str, y: Callable[[float], float], named: Sequence[float], below: str) -> str:
    digits = _digits(named)
    lines = "".join(
        f"<line x1='{LEFT}' x2='{WIDTH - 20}' y1='{y(v):.1f}' y2='{y(v):.1f}' stroke='#d8dee6'/>"
        f"<text x='{LEFT - 6}' y='{y(v) + 4:.1f}' text-anchor='end'>{v:.{digits}f}</text>"
        for v in named
    )
    lines += f"<text x='{LEFT + 4}' y='{TOP - 8}'>objective</text>"
    return f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}'>{lines}{below}{inside}</svg>"


def _digits(named: Sequence[float]) -> int:
    """Digits behind the point that tell an axis' values apart."""
    step = (named[-1] - named[0]) / max(1, len(named) - 1)
    return max(2, 1 - math.floor(math.log10(step))) if step > 0 else 2


def _across(share: float) -> float:
    return LEFT + 14 + share * (WIDTH - LEFT - 60)


def _below(ticks: Sequence[tuple[float, str]]) -> str:
    return "".join(
        f"<text x='{_across(place):.1f}' y='{HEIGHT - 14}' text-anchor='middle'>"
        f"{html.escape(text)}</text>"
        for place, text in ticks
    )


def _dot(x: float, y: float, row: Row, best: int | None) -> str:
    return (
        f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4' fill='{_colour(row, best)}' opacity='.75'>"
        f"{_title(row)}</circle>"
    )


def _history(rows: Sequence[Row], best: int | None) -> str:
    """The objective by trial number, and the best so far."""
    y, named = _heights(rows)
    last = max(1, max(row["number"] for row in rows))
    scored = sorted(_scored(rows), key=lambda row: row["number"])
    dots = "".join(
        _dot(_across(row["number"] / last), y(row["objective"]), row, best) for row in scored
    )
    points, top = [], -math.inf
    for row in scored:
        if row["state"] == "done":
            top = max(top, row["objective"])
            points.append(f"{_across(row['number'] / last):.1f},{y(top):.1f}")
    line = f"<polyline points='{' '.join(points)}' fill='none' stroke='{COLOURS['best']}'/>"
    return _frame(line + dots, y, named, _below([(0.0, "0"), (0.5, "trial"), (1.0, str(last))]))


def _slice(result: Mapping[str, Any], key: str) -> str:
    """The objective by one key."""
    y, named = _heights(result["trials"])
    scale = AxisScale.from_result(result, key)
    dots = "".join(
        _dot(_across(scale.position(row["values"][key])), y(row["objective"]), row, result["best"])
        for row in _scored(result["trials"])
        if key in row["values"]
    )
    return f"<h3>{html.escape(key)}</h3>" + _frame(dots, y, named, _below(scale.ticks))


def _parallel(result: Mapping[str, Any]) -> str:
    """A line for each trial through its values to its objective; the best on top."""
    y, _ = _heights(result["trials"])
    keys = list(result["keys"])
    scales = {key: AxisScale.from_result(result, key) for key in keys}
    at = {key: _across(i / len(keys)) for i, key in enumerate([*keys, ""])}
    rows = sorted(result["trials"], key=lambda row: row["number"] == result["best"])

    def height(share: float) -> float:
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM - 16)

    paths = []
    for row in rows:
        points = [
            (at[key], height(scales[key].position(row["values"][key])))
            for key in keys
            if key in row["values"]
        ]
        if row["objective"] is not None:
            points.append((at[""], y(row["objective"])))
        line = " L".join(f"{x:.1f},{h:.1f}" for x, h in points)
        wide = 3 if row["number"] == result["best"] else 1.4
        paths.append(
            f"<path d='M{line}' fill='none' stroke='{_colour(row, result['best'])}'"
            f" stroke-width='{wide}' opacity='.7'>{_title(row)}</path>"
        )
    axes = [
        f"<line x1='{x:.1f}' x2='{x:.1f}' y1='{TOP}' y2='{HEIGHT - BOTTOM}' stroke='#aab3bf'/>"
        f"<text x='{x:.1f}' y='{HEIGHT - 12}' text-anchor='middle'>"
        f"{html.escape(key or 'objective')}</text>"
        for key, x in at.items()
    ]
    ticks = [
        f"<text x='{at[key] + 4:.1f}' y='{height(place) + 4:.1f}'>{html.escape(text)}</text>"
        for key in keys
        for place, text in scales[key].ticks
    ]
    inside = "".join([*axes, *paths, *ticks])
    return f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}'>{inside}</svg>"


def _importance(shares: Mapping[str, float]) -> str:
    if not shares:
        return "<p class='dim'>Too few whole trials to say.</p>"
    bars = "".join(
        f"<tr><td>{html.escape(key)}</td><td>{share:.2f}</td><td style='text-align:left'>"
        f"<svg width='300' height='12'><rect width='{300 * share:.0f}' height='12'"
        f" fill='{COLOURS['done']}'/></svg></td></tr>"
        for key, share in shares.items()
    )
    return f"<p class='dim'>PED-ANOVA over whole trials (Optuna).</p><table>{bars}</table>"


def _table(result: Mapping[str, Any]) -> str:
    keys = list(result["keys"])
    names = ["trial", "state", "steps", "objective", "loss", *keys, "why"]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = []
    for row in result["trials"]:
        shut = ", ".join(row["rungs"][-1]["shut"]) if row["rungs"] else ""
        cells = [
            str(row["number"]),
            row["state"],
            f"{row['steps']:,}",
            *(f"{row[key]:.4f}" if row[key] is not None else "" for key in ("objective", "loss")),
            *(_text(row["values"].get(key, "")) for key in keys),
            row["error"] or shut,
        ]
        body.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    return f"<table><tr>{head}</tr>{''.join(body)}</table>"
