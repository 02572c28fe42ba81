"""A probe's result as one HTML file that needs nothing else."""

from __future__ import annotations

import html
from typing import Any

from orchestrator.evaluation.report import _STYLE as STYLE


def page(verdict: dict[str, Any]) -> str:
    """A self-contained page about one probe."""
    model = verdict["features"]["model"]
    title = html.escape(f"Probe: {model['model_uri']}")
    parts = [_head(verdict), _table(verdict), _chosen(verdict), _of(verdict)]
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>"
        f"<style>{STYLE}</style><body>{''.join(parts)}</body></html>"
    )


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
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = ["target", "metric", *(_TITLES[name] for name in arms)]
    titles = "".join(f"<th>{title}</th>" for title in head)
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
        f"<h2>Scores</h2><table><tr>{titles}</tr>{''.join(rows)}</table>"
        f"<p class='dim'>Intervals: {level}, bootstrap over videos.{chance} {split}; no video is on"
        f" two sides.{without if left_out else ''}</p>"
    )


_TITLES = {"model": "the model", "random": "random weights", "baseline": "without features"}
_SIDES = {"train": "learn from", "validation": "choose on", "test": "score"}


def _cell(score: dict[str, Any]) -> str:
    value, _, interval = shown_score(score).partition(" ")
    return f"{value} <span class='dim'>{interval}</span>"


def shown_score(score: dict[str, Any]) -> str:
    """A score with its interval, as a person reads it."""
    if score["value"] is None:
        return "none: the scored rows are all alike"
    if score["metric"] == "R2":
        return f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"
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
            rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = ["", "chosen", "cost on the validation videos", "the worst setting's", "settings"]
    titles = "".join(f"<th>{title}</th>" for title in head)
    return (
        "<h2>What was chosen</h2><p class='dim'>By the share of clips read wrong, or the squared"
        " error of a state, on the validation videos; never on what is scored.</p>"
        f"<table><tr>{titles}</tr>{''.join(rows)}</table>"
    )


def _of(verdict: dict[str, Any]) -> str:
    rows = []
    for arm, facts in verdict["features"].items():
        cells = [
            _TITLES[arm],
            f"<code>{html.escape(facts['uri'])}</code>",
            f"{facts['clips']:,} clips, {facts['pooling']}, {facts['dtype']}",
            f"<code>{facts['digest']}</code>",
            f"<code>{facts['model']}</code>",
            f"<code>{', '.join(facts['data'])}</code>",
        ]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = ["", "features", "of", "digest", "model's digest", "data's digest"]
    titles = "".join(f"<th>{title}</th>" for title in head)
    return f"<h2>The features</h2><table><tr>{titles}</tr>{''.join(rows)}</table>"
