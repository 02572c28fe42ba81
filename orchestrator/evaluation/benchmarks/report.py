"""The report of a public benchmark as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from orchestrator.report.figures import filmstrip, skill_chart, surprise_curve
from orchestrator.report.page import format_number, format_percent, format_share, render_page

SceneCase = tuple[str, str, list[tuple[np.ndarray, np.ndarray]]]
"""A scene: its property and 'clearest' or 'worst', its name, and what `pairs.case_videos` gives."""

_TITLES = {
    "intphys": "IntPhys, dev set",
    "intphys2": "IntPhys 2",
    "grasp": "GRASP, level 2",
    "inflevel": "InfLevel-lab",
    "moving-mnist": "Moving MNIST",
    "clevrer": "CLEVRER, validation split",
}


def pairs_report(summary: dict[str, Any], shown: Sequence[SceneCase]) -> str:
    """The page about one model on one set of possible and impossible videos."""
    overall = summary["overall"]
    header: list[tuple[str, str, str]] = [
        ("pairs right", format_share(overall["pair"]), "chance 50%"),
        ("any possible vs. any impossible video", format_share(overall["all"]), "chance 50%"),
        ("AUROC", format_number(overall["auroc"]), "chance 0.5"),
    ]
    if summary["random"]:
        pairs = [one["pair"] for one in summary["random"]]
        best = f"best {format_percent(max(pairs))}"
        header.append((f"{len(pairs)} random models", format_percent(float(np.mean(pairs))), best))
    return render_page(
        "pairs",
        summary=summary,
        benchmark=_TITLES[summary["benchmark"]],
        header=header,
        scenes=(_scene(*one) for one in shown),
    )


def rollouts_report(summary: dict[str, Any]) -> str:
    """The page about one model's rollouts on one set of clips."""
    header: list[tuple[str, str, str]] = [
        (
            f"skill over {baseline}",
            format_number(summary["overall"][f"skill_over_{baseline}"]),
            "0: no better",
        )
        for baseline in ("copy", "linear")
    ]
    if summary["random"]:
        skills = [one["skill_over_copy"] for one in summary["random"]]
        name = f"{len(skills)} random models, over copy"
        header.append((name, f"{np.mean(skills):.3f}", f"best {max(skills):.3f}"))
    return render_page(
        "rollouts",
        summary=summary,
        benchmark=_TITLES[summary["benchmark"]],
        header=header,
        skill_plot=skill_chart(summary["rollout"], summary["moment_s"]),
    )


def _scene(label: str, name: str, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    low = min(float(np.nanmin(curves)) for _, curves in pairs)
    high = max(float(np.nanmax(curves)) for _, curves in pairs)
    rows = []
    for videos, curves in pairs:
        differs = (videos[0] != videos[1]).any((1, 2, 3))
        first = int(differs.argmax()) if differs.any() else len(differs)
        for video, values, possible in zip(videos, curves, (True, False), strict=True):
            curve = surprise_curve(values, low, high, first)
            rows.append({"possible": possible, "frames": filmstrip(video), "curve": curve})
    return {"label": label, "name": name, "low": low, "high": high, "videos": rows}
