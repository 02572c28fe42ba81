"""The report as one HTML file that needs nothing else: tables, plots, filmstrips, curves."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from orchestrator.evaluation.evaluable import Evaluable
from orchestrator.evaluation.suite.measure import SuiteRawResults
from orchestrator.evaluation.suite.predicted_frames import predicted_frames
from orchestrator.physics.suite.baselines import LEGITIMATE_CUES
from orchestrator.physics.suite.quads import Quad
from orchestrator.report import plots
from orchestrator.report.html_page import (
    autoregressive_note,
    curve_range_note,
    format_points,
    format_seconds,
    format_share,
    html_document,
    rollout_section,
    table,
)
from orchestrator.report.statistics import quad_correct

_CELLS = ("context a, outcome a", "context a, outcome b", "context b, outcome a",
          "context b, outcome b")  # fmt: skip


def suite_report(
    verdict: dict[str, Any], findings: SuiteRawResults, split: str, model: Evaluable | None = None
) -> str:
    """A self-contained page about one model on one suite; with the model at hand, what it expected
    is shown where that can be seen."""
    parts = [
        _head(verdict),
        _table(verdict),
        _champion(verdict),
        _tiers(verdict),
        _protocol_section(verdict),
        _probe(verdict),
        rollout_section(verdict["rollout"], verdict["shown"]["tubelet"] / verdict["shown"]["fps"]),
        "<h2>Case by case</h2><p class='dim'>Of each scenario the quadruplet whose impossible"
        " videos surprise the model most beyond the possible ones, and the one where they do"
        " least. Beneath each video of"
        f" {verdict['shown']['frames'] / verdict['shown']['fps']:g} s: surprise (L1) by frame,"
        " where a frame is predicted; dashed: where the outcomes part. A second strip, where there"
        " is one: what the model expected to see; grey where it was not asked.</p>",
    ]
    parts += [_case_section(name, findings, split, model) for name in findings.model]
    return html_document(f"Physics: {verdict['model']}", parts)


_HEALTH = {"rankme": "RankMe", "feature_std": "standard deviation", "lidar": "LiDAR"}


def _head(verdict: dict[str, Any]) -> str:
    whole, gains = verdict["overall"], verdict["gains"]["quad"]
    cards = [
        ("quadruplets right", format_share(whole["quad"]), "chance 25%"),
        ("pairs right", format_share(whole["pair"]), "chance 50%"),
    ]
    if verdict["random"]:
        quads = [one["quad"] for one in verdict["random"]]
        note = f"they: {100 * np.mean(quads):.1f}%, best {100 * max(quads):.1f}%"
        cards.append(
            (f"over {len(quads)} random models", format_points(gains["over_random"]), note)
        )
    best = verdict["baseline"]
    note = f"{best['name']}: {100 * best['quad']:.1f}%"
    cards.append(("over the best trivial rule", format_points(gains["over_baseline"]), note))
    health = ", ".join(f"{_HEALTH[name]} {value:.3g}" for name, value in verdict["health"].items())
    shown = "".join(
        f"<div><div class='dim'>{html.escape(name)}</div><div class='big'>{value}</div>"
        f"<div class='dim'>{html.escape(note)}</div></div>"
        for name, value, note in cards
    )
    return (
        f"<h1>Does it understand the world?</h1><div class='dim'>"
        f"<code>{html.escape(verdict['model'])}</code> on split <code>{verdict['split']}</code>,"
        f" protocol <code>{verdict['protocol']}</code></div>"
        f"<div class='cards'>{shown}</div><p class='dim'>Features: {health}</p>"
    )


def _table(verdict: dict[str, Any]) -> str:
    rows = []
    for name, row in verdict["scenarios"].items():
        clear = row["pair"]["low"] > 0.5 and row["p"] < 1 - verdict["confidence"]
        random, base, where = row["random"], row["baseline"], row["localisation"]
        rows.append(
            [
                html.escape(name),
                format_share(row["quad"]),
                f"<span class='{'good' if clear else ''}'>{format_share(row['pair'])}</span>",
                f"{row['p']:.3f}",
                f"{row['auroc']:.2f}",
                format_seconds(where["seconds"])
                + f" <span class='dim'>({where['chance_s']:.2f})</span>",
                f"{100 * random['quad']:.0f}%, {100 * random['pair']:.0f}%" if random else "",
                f"{_baseline_label(name, base['name'])}: {100 * base['quad']:.0f}%,"
                f" {100 * base['pair']:.0f}%",
            ]
        )
    head = ["scenario", "quads right", "pairs right", "p (Holm)", "AUROC", "moment off by",
            "random: quads, pairs", "best trivial rule"]  # fmt: skip
    level = f"{100 * verdict['confidence']:.0f}%"
    return (
        f"<h2>By scenario</h2>{table(head, rows)}"
        f"<p class='dim'>Intervals: {level}, bootstrap over quadruplets. Green: pairs clearly above"
        " chance (50%; quads 25%), after Holm's correction for the number of scenarios. Moment:"
        " where an impossible outcome surprises most beyond the possible one, against where they"
        " part; in brackets a moment drawn at random.</p>"
        f"<p class='dim'>{_BASELINE_EXPLANATION}"
        f"{_legitimate_cue_notes(list(verdict['scenarios']))}</p>"
    )


_BASELINE_EXPLANATION = (
    "Trivial rules look at pixels only. copy: nothing changes any more; linear: every pixel goes"
    " on as before; centroid: what moves goes on with its velocity and acceleration; random_conv:"
    " copy, seen through random convolutions; difference: the less changes, the better;"
    " jump (below): the largest change stands out."
)


def _baseline_label(scenario: str, rule: str) -> str:
    """A rule's name, marked where what it uses is what the scenario asks for."""
    return f"{rule}*" if (scenario, rule) in LEGITIMATE_CUES else rule


