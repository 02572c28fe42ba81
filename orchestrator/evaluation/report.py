"""The report as one HTML file that needs nothing else: tables, plots, filmstrips, curves."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from orchestrator.evaluation import plots
from orchestrator.evaluation.judge import Findings
from orchestrator.evaluation.metrics import quad_right
from orchestrator.physics.suite import Quad

_CELLS = ("context a, outcome a", "context a, outcome b", "context b, outcome a",
          "context b, outcome b")  # fmt: skip

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1120px;margin:2rem auto;padding:0 1rem}
body{color:#1c2430}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{margin-top:2.4rem;border-bottom:1px solid #d8dee6}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums}
td,th{padding:.3rem .55rem;text-align:right;white-space:nowrap;border-bottom:1px solid #e6eaef}
td:first-child,th:first-child{text-align:left}th{font-weight:600;color:#4a5768}
tr:last-child.all td{border-top:2px solid #d8dee6;font-weight:600}
.big{font-size:2rem;font-weight:650}.big .dim{font-size:1rem;font-weight:400}
.dim{color:#6a7686}.good{color:#0a7a3b}.bad{color:#b3261e}
.cards{display:flex;gap:2.5rem;flex-wrap:wrap;margin:1rem 0}.quad{margin:1.2rem 0}
.side{display:flex;gap:3rem;flex-wrap:wrap;align-items:flex-start}
.cell{display:grid;grid-template-columns:190px 1fr;gap:.3rem .8rem;align-items:center}
.cell{margin:.35rem 0}.cell img{image-rendering:pixelated;width:100%;display:block}
.cell .gif{width:96px}svg text{font-size:11px;fill:#4a5768}
svg.curve{width:100%;height:46px;background:#f6f8fa;display:block}
.legend span{margin-right:1rem;font-size:.85rem}
.legend i{display:inline-block;width:.7rem;height:.7rem;margin-right:.3rem}
code{background:#f2f4f7;padding:.1rem .3rem}
"""


def report(verdict: dict[str, Any], findings: Findings, split: str) -> str:
    """A self-contained page about one model on one suite."""
    parts = [
        _head(verdict),
        _table(verdict),
        _champion(verdict),
        _tiers(verdict),
        _how(verdict),
        _probe(verdict),
        _rollout(verdict),
        "<h2>Case by case</h2><p class='dim'>Of each scenario the quadruplet whose impossible"
        " videos surprise the model most beyond the possible ones, and the one where they do"
        " least. Beneath each video: surprise by frame, where a frame is predicted; dashed: where"
        " the outcomes part.</p>",
    ]
    parts += [_cases(name, findings, split) for name in findings.model]
    title = html.escape(f"Physics: {verdict['model']}")
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>"
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>"
    )


