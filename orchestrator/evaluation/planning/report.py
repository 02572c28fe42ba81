"""The report of a planning evaluation as one HTML page: policies, and episodes to look at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from orchestrator.evaluation.planning.episodes import EpisodeResult
from orchestrator.evaluation.planning.summary import PlanningRawResults
from orchestrator.report.figures import filmstrip, gif, image
from orchestrator.report.page import format_percent, format_points, format_share, render_page

EPISODES_PER_OUTCOME = 4
"""Successes, and failures, that are shown of the model."""

POLICY_DESCRIPTIONS = {
    "model": "plans with the model",
    "random": "samples from the whole action space",
    "cloning": "imitates the training data towards the goal",
    "nearest": "replays the nearest trajectory of the training data",
    "oracle": "plans with the environment itself and its true states",
}


def planning_report(summary: dict[str, Any], results: PlanningRawResults) -> str:
    """The page about one model in one environment."""
    return render_page(
        "planning",
        summary=summary,
        header=_header(summary),
        policies=POLICY_DESCRIPTIONS,
        outcomes=_outcomes(results),
    )


def _header(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    arms = summary["arms"]
    own = arms["model"]
    gains = [
        (f"vs. {name}", format_points(gain), format_percent(arms[name]["success"]["value"]))
        for name, gain in summary["gain"].items()
    ]
    return [
        ("goals reached", format_share(own["success"]), f"of {own['tasks']} tasks"),
        *gains,
        ("per decision", f"{own['ms']:.3g} ms", "planning alone, many episodes at once"),
    ]


def _outcomes(results: PlanningRawResults) -> Iterator[dict[str, Any]]:
    """The model's successes and failures, evenly sampled over the tasks."""
    success = results.success("model")
    for title, mask in (("Reached", success), ("Not reached", ~success)):
        numbers = np.flatnonzero(mask)
        at = np.linspace(0, max(0, len(numbers) - 1), EPISODES_PER_OUTCOME).round().astype(int)
        shown = numbers[np.unique(at)] if len(numbers) else numbers
        yield {
            "title": title,
            "count": len(numbers),
            "total": len(success),
            "episodes": [_episode(results, int(number)) for number in shown],
        }


def _episode(results: PlanningRawResults, number: int) -> dict[str, Any]:
    task, episode = results.context.tasks.all[number], results.episodes("model")[number]
    video = np.stack([results.environment.render_state(state) for state in episode.states])
    return {
        "number": number,
        "result": _result(episode),
        "distance": results.context.tasks.distance(episode.states[-1], task.goal),
        "baselines": {
            name: _result(played[number])
            for name in results.policies
            if name != "model" and number < len(played := results.episodes(name))
        },
        "goal": image(results.environment.render_state(task.goal)),
        "animation": gif(video),
        "frames": filmstrip(video),
    }


def _result(episode: EpisodeResult) -> str:
    steps = episode.steps_to_goal
    return "not reached" if steps is None else f"reached after {steps} control steps"
