"""The report of the physics suite as one HTML page: tables, plots, and example videos."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from orchestrator.evaluation.evaluable import Evaluable
from orchestrator.evaluation.suite.measure import SuiteRawResults
from orchestrator.evaluation.suite.predicted_frames import predicted_frames
from orchestrator.physics.suite.baselines import LEGITIMATE_CUES
from orchestrator.physics.suite.scoring import quad_correct
from orchestrator.report.figures import bar_chart, filmstrip, gif, skill_chart, surprise_curve
from orchestrator.report.page import format_percent, format_points, format_share, render_page

_HEALTH_NAMES = {"rankme": "RankMe", "feature_std": "standard deviation", "lidar": "LiDAR"}

_TIERS = (
    {
        "key": "sanity",
        "title": "Sanity checks",
        "counted": "sets of videos",
        "text": "An object vanishes, jumps or changes colour in full view. Right: its surprise is"
        " higher than that of a bounce, a collision, a launch or an object that becomes hidden.",
    },
    {
        "key": "arrow",
        "title": "Arrow of time",
        "counted": "pairs of videos",
        "text": "A possible video and its reverse; the same frames are predicted in both. Right:"
        " the reverse has the higher surprise.",
    },
)

_CHOICES = {
    "context": "frames seen",
    "mask": "mask token",
    "horizon": "time steps ahead",
    "aggregate": "aggregate",
}


def suite_report(
    summary: dict[str, Any], results: SuiteRawResults, split: str, model: Evaluable | None = None
) -> str:
    """The page about one model on one split of the suite.

    Args:
        summary: as of `summary.summarize`.
        model: given, its predictions are shown beneath the videos if it can decode to pixels.
    """
    protocol = summary["shown"]
    keys = dict(_CHOICES)
    if not any(one["horizon"] for one in summary["chosen_from"]):
        del keys["horizon"]  # the model predicts all future time steps at once
    return render_page(
        "suite",
        summary=summary,
        header=_header(summary),
        health_names=_HEALTH_NAMES,
        legitimate_cues=LEGITIMATE_CUES,
        tiers=_TIERS,
        choice_head=[*keys.values(), "quads right there"],
        choices=[
            [*(one[key] for key in keys), format_percent(one["quad"])]
            for one in summary["chosen_from"]
        ],
        probe_plot=bar_chart(_by_target(summary["probe"]), -0.5, 1.0, "R²"),
        skill_plot=skill_chart(summary["rollout"], protocol["tubelet"] / protocol["fps"]),
        examples=(
            {"name": name, "quads": _example_quads(name, results, split, model)}
            for name in results.model
        ),
    )


def _header(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    overall, gains = summary["overall"], summary["gains"]["quad"]
    header = [
        ("quadruplets right", format_share(overall["quad"]), "chance 25%"),
        ("pairs right", format_share(overall["pair"]), "chance 50%"),
    ]
    if summary["random"]:
        quads = [one["quad"] for one in summary["random"]]
        note = f"mean {format_percent(float(np.mean(quads)))}, best {format_percent(max(quads))}"
        name = f"vs. {len(quads)} random models"
        header.append((name, format_points(gains["over_random"]), note))
    best = summary["baseline"]
    note = f"{best['name']}: {format_percent(best['quad'])}"
    return [*header, ("vs. best pixel baseline", format_points(gains["over_baseline"]), note)]


def _by_target(probe: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """{model: {target: R2}} -> {target: {model: R2}}."""
    return {
        target: {name: scores[target] for name, scores in probe.items()}
        for target in probe["model"]
    }


def _example_quads(
    name: str, results: SuiteRawResults, split: str, model: Evaluable | None
) -> Iterator[dict[str, Any]]:
    """A scenario's clearest and its worst quadruplet."""
    unit, rule = results.model[name], results.scoring_rule
    scores = unit.scores[rule]
    # How much more surprising the impossible cells are, in units of the quad's own deviation.
    deviation = scores.std((1, 2)) + 1e-9
    margin = (scores[:, 0, 1] + scores[:, 1, 0] - scores[:, 0, 0] - scores[:, 1, 1]) / deviation
    for label, number in (("clearest", int(margin.argmax())), ("worst", int(margin.argmin()))):
        quad = results.protocol.make_quad(split, name, number)
        curves = unit.curves[rule.context_spec][number]
        low, high = float(np.nanmin(curves)), float(np.nanmax(curves))
        videos = []
        for i, j in np.ndindex(2, 2):
            video = quad.videos[i, j]
            predicted = None
            if model is not None:
                predicted = predicted_frames(model, video, rule.context_spec)
            videos.append(
                {
                    "name": f"context {'ab'[i]}, outcome {'ab'[j]}",
                    "possible": i == j,
                    "animation": "" if i == j else gif(video),
                    "frames": filmstrip(video),
                    "predicted": "" if predicted is None else filmstrip(predicted),
                    "curve": surprise_curve(curves[i, j], low, high, quad.break_frame),
                }
            )
        yield {
            "label": label,
            "number": number,
            "right": quad_correct(scores)[number] == 1,
            "low": low,
            "high": high,
            "videos": videos,
        }
