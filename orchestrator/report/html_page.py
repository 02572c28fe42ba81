"""What the pages of evaluations share: style, tables, and numbers with their intervals."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.report import plots

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1120px;margin:2rem auto;padding:0 1rem}
body{color:#1c2430}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{margin-top:2.4rem;border-bottom:1px solid #d8dee6}
table{display:block;max-width:100%;overflow-x:auto;border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums}
td,th{padding:.3rem .55rem;text-align:right;white-space:nowrap;border-bottom:1px solid #e6eaef}
td:first-child,th:first-child{text-align:left}th{font-weight:600;color:#4a5768}
tr:last-child.all td{border-top:2px solid #d8dee6;font-weight:600}
.big{font-size:2rem;font-weight:650}.big .dim{font-size:1rem;font-weight:400}
.dim{color:#6a7686}.good{color:#0a7a3b}.bad{color:#b3261e}
.cards{display:flex;gap:2.5rem;flex-wrap:wrap;margin:1rem 0}.quad{margin:1.2rem 0}
.side{display:flex;gap:3rem;flex-wrap:wrap;align-items:flex-start}
.cell{display:grid;grid-template-columns:190px 1fr;gap:.3rem .8rem;align-items:center}
.cell{margin:.35rem 0}.cell img{image-rendering:pixelated;width:100%;display:block}
.cell .gif{width:96px}svg text{font-size:11px;fill:#4a5768}
svg.curve{width:100%;height:46px;background:#f6f8fa;display:block}
.acting{display:grid;grid-template-columns:96px 96px 1fr;gap:.8rem;align-items:end;color:#6a7686}
.acting img{image-rendering:pixelated;width:100%;display:block}
.legend span{margin-right:1rem;font-size:.85rem}
.legend i{display:inline-block;width:.7rem;height:.7rem;margin-right:.3rem}
code{background:#f2f4f7;padding:.1rem .3rem}td code{white-space:normal;overflow-wrap:anywhere}
"""


def html_document(title: str, parts: Sequence[str]) -> str:
    """A whole page that needs nothing else."""
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(title)}</title>"
        f"<style>{STYLE}</style><body>{''.join(parts)}</body></html>"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], last: str = "") -> str:
    """Cells are HTML; `last` is the class of the last row."""
    titles = "".join(f"<th>{title}</th>" for title in head)
    lines = [
        f"<tr class='{last if row is rows[-1] else ''}'>"
        + "".join(f"<td>{cell}</td>" for cell in row)
        + "</tr>"
        for row in rows
    ]
    return f"<table><tr>{titles}</tr>{''.join(lines)}</table>"


def format_share(value: Mapping[str, float]) -> str:
    """A share with its interval, in percent."""
    return (
        f"{100 * value['value']:.1f}% <span class='dim'>[{100 * value['low']:.0f},"
        f" {100 * value['high']:.0f}]</span>"
    )


def format_points(value: Mapping[str, float]) -> str:
    """A difference of shares, in percentage points."""
    return (
        f"{100 * value['value']:+.1f} <span class='dim'>[{100 * value['low']:+.0f},"
        f" {100 * value['high']:+.0f}] points</span>"
    )


def format_seconds(value: Mapping[str, float]) -> str:
    """A time with its interval."""
    return (
        f"{value['value']:.2f} s <span class='dim'>[{value['low']:.2f}, {value['high']:.2f}]</span>"
    )


def format_number(value: Mapping[str, float], digits: int = 3) -> str:
    """A number of no unit with its interval."""
    middle, low, high = (format_plain(value[key], digits) for key in ("value", "low", "high"))
    return f"{middle} <span class='dim'>[{low}, {high}]</span>"


def format_plain(value: float, digits: int) -> str:
    """A number as a person writes it: no -0.00."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def curve_range_note(low: float, top: float) -> str:
    """What the height of curves of surprise stands for."""
    return f"curves: surprise, from {low:.3f} (below) to {top:.3f} (above)"


def autoregressive_note(look: Mapping[str, Any]) -> str:
    """How a model that reads time forwards looked; nothing of another."""
    if not look["horizon"]:
        return ""
    return f", then every moment up to {look['horizon']} before the one that it predicted"


def rollout_section(rows: Sequence[Mapping[str, Any]], moment_s: float) -> str:
    """How far ahead a model sees: a plot of skill, and a table.

    Args:
        rows: see `rollout.rollout_table`.
        moment_s: seconds of a tubelet.
    """
    names = [f"{row['tubelets_ahead'] * moment_s:.3g}" for row in rows]
    cells = []
    for row, name in zip(rows, names, strict=True):
        cells.append(
            [
                name,
                ", ".join(f"{row['error'][rule]:.3f}" for rule in ("model", "copy", "linear")),
                *(format_number(row["skill"][rule], 2) for rule in ("copy", "linear")),
                *(_format_retrieval(row[among]) for among in ("same_clip", "cross_clip")),
            ]
        )
    head = ["seconds ahead", "error: model, copy, linear", "skill over copy",
            "skill over linear", "found among own moments", "among other clips"]  # fmt: skip
    skills = {f"over {rule}": [row["skill"][rule] for row in rows] for rule in ("copy", "linear")}
    return (
        "<h2>How far ahead it sees</h2><p class='dim'>Features of the future predicted from the"
        " context, against repeating the last seen ones (copy) and going on in a straight line"
        " (linear). Error: mean L1. Skill is 1 - error / their error; below 0 the rule is better."
        " Found: how often the true future is the nearest of all to the predicted one, and how"
        " often among the five nearest; in brackets: chance.</p>"
        f"{plots.line_chart(skills, names, 'skill', 'seconds ahead')}{table(head, cells)}"
    )


def _format_retrieval(shares: Mapping[str, float]) -> str:
    each = [(100 * shares[f"@{k}"], 100 * shares[f"chance@{k}"]) for k in (1, 5)]
    return ", ".join(f"{s:.0f}% <span class='dim'>({chance:.2g}%)</span>" for s, chance in each)
