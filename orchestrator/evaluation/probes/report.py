"""The report of a probe as one HTML page."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from orchestrator.report.page import format_plain, render_page

ARM_NAMES = {"model": "model", "random": "random weights", "baseline": "without features"}


def probe_report(summary: dict[str, Any]) -> str:
    """The page of one probe's summary (`verdict.json`)."""
    trained = [
        (f"{ARM_NAMES[arm]}: {name}", score)
        for arm in ("model", "random")
        if arm in summary["arms"]
        for name, score in summary["arms"][arm]["scores"].items()
    ]
    return render_page(
        "probe", summary=summary, arm_names=ARM_NAMES, score=_score_cell, trained=trained
    )


def format_score(score: dict[str, Any]) -> str:
    """A score with its interval, as a person reads it."""
    if score["value"] is None:
        return "none: the scored rows are all alike"
    if score["metric"] == "R2":
        value, low, high = (format_plain(score[key], 3) for key in ("value", "low", "high"))
        return f"{value} [{low}, {high}]"
    value, low, high = (100 * score[key] for key in ("value", "low", "high"))
    return f"{value:.1f}% [{low:.1f}, {high:.1f}]"


def _score_cell(score: dict[str, Any]) -> Markup:
    if score["value"] is None:
        return Markup.escape(format_score(score))
    value, interval = format_score(score).split(" ", 1)
    return Markup("{} <span class='dim'>{}</span>").format(value, interval)
