"""A probe's result as one HTML file that needs nothing else."""

from __future__ import annotations

import html
from typing import Any

from orchestrator.report.html_page import format_plain, html_document, table


def probe_report(verdict: dict[str, Any]) -> str:
    """A self-contained page about one probe."""
    model = verdict["features"]["model"]
    parts = [_head(verdict), _table(verdict), _chosen(verdict), _feature_section(verdict)]
    return html_document(f"Probe: {model['model_uri']}", parts)


def _head(verdict: dict[str, Any]) -> str:
    model = verdict["features"]["model"]
    return (
        "<h1>What can be read off the features?</h1><div class='dim'>"
        f"<code>{html.escape(model['model_uri'])}</code>, {verdict['head']} probe for"
        f" {verdict['target']}, protocol <code>{verdict['protocol']}</code></div>"
    )


def _table(verdict: dict[str, Any]) -> str:
    """A row for each target, a column for each arm."""
    arms = verdict["arms"]
    rows = []
    for name, own in arms["model"]["scores"].items():
        cells = [html.escape(name), own["metric"]]
        cells += [_cell(arm["scores"][name]) for arm in arms.values()]
        rows.append(cells)
    head = ["target", "metric", *(_TITLES[name] for name in arms)]
    level = f"{100 * verdict['confidence']:.0f}%"
    classes = verdict["classes"]
    chance = f" Chance over {classes} classes: {100 / classes:.1f}%." if classes else ""
    split = ", ".join(
        f"{one['rows']:,} rows of {one['videos']:,} videos to {_SIDES[side]}"
        for side, one in verdict["split"].items()
    )
    left_out = verdict["left_out"]
    why = "have no label" if classes else "have no states, or several things that move"
    without = f" {left_out:,} clips {why}: they are left out."
    return (
        f"<h2>Scores</h2>{table(head, rows)}"
        f"<p class='dim'>Intervals: {level}, bootstrap over videos.{chance} {split}; no video is on"
        f" two sides.{without if left_out else ''}</p>"
    )


_TITLES = {"model": "the model", "random": "random weights", "baseline": "without features"}
_SIDES = {"train": "learn from", "validation": "choose on", "test": "score"}


def _cell(score: dict[str, Any]) -> str:
    value, _, interval = format_score(score).partition(" ")
    return f"{value} <span class='dim'>{interval}</span>"


def format_score(score: dict[str, Any]) -> str:
    """A score with its interval, as a person reads it."""
    if score["value"] is None:
        return "none: the scored rows are all alike"
    if score["metric"] == "R2":
        value, low, high = (format_plain(score[key], 3) for key in ("value", "low", "high"))
        return f"{value} [{low}, {high}]"
    value, low, high = (100 * score[key] for key in ("value", "low", "high"))
    return f"{value:.1f}% [{low:.1f}, {high:.1f}]"


def _chosen(verdict: dict[str, Any]) -> str:
    rows = []
    for arm in ("model", "random"):
        for name, score in verdict["arms"].get(arm, {"scores": {}})["scores"].items():
            chosen = ", ".join(f"{key} {value:g}" for key, value in score["chosen"].items())
            costs = [one["validation"] for one in score["cost"]]
            cells = [
                html.escape(f"{_TITLES[arm]}: {name}"),
                chosen,
                f"{min(costs):.4g}",
                f"{max(costs):.4g}",
                str(len(costs)),
            ]
            rows.append(cells)
    head = ["", "chosen", "cost on the validation videos", "the worst setting's", "settings"]
    return (
        "<h2>What was chosen</h2><p class='dim'>By the share of clips read wrong, or the squared"
        " error of a state in its own unit (of simulated physics: metres, and metres a second), on"
        " the validation videos; never on what is scored.</p>" + table(head, rows)
    )


def _feature_section(verdict: dict[str, Any]) -> str:
    """What was read, an arm in each column."""
    facts = verdict["features"]
    rows = [
        ["features", *(_code(one["uri"]) for one in facts.values())],
        ["of", *(f"{one['clips']:,} clips, {one['pooling']}, {one['dtype']}"
                 for one in facts.values())],
        ["digest", *(_code(one["digest"]) for one in facts.values())],
        ["model's digest", *(_code(one["model"]) for one in facts.values())],
        ["data's digest", *(_code(", ".join(one["data"])) for one in facts.values())],
    ]  # fmt: skip
    return f"<h2>The features</h2>{table(['', *(_TITLES[arm] for arm in facts)], rows)}"


def _code(text: str) -> str:
    return f"<code>{html.escape(text)}</code>"
