"""A benchmark's report as one HTML file that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from orchestrator.report import plots
from orchestrator.report.html_page import (
    autoregressive_note,
    curve_range_note,
    format_number,
    format_share,
    html_document,
    rollout_section,
    table,
)

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


def pairs_report(verdict: dict[str, Any], shown: Sequence[SceneCase]) -> str:
    """A self-contained page about one model on one set of pairs."""
    whole = verdict["overall"]
    cards = [
        ("pairs right", format_share(whole["pair"]), "chance 50%"),
        ("possible under impossible, any of a scene", format_share(whole["all"]), "chance 50%"),
        ("AUROC", format_number(whole["auroc"]), "chance 0.5"),
    ]
    if verdict["random"]:
        pairs = [one["pair"] for one in verdict["random"]]
        text = f"{100 * np.mean(pairs):.1f}%"
        cards.append((f"{len(pairs)} random models", text, f"best {100 * max(pairs):.1f}%"))
    parts = [_head(verdict, cards), _properties(verdict), _how_pairs(verdict), _left_out(verdict)]
    parts += [_case(*one) for one in shown]
    return _whole(verdict, parts)


def rollouts_report(verdict: dict[str, Any]) -> str:
    """A self-contained page about one model's rollouts on one set of clips."""
    cards = [
        (
            f"skill over {rule}",
            format_number(verdict["overall"][f"skill_over_{rule}"]),
            "0: no better",
        )
        for rule in ("copy", "linear")
    ]
    if verdict["random"]:
        skills = [one["skill_over_copy"] for one in verdict["random"]]
        text = f"{np.mean(skills):.3f}"
        cards.append((f"{len(skills)} random models, over copy", text, f"best {max(skills):.3f}"))
    parts = [
        _head(verdict, cards),
        rollout_section(verdict["rollout"], verdict["moment_s"]),
        _probe(verdict),
    ]
    return _whole(verdict, [*parts, _how_rolls(verdict), _left_out(verdict)])


def _whole(verdict: dict[str, Any], parts: Sequence[str]) -> str:
    return html_document(f"{_TITLES[verdict['benchmark']]}: {verdict['model']}", parts)


def _head(verdict: dict[str, Any], cards: Sequence[tuple[str, str, str]]) -> str:
    shown = "".join(
        f"<div><div class='dim'>{html.escape(name)}</div><div class='big'>{value}</div>"
        f"<div class='dim'>{html.escape(note)}</div></div>"
        for name, value, note in cards
    )
    counts = verdict["counts"]
    left = f"{counts['left_out']} left out" if counts["left_out"] else "none left out"
    return (
        f"<h1>{_TITLES[verdict['benchmark']]}</h1><div class='dim'>"
        f"<code>{html.escape(verdict['model'])}</code>, {counts['scored']} scenes scored, {left},"
        f" protocol <code>{verdict['protocol']}</code></div><div class='cards'>{shown}</div>"
    )


def _properties(verdict: dict[str, Any]) -> str:
    head = ["property", "scenes", "pairs right", "any of a scene", "p (Holm)", "AUROC",
            "random: pairs, best"]  # fmt: skip
    rows = []
    for name, row in verdict["properties"].items():
        clear = row["pair"]["low"] > 0.5 and row["p"] < 1 - verdict["confidence"]
        random = row["random"]
        rows.append(
            [
                html.escape(name),
                str(row["scenes"]),
                f"<span class='{'good' if clear else ''}'>{format_share(row['pair'])}</span>",
                format_share(row["all"]),
                f"{row['p']:.3f}",
                format_number(row["auroc"]),
                f"{100 * random['pair']:.0f}%, {100 * random['best_pair']:.0f}%" if random else "",
            ]
        )
    level = f"{100 * verdict['confidence']:.0f}%"
    return (
        f"<h2>By property</h2>{table(head, rows)}"
        f"<p class='dim'>Intervals: {level}, bootstrap over scenes. Green: pairs clearly above"
        " chance, after Holm's correction for the number of properties.</p>"
    )


def _how_pairs(verdict: dict[str, Any]) -> str:
    look = verdict["look"]
    return (
        "<h2>How it was measured</h2><p>A pair is right when the possible video surprises less"
        " than the impossible one that belongs to it. The model saw"
        f" <b>{look['context']} frames</b> of each window (mask token"
        f" {look['mask']}){autoregressive_note(look)}, and the"
        f" <b>{look['aggregate']}</b> over windows was taken: chosen on"
        f" {html.escape(verdict['chosen_on'])}.</p>"
    )


def _how_rolls(verdict: dict[str, Any]) -> str:
    look = verdict["look"]
    return (
        f"<h2>How it was measured</h2><p>The model saw <b>{look['context']} frames</b> of each"
        f" clip and predicted the others (mask token {look['mask']}): chosen on"
        f" {html.escape(verdict['chosen_on'])}.</p>"
    )


def _probe(verdict: dict[str, Any]) -> str:
    if not verdict["probe"]:
        return ""
    rows = [
        [arm, *("" if value is None else f"{value:.2f}" for value in found.values())]
        for arm, found in verdict["probe"].items()
    ]
    return (
        "<h2>What can be read off the features</h2><p class='dim'>R² of a ridge probe, fitted on"
        " what the view was chosen on: mean location and velocity of the objects in view, and how"
        " many there are; empty where it does not vary.</p>"
        f"{table(['', *verdict['probe']['model']], rows)}"
    )


def _left_out(verdict: dict[str, Any]) -> str:
    if not verdict["left_out"]:
        return ""
    rows = [[html.escape(one["scene"]), html.escape(one["reason"])] for one in verdict["left_out"]]
    return f"<h2>Left out</h2>{table(['scene', 'reason'], rows)}"


def _case(label: str, name: str, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> str:
    top = max(float(np.nanmax(curves)) for _, curves in pairs)
    low = min(float(np.nanmin(curves)) for _, curves in pairs)
    rows = []
    for videos, curves in pairs:
        apart = (videos[0] != videos[1]).any((1, 2, 3))
        first = int(apart.argmax()) if apart.any() else len(apart)
        for video, values, kind, mark in zip(
            videos, curves, ("possible", "impossible"), ("good", "bad"), strict=True
        ):
            rows.append(
                f"<div class='cell'><div><span class='{mark}'>{kind}</span></div>"
                f"<div>{plots.filmstrip(video)}"
                f"{plots.surprise_curve(values, low, top, first)}</div></div>"
            )
    return (
        f"<h2>{html.escape(label)}</h2><div class='quad'><span class='dim'>{html.escape(name)};"
        " dashed: the first frame in which a pair's videos differ, if they begin alike;"
        f" {curve_range_note(low, top)}</span>"
        f"{''.join(rows)}</div>"
    )
