"""The report of a data-efficiency study: curves, scores and claims as one HTML page."""

from __future__ import annotations

from typing import Any

import numpy as np

from orchestrator.report.figures import seed_curves
from orchestrator.report.page import render_page


def study_report(result: dict[str, Any]) -> str:
    """The page of a study's result (`study.json`)."""
    return render_page(
        "study", study=result, panels=[_panel(panel, result) for panel in result["panels"]]
    )


def format_claim(ratio: dict[str, Any], reference: str, arm: str) -> str:
    """One line: how many times more videos the reference needs, or why nothing is claimed."""
    if ratio["value"] is None:
        return f"N({reference}) / N({arm}): no claim, {ratio['why']}"
    text = f"N({reference}) / N({arm}) = {ratio['value']:.2f}"
    if ratio["low"] is not None:
        text += f" [{ratio['low']:.2f}, {ratio['high']:.2f}]"
    return text if ratio["claim"] else f"{text}: no claim, {ratio['why']}"


def _panel(panel: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """What the template shows of one score on one background."""
    arms: dict[str, list[list[float]]] = panel["arms"]
    return {
        "score": panel["score"],
        "background": panel["background"],
        "plot": seed_curves(arms, result["clips"], "R2", "videos trained on"),
        "rows": {
            arm: list(zip(np.mean(scores, axis=0), np.std(scores, axis=0), strict=True))
            for arm, scores in arms.items()
        },
        "claims": [
            format_claim(ratio, result["reference"], arm) for arm, ratio in panel["ratios"].items()
        ],
    }