def _legitimate_cue_notes(scenarios: Sequence[str]) -> str:
    """Why a marked rule may be above chance."""
    return "".join(
        f" * In {html.escape(scenario)} {rule} is no cheat: {html.escape(why)}."
        for (scenario, rule), why in LEGITIMATE_CUES.items()
        if scenario in scenarios
    )


def _champion(verdict: dict[str, Any]) -> str:
    """The champion of the same name, where its numbers can be compared."""
    champion = verdict.get("champion")
    if champion is None:
        return ""
    title = f"<h2>Beside the champion, version {champion['version']}</h2>"
    if champion["judged"]:
        return f"{title}<p>The judged version is the champion.</p>"
    if champion["protocol"] is None:
        return f"{title}<p>It was never evaluated, so there is nothing to compare with.</p>"
    if "overall" not in champion:
        return (
            f"{title}<p>It was judged by protocol <code>{champion['protocol']}</code>, this one by"
            f" <code>{verdict['protocol']}</code>: the numbers cannot be compared. Evaluate both"
            " with the same job file.</p>"
        )
    rows = [
        [
            html.escape(name),
            *(format_share(row[kind]) for kind in ("quad", "pair") for row in (mine, theirs)),
        ]
        for name, mine, theirs in [
            *((n, row, champion["scenarios"][n]) for n, row in verdict["scenarios"].items()),
            ("all", verdict["overall"], champion["overall"]),
        ]
    ]
    between = champion["difference"]
    better = "beats" if between["low"] > 0 else "does not clearly beat"
    head = ["scenario", "quads: this one", "champion", "pairs: this one", "champion"]
    return (
        f"{title}<p>This one {better} it: quads right {format_points(between)}, on the same"
        f" quadruplets.</p>{table(head, rows, last='all')}"
    )


_TIERS = {
    "sanity": (
        "Sanity: what nobody could miss",
        "sets of videos",
        "A thing vanishes, jumps or changes colour in full view. Right: it surprises more than a"
        " bounce, a collision, a launch or a thing that goes behind a screen.",
    ),
    "arrow": (
        "The arrow of time",
        "pairs of videos",
        "A possible video against its reverse; both ask for the same frames. Right: the reverse"
        " surprises more.",
    ),
}


def _tiers(verdict: dict[str, Any]) -> str:
    parts = []
    for tier, (title, shown, text) in _TIERS.items():
        rows = [
            [
                html.escape(name),
                str(row["count"]),
                format_share(row["share"]),
                "" if row["random"] is None else f"{100 * row['random']:.0f}%",
                f"{row['baseline']['name']}: {100 * row['baseline']['share']:.0f}%",
            ]
            for name, row in verdict.get(tier, {}).items()
        ]
        if rows:
            head = [tier, shown, "right", "random models", "best trivial rule"]
            parts.append(
                f"<h2>{title}</h2><p class='dim'>{text} Chance 50%; no part of the headline.</p>"
                + table(head, rows)
            )
    return "".join(parts)


