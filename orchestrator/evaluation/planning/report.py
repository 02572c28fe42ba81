"""The report as one HTML file that needs nothing else: arms, and episodes to look at."""

from __future__ import annotations

import html
from typing import Any

import numpy as np

from orchestrator.evaluation.planning.episodes import EpisodeResult
from orchestrator.evaluation.planning.summary import PlanningRawResults
from orchestrator.report import plots
from orchestrator.report.html_page import format_points, format_share, html_document, table

CASES_PER_OUTCOME = 4
"""Successes, and failures, that are shown of the model."""

POLICY_DESCRIPTIONS = {
    "model": "plans with the model",
    "random": "draws from the whole action space",
    "cloning": "imitates the training data on the way to the goal",
    "nearest": "repeats the nearest trajectory of the training data",
    "oracle": "plans with the world itself, told the states",
}


def planning_report(summary: dict[str, Any], results: PlanningRawResults) -> str:
    """A self-contained page about one model in one world."""
    parts = [_head(summary), _arms(summary), _protocol_section(summary), *_cases(results)]
    return html_document(f"Acting in {summary['world']}: {summary['model']}", parts)


def _head(told: dict[str, Any]) -> str:
    own, gain = told["arms"]["model"], told["gain"]
    cards = [
        ("goals reached", format_share(own["success"]), f"of {own['tasks']} tasks"),
        *(
            (f"over {name}", format_points(gain[name]), f"{100 * _success(told, name):.1f}%")
            for name in gain
        ),
        ("a decision", f"{own['ms']:.3g} ms", "planning alone, many at once"),
    ]
    shown = "".join(
        f"<div><div class='dim'>{html.escape(name)}</div><div class='big'>{value}</div>"
        f"<div class='dim'>{html.escape(note)}</div></div>"
        for name, value, note in cards
    )
    return (
        "<h1>Can it be acted with?</h1><div class='dim'>"
        f"<code>{html.escape(told['model'])}</code> in <code>{html.escape(told['world'])}</code>,"
        f" protocol <code>{told['protocol']}</code></div><div class='cards'>{shown}</div>"
    )


def _success(told: dict[str, Any], arm: str) -> float:
    return float(told["arms"][arm]["success"]["value"])


def _arms(told: dict[str, Any]) -> str:
    rows = []
    for name, arm in told["arms"].items():
        gain = told["gain"].get(name)
        rows.append(
            [
                name,
                str(arm["tasks"]),
                format_share(arm["success"]),
                "" if gain is None else format_points(gain),
                "" if arm["steps"] is None else f"{arm['steps']:.1f}",
                f"{arm['distance']:.2f}",
                f"{arm['ms']:.3g}",
            ]
        )
    head = ["", "tasks", "reached", "the model over it", "control steps", "distance at the end",
            "ms a decision"]  # fmt: skip
    level = f"{100 * told['confidence']:.0f}%"
    who = "; ".join(f"<b>{name}</b> {POLICY_DESCRIPTIONS[name]}" for name in told["arms"])
    return (
        f"<h2>Beside what needs no model</h2>{table(head, rows)}<p class='dim'>{who}.</p>"
        f"<p class='dim'>Intervals: {level};"
        " of shares by Wilson's score, of differences by bootstrap over the same tasks. Control"
        " steps: until the goal, where it was reached. Distance: of states, root mean square in"
        " deviations of each number. Milliseconds: deciding alone (encoding and planning), up to"
        f" {told['shown']['together']} episodes at once.</p>"
    )


def _protocol_section(told: dict[str, Any]) -> str:
    shown = told["shown"]
    solver = ", ".join(f"{key} {value}" for key, value in shown["solver"].items())
    goal = "picture" if shown["goal"] == "image" else "state"
    of = "states read off features" if "data" in shown else "features"
    return (
        "<h2>How it was measured</h2><p>Starts and goals are"
        f" {shown['ahead']} control steps apart in the collector's own episodes, drawn by seed"
        f" {shown['seed']}, which no training used; only worthwhile ones count. The world was put"
        f" into the start, the {goal} of the goal was shown, and it had to be reached within"
        f" <b>{shown['budget']} control steps</b>, at any of them, as the world judges. Plans of"
        f" {shown['horizon']} model steps, {shown['execute']} done before the next plan; cost:"
        f" {shown['distance']} distance of {of} from the goal, {shown['cost']} predicted moment."
        f" Solver: {html.escape(solver)}.</p><p>Protocol <code>{told['protocol']}</code>: numbers"
        " of another hash cannot be compared with these.</p>"
    )


def _cases(found: PlanningRawResults) -> list[str]:
    """The model's successes and failures, evenly taken over the tasks."""
    parts = []
    reached = found.success("model")
    for title, which in (("Reached", reached), ("Not reached", ~reached)):
        numbers = np.flatnonzero(which)
        if not len(numbers):
            parts.append(f"<h2>{title}</h2><p>None of {len(reached)}.</p>")
            continue
        shown = np.unique(np.linspace(0, len(numbers) - 1, CASES_PER_OUTCOME).round().astype(int))
        parts.append(f"<h2>{title}: {len(numbers)} of {len(reached)}</h2>")
        parts += [_case(found, int(number)) for number in numbers[shown]]
    return parts


def _case(found: PlanningRawResults, number: int) -> str:
    task, one = found.context.tasks.all[number], found.episodes("model")[number]
    others = [
        f"{arm}: {_ended(played[number])}"
        for arm in found.policies
        if arm != "model" and number < len(played := found.episodes(arm))
    ]
    video = np.stack([found.environment.render_state(state) for state in one.states])
    goal = found.environment.render_state(task.goal)
    apart = found.context.tasks.distance(one.states[-1], task.goal)
    return (
        f"<div class='quad'><b>task {number}</b> <span class='dim'>{_ended(one)}, {apart:.2f} from"
        f" the goal at the end; {html.escape('; '.join(others))}</span>"
        f"<div class='acting'><div>goal{plots.image(goal)}</div><div>moving{plots.gif(video)}</div>"
        f"<div>from start to end{plots.filmstrip(video)}</div></div></div>"
    )


def _ended(one: EpisodeResult) -> str:
    return "not reached" if one.steps_to_goal is None else f"reached after {one.steps_to_goal}"