def _head(verdict: dict[str, Any]) -> str:
    whole, gains = verdict["overall"], verdict["gains"]["quad"]
    cards = [
        ("quadruplets right", _share(whole["quad"]), "chance 25%"),
        ("pairs right", _share(whole["pair"]), "chance 50%"),
    ]
    if verdict["random"]:
        quads = [one["quad"] for one in verdict["random"]]
        note = f"they: {100 * np.mean(quads):.1f}%, best {100 * max(quads):.1f}%"
        cards.append((f"over {len(quads)} random models", _points(gains["over_random"]), note))
    best = verdict["baseline"]
    note = f"{best['name']}: {100 * best['quad']:.1f}%"
    cards.append(("over the best trivial rule", _points(gains["over_baseline"]), note))
    health = ", ".join(f"{name} {value:.3g}" for name, value in verdict["health"].items())
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
                _share(row["quad"]),
                f"<span class='{'good' if clear else ''}'>{_share(row['pair'])}</span>",
                f"{row['p']:.3f}",
                f"{row['auroc']:.2f}",
                _seconds(where["seconds"]) + f" <span class='dim'>({where['chance_s']:.2f})</span>",
                f"{100 * random['quad']:.0f}%, {100 * random['pair']:.0f}%" if random else "",
                f"{base['name']}: {100 * base['quad']:.0f}%, {100 * base['pair']:.0f}%",
            ]
        )
    head = ["scenario", "quads right", "pairs right", "p (Holm)", "AUROC", "moment off by",
            "random: quads, pairs", "best trivial rule"]  # fmt: skip
    level = f"{100 * verdict['confidence']:.0f}%"
    return (
        f"<h2>By scenario</h2>{_rows(head, rows)}"
        f"<p class='dim'>Intervals: {level}, bootstrap over quadruplets. Green: pairs clearly above"
        " chance (50%; quads 25%), after Holm's correction for the number of scenarios. Moment:"
        " where an impossible outcome surprises most beyond the possible one, against where they"
        " part; in brackets a moment drawn at random.</p>"
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
            *(_share(row[kind]) for kind in ("quad", "pair") for row in (mine, theirs)),
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
        f"{title}<p>This one {better} it: quads right {_points(between)}, on the same"
        f" quadruplets.</p>{_rows(head, rows, last='all')}"
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
                _share(row["share"]),
                "" if row["random"] is None else f"{100 * row['random']:.0f}%",
                f"{row['baseline']['name']}: {100 * row['baseline']['share']:.0f}%",
            ]
            for name, row in verdict.get(tier, {}).items()
        ]
        if rows:
            head = [tier, shown, "right", "random models", "best trivial rule"]
            parts.append(
                f"<h2>{title}</h2><p class='dim'>{text} Chance 50%; no part of the headline.</p>"
                + _rows(head, rows)
            )
    return "".join(parts)


def _how(verdict: dict[str, Any]) -> str:
    look, shown = verdict["look"], verdict["shown"]
    rows = [
        [str(one[key]) for key in ("context", "mask", "horizon", "aggregate")]
        + [f"{100 * one['quad']:.1f}%"]
        for one in verdict["chosen_from"]
    ]
    windows = ", ".join(map(str, shown["windows_at"]))
    return (
        "<h2>How it was measured</h2><p>Each quadruplet has two contexts and two outcomes; the"
        " matching cells are possible. A pair is right when the possible video surprises less than"
        " an impossible one; a quadruplet, when each outcome surprises less after its own context."
        f" The model saw <b>{look['context']} frames</b> of each window (mask token"
        f" {look['mask']}){_growing(look)}, and of its errors the <b>{look['aggregate']}</b> was"
        " taken (mean: of all; max: of the worst window): chosen on the validation split,"
        " among</p>"
        + _rows(["frames seen", "mask token", "ahead", "aggregate", "quads right there"], rows)
        + f"<p>Protocol <code>{verdict['protocol']}</code>: suite version {shown['suite']}, split"
        f" {verdict['split']}, seed {shown['seed']}, {shown['frames']} frames of {shown['size']} px"
        f" at {shown['fps']:g} a second, windows of {shown['window']} frames from {windows}."
        " Numbers of another hash cannot be compared with these.</p>"
    )


def _growing(look: dict[str, Any]) -> str:
    """How a model that reads time forwards looked."""
    if not look["horizon"]:
        return ""
    return f", then every moment up to {look['horizon']} before the one that it predicted"


def _probe(verdict: dict[str, Any]) -> str:
    targets = verdict["probe"]["model"]
    groups = {
        target: {arm: found[target] for arm, found in verdict["probe"].items()}
        for target in targets
    }
    return (
        "<h2>What can be read off the features</h2><p class='dim'>R² of a ridge probe: position"
        " and velocity of the scenario's object, fitted on the validation split, scored on this"
        f" one; bars end at -0.5.</p>{plots.bars(groups, -0.5, 1.0)}"
    )