def _protocol_section(verdict: dict[str, Any]) -> str:
    look, shown = verdict["look"], verdict["shown"]
    keys = {"context": "frames seen", "mask": "mask token", "horizon": "moments ahead",
            "aggregate": "aggregate"}  # fmt: skip
    if not any(one["horizon"] for one in verdict["chosen_from"]):
        del keys["horizon"]  # the model predicts all that follows at once
    rows = [
        [str(one[key]) for key in keys] + [f"{100 * one['quad']:.1f}%"]
        for one in verdict["chosen_from"]
    ]
    windows = ", ".join(map(str, shown["windows_at"]))
    return (
        "<h2>How it was measured</h2><p>Each quadruplet has two contexts and two outcomes; the"
        " matching cells are possible. A pair is right when the possible video surprises less than"
        " an impossible one; a quadruplet, when each outcome surprises less after its own context."
        f" The model saw <b>{look['context']} frames</b> of each window (mask token"
        f" {look['mask']}){autoregressive_note(look)}, and of its errors the"
        f" <b>{look['aggregate']}</b> was taken (mean: of all; max: of the worst window): chosen on"
        " the validation split, among</p>"
        + table([*keys.values(), "quads right there"], rows)
        + f"<p>Protocol <code>{verdict['protocol']}</code>: suite version {shown['suite']}, split"
        f" {verdict['split']}, seed {shown['seed']}, {shown['frames']} frames of {shown['size']} px"
        f" at {shown['fps']:g} a second, windows of {shown['window']} frames from {windows}."
        " Numbers of another hash cannot be compared with these.</p>"
    )


def _probe(verdict: dict[str, Any]) -> str:
    targets = verdict["probe"]["model"]
    groups = {
        target: {arm: found[target] for arm, found in verdict["probe"].items()}
        for target in targets
    }
    return (
        "<h2>What can be read off the features</h2><p class='dim'>R² of a ridge probe: position"
        " and velocity of the scenario's object, fitted on the validation split, scored on this"
        f" one; bars end at -0.5.</p>{plots.bar_chart(groups, -0.5, 1.0, 'R²')}"
    )


def _case_section(name: str, findings: SuiteRawResults, split: str, model: Evaluable | None) -> str:
    """A scenario's clearest and its worst quadruplet."""
    seen, look = findings.model[name], findings.scoring_rule
    scores = seen.scores[look]
    # By how much the impossible cells surprise more, in units of the quad's own spread.
    spread = scores.std((1, 2)) + 1e-9
    margin = (scores[:, 0, 1] + scores[:, 1, 0] - scores[:, 0, 0] - scores[:, 1, 1]) / spread
    right = quad_correct(scores)
    parts = [f"<h2>{html.escape(name)}</h2>"]
    for label, number in {"clearest": int(margin.argmax()), "worst": int(margin.argmin())}.items():
        quad = findings.protocol.make_quad(split, name, number)
        said = "right" if right[number] == 1 else "wrong"
        curves = seen.curves[look.context_spec][number]
        expected = {
            (i, j): predicted_frames(model, quad.videos[i, j], look.context_spec)
            for i, j in np.ndindex(2, 2)
            if model is not None
        }
        low, top = float(np.nanmin(curves)), float(np.nanmax(curves))
        parts.append(
            f"<div class='quad'><b>{label}</b> <span class='dim'>quadruplet {number}, {said};"
            f" {curve_range_note(low, top)}</span>{_cells(quad, curves, low, top, expected)}</div>"
        )
    return "".join(parts)


def _cells(
    quad: Quad,
    curves: np.ndarray,
    low: float,
    top: float,
    expected: dict[tuple[int, int], np.ndarray | None],
) -> str:
    rows = []
    for i in range(2):
        for j in range(2):
            kind, mark = ("possible", "good") if i == j else ("impossible", "bad")
            video = quad.videos[i, j]
            moving = "" if i == j else f"<div class='gif'>{plots.gif(video)}</div>"
            pictures = expected.get((i, j))
            below = "" if pictures is None else plots.filmstrip(pictures)
            rows.append(
                f"<div class='cell'><div>{_CELLS[2 * i + j]}<br><span class='{mark}'>{kind}</span>"
                f"{moving}</div><div>{plots.filmstrip(video)}"
                f"{below}{plots.surprise_curve(curves[i, j], low, top, quad.break_frame)}"
                "</div></div>"
            )
    return "".join(rows)
