"""A study as one HTML file that needs nothing else: curves, tables, claims."""

from __future__ import annotations

import html
import itertools
import math
from typing import Any

import numpy as np

LINE = 13
"""Pixels from one name to the next: what is nearer cannot be read."""

COLOURS = ("#2f6fdb", "#0a7a3b", "#b3261e", "#8a5a00", "#6a3fb5", "#4a5768")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 620, 300, 46, 34, 12

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2rem auto;padding:0 1rem}
body{color:#1c2430}h1{font-size:1.6rem;margin-bottom:.2rem}
h2{margin-top:2.4rem;border-bottom:1px solid #d8dee6}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
td,th{padding:.3rem .8rem;text-align:right;white-space:nowrap;border-bottom:1px solid #e6eaef}
td:first-child,th:first-child{text-align:left}th{font-weight:600;color:#4a5768}
.dim{color:#6a7686}svg{max-width:100%;background:#f6f8fa;margin:.6rem 0}
svg text{font:12px system-ui,sans-serif;fill:#4a5768}
code{background:#f2f4f7;padding:.1rem .3rem}
"""


def study_report(result: dict[str, Any]) -> str:
    """The whole report."""
    title = html.escape(f"Data efficiency: {result['name']}")
    probe = result["probe"]
    head = (
        f"<h1>How much video does each objective need?</h1><p class='dim'>"
        f"<code>{html.escape(result['name'])}</code>: {result['steps']:,} steps of"
        f" {result['global_batch']} clips for every arm and N, {len(result['seeds'])} seeds,"
        f" <code>{html.escape(str(result['source']))}</code>. Score: R2 of a ridge probe on frozen"
        f" features, fitted on {probe['fit']} videos and scored on {probe['score']} others that"
        " no arm was trained on.</p>"
    )
    parts = [head, *(_panel(panel, result) for panel in result["panels"])]
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>"
        f"<style>{STYLE}</style><body>{''.join(parts)}</body></html>"
    )


def format_claim(ratio: dict[str, Any], reference: str, arm: str) -> str:
    """One line: how many times more videos the reference needs, or why nothing is said."""
    if ratio["value"] is None:
        return f"N({reference}) / N({arm}): no claim, {ratio['why']}"
    text = f"N({reference}) / N({arm}) = {ratio['value']:.2f}"
    if ratio["low"] is not None:
        text += f" [{ratio['low']:.2f}, {ratio['high']:.2f}]"
    return text if ratio["claim"] else f"{text}: no claim, {ratio['why']}"


def _panel(panel: dict[str, Any], result: dict[str, Any]) -> str:
    claims = "".join(
        f"<li>{html.escape(format_claim(ratio, result['reference'], arm))}</li>"
        for arm, ratio in panel["ratios"].items()
    )
    return (
        f"<h2>{panel['score']}, {panel['background']} background</h2>"
        f"{_plot(panel, result['clips'])}{_table(panel, result['clips'])}"
        f"<ul>{claims}</ul>"
    )


def _table(panel: dict[str, Any], clips: list[int]) -> str:
    head = "".join(f"<th>{n:,} videos</th>" for n in clips)
    rows = []
    for arm, scores in panel["arms"].items():
        mean, spread = np.mean(scores, axis=0), np.std(scores, axis=0)
        shown = [
            f"{m:.3f} <span class='dim'>&plusmn; {s:.3f}</span>"
            for m, s in zip(mean, spread, strict=True)
        ]
        cells = "".join(f"<td>{text}</td>" for text in shown)
        if len(shown) == 1:
            cells = f"<td colspan='{len(clips)}'>{shown[0]} (untrained)</td>"
        rows.append(f"<tr><td>{html.escape(arm)}</td>{cells}</tr>")
    return (
        f"<table><tr><th>R2, mean and deviation over seeds</th>{head}</tr>{''.join(rows)}</table>"
    )


def _plot(panel: dict[str, Any], clips: list[int]) -> str:
    """Mean over seeds by log N, a point for each seed; what is not trained is a line across."""
    arms: dict[str, list[list[float]]] = panel["arms"]
    every = [value for scores in arms.values() for row in scores for value in row]
    low, high = min(every), max(every)
    pad = 0.06 * max(high - low, 1e-6)
    low, high = low - pad, high + pad

    def x(n: float) -> float:
        share = math.log2(n / clips[0]) / math.log2(clips[-1] / clips[0])
        return LEFT + 14 + share * (WIDTH - LEFT - 130)

    def y(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    means = {arm: np.mean(scores, axis=0) for arm, scores in arms.items()}
    named = dict(zip(means, _spread_labels([y(mean[-1]) for mean in means.values()]), strict=True))
    parts = [_axes(clips, low, high, x, y)]
    for (arm, scores), colour in zip(panel["arms"].items(), COLOURS * 9, strict=False):
        mean = means[arm]
        at = clips if len(mean) > 1 else [clips[0], clips[-1]]
        line = mean if len(mean) > 1 else [mean[0], mean[0]]
        points = " ".join(f"{x(n):.1f},{y(v):.1f}" for n, v in zip(at, line, strict=True))
        dash = "" if len(mean) > 1 else " stroke-dasharray='5 4'"
        parts.append(
            f"<polyline points='{points}' fill='none' stroke='{colour}' stroke-width='2'{dash}/>"
            f"<text x='{x(clips[-1]) + 12:.1f}' y='{named[arm] + 4:.1f}'"
            f" style='fill:{colour}'>{html.escape(arm)}</text>"
        )
        parts += [
            f"<circle cx='{x(n):.1f}' cy='{y(v):.1f}' r='2.5' fill='{colour}' opacity='.55'/>"
            for row in scores
            if len(row) > 1
            for n, v in zip(clips, row, strict=True)
        ]
    return f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}'>{''.join(parts)}</svg>"


def _spread_labels(heights: list[float]) -> list[float]:
    """Where names stand: as near to the ends of their lines as there is room, inside the frame."""
    placed = np.array(heights)
    order = np.argsort(placed)
    for above, below in itertools.pairwise(order):
        placed[below] = max(placed[below], placed[above] + LINE)
    lowest = HEIGHT - BOTTOM
    for below in order[::-1]:
        placed[below] = min(placed[below], lowest)
        lowest = placed[below] - LINE
    return [float(height) for height in placed]


def _axes(clips: list[int], low: float, high: float, x: Any, y: Any) -> str:
    parts = [
        f"<text x='{x(n):.1f}' y='{HEIGHT - 18}' text-anchor='middle'>{n:,}</text>" for n in clips
    ]
    parts += [
        f"<text x='{WIDTH - 110}' y='{HEIGHT - 2}' text-anchor='end'>videos trained on</text>",
        f"<text x='{LEFT + 4}' y='10'>R2</text>",
    ]
    digits = 2 if high - low > 0.2 else 3
    for value in np.linspace(low, high, 5):
        parts.append(
            f"<line x1='{LEFT}' x2='{WIDTH - 110}' y1='{y(value):.1f}' y2='{y(value):.1f}'"
            f" stroke='#d8dee6'/><text x='{LEFT - 6}' y='{y(value) + 4:.1f}'"
            f" text-anchor='end'>{round(value, digits) + 0.0:.{digits}f}</text>"
        )
    return "".join(parts)