def _rollout(verdict: dict[str, Any]) -> str:
    rows = []
    for row in verdict["rollout"]:
        same, cross = row["same_clip"], row["cross_clip"]
        rows.append(
            [
                str(row["tubelets_ahead"]),
                f"{row['error']['model']:.3f}",
                _share(row["skill"]["copy"]),
                _share(row["skill"]["linear"]),
                f"{100 * same['@1']:.0f}% <span class='dim'>({100 * same['chance@1']:.0f}%)</span>",
                f"{100 * cross['@1']:.0f}%"
                f" <span class='dim'>({100 * cross['chance@1']:.1f}%)</span>",
            ]
        )
    head = ["tubelets ahead", "error", "skill over copy", "skill over linear",
            "found among own moments", "found among other clips"]  # fmt: skip
    skills = {
        f"over {rule}": [row["skill"][rule] for row in verdict["rollout"]]
        for rule in ("copy", "linear")
    }
    ticks = [str(row["tubelets_ahead"]) for row in verdict["rollout"]]
    return (
        "<h2>How far ahead it sees</h2><p class='dim'>Features of the future predicted from the"
        " context, against repeating the last seen ones and extrapolating them. Skill is 1 -"
        " error / their error; below 0 the rule is better. In brackets: chance. Plot: skill by"
        " tubelets ahead, cut off at -1.</p><div class='side'>"
        f"<div>{plots.lines(skills, ticks, -1.0, 1.0)}</div><div>{_rows(head, rows)}</div></div>"
    )


def _cases(name: str, findings: Findings, split: str) -> str:
    """A scenario's clearest and its worst quadruplet."""
    seen, look = findings.model[name], findings.look
    scores = seen.scores[look]
    # By how much the impossible cells surprise more, in units of the quad's own spread.
    spread = scores.std((1, 2)) + 1e-9
    margin = (scores[:, 0, 1] + scores[:, 1, 0] - scores[:, 0, 0] - scores[:, 1, 1]) / spread
    right = quad_right(scores)
    parts = [f"<h2>{html.escape(name)}</h2>"]
    for label, number in {"clearest": int(margin.argmax()), "worst": int(margin.argmin())}.items():
        quad = findings.protocol.quad(split, name, number)
        said = "right" if right[number] == 1 else "wrong"
        parts.append(
            f"<div class='quad'><b>{label}</b> <span class='dim'>quadruplet {number}, {said}</span>"
            f"{_cells(quad, seen.curves[look.view][number])}</div>"
        )
    return "".join(parts)


def _cells(quad: Quad, curves: np.ndarray) -> str:
    top = float(np.nanmax(curves)) or 1.0
    low = float(np.nanmin(curves))
    rows = []
    for i in range(2):
        for j in range(2):
            kind, mark = ("possible", "good") if i == j else ("impossible", "bad")
            video = quad.videos[i, j]
            moving = "" if i == j else f"<div class='gif'>{plots.gif(video)}</div>"
            rows.append(
                f"<div class='cell'><div>{_CELLS[2 * i + j]}<br><span class='{mark}'>{kind}</span>"
                f"{moving}</div><div>{plots.strip(video)}"
                f"{plots.curve(curves[i, j], low, top, quad.t_break)}</div></div>"
            )
    return "".join(rows)


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]], last: str = "") -> str:
    """A table; `last` is the class of its last row."""
    titles = "".join(f"<th>{title}</th>" for title in head)
    lines = [
        f"<tr class='{last if row is rows[-1] else ''}'>"
        + "".join(f"<td>{cell}</td>" for cell in row)
        + "</tr>"
        for row in rows
    ]
    return f"<table><tr>{titles}</tr>{''.join(lines)}</table>"


def _share(value: dict[str, float]) -> str:
    return (
        f"{100 * value['value']:.1f}% <span class='dim'>[{100 * value['low']:.0f},"
        f" {100 * value['high']:.0f}]</span>"
    )


def _points(value: dict[str, float]) -> str:
    """A difference of shares, in percentage points."""
    return (
        f"{100 * value['value']:+.1f} <span class='dim'>[{100 * value['low']:+.0f},"
        f" {100 * value['high']:+.0f}] points</span>"
    )


def _seconds(value: dict[str, float]) -> str:
    return (
        f"{value['value']:.2f} s <span class='dim'>[{value['low']:.2f}, {value['high']:.2f}]</span>"
    )
