"""The report as one HTML file that needs nothing else: tables, filmstrips, curves."""

from __future__ import annotations

import base64
import html
import io
from typing import Any

import numpy as np
from PIL import Image

from orchestrator.evaluation.judge import Findings
from orchestrator.evaluation.metrics import quad_right
from orchestrator.physics.suite import Quad

STRIP_FRAMES = 12
GIF_FRAME_MS = 125
_CELLS = ("context a, outcome a", "context a, outcome b", "context b, outcome a",
          "context b, outcome b")  # fmt: skip

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2rem auto;padding:0 1rem}
body{color:#1c2430}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{margin-top:2.4rem;border-bottom:1px solid #d8dee6}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
td,th{padding:.3rem .6rem;text-align:right;white-space:nowrap;border-bottom:1px solid #e6eaef}
td:first-child,th:first-child{text-align:left}th{font-weight:600;color:#4a5768}
.big{font-size:2.2rem;font-weight:650}.dim{color:#6a7686}.good{color:#0a7a3b}.bad{color:#b3261e}
.cards{display:flex;gap:2.5rem;flex-wrap:wrap;margin:1rem 0}.quad{margin:1.2rem 0}
.cell{display:grid;grid-template-columns:190px 1fr;gap:.3rem .8rem;align-items:center}
.cell{margin:.35rem 0}
.cell img{image-rendering:pixelated;width:100%}svg{width:100%;height:46px;background:#f6f8fa}
code{background:#f2f4f7;padding:.1rem .3rem}
"""


def report(verdict: dict[str, Any], findings: Findings, split: str) -> str:
    """A self-contained page about one model on one suite."""
    parts = [_head(verdict), _table(verdict), _how(verdict), _probe(verdict), _rollout(verdict)]
    parts += [_cases(name, verdict, findings, split) for name in findings.model]
    title = html.escape(f"Physics: {verdict['model']}")
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>"
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>"
    )


def _head(verdict: dict[str, Any]) -> str:
    whole, random = verdict["overall"], verdict["random"]
    cards = [
        ("quadruplets right", _share(whole["quad"]), "chance 25%"),
        ("pairs right", _share(whole["pair"]), "chance 50%"),
    ]
    if random:
        quads = [one["quad"] for one in random]
        text = f"{100 * np.mean(quads):.1f}%"
        cards.append((f"{len(random)} random models", text, f"best {100 * max(quads):.1f}%"))
    best = verdict["baseline"]
    cards.append(("best trivial rule", f"{100 * best['quad']:.1f}%", best["name"]))
    health = verdict["health"]
    rows = ", ".join(f"{name} {value:.3g}" for name, value in health.items())
    shown = "".join(
        f"<div><div class='dim'>{html.escape(name)}</div><div class='big'>{value}</div>"
        f"<div class='dim'>{html.escape(note)}</div></div>"
        for name, value, note in cards
    )
    return (
        f"<h1>Does it understand the world?</h1><div class='dim'>"
        f"<code>{html.escape(verdict['model'])}</code> on split <code>{verdict['split']}</code>,"
        f" protocol <code>{verdict['protocol']}</code></div>"
        f"<div class='cards'>{shown}</div><p class='dim'>{rows}</p>"
    )


def _table(verdict: dict[str, Any]) -> str:
    head = ["scenario", "quads right", "pairs right", "p (Holm)", "AUROC", "moment off by",
            "random: quads, pairs", "best trivial rule"]  # fmt: skip
    rows = []
    for name, row in verdict["scenarios"].items():
        clear = row["pair"]["low"] > 0.5 and row["p"] < 1 - verdict["confidence"]
        random, base = row["random"], row["baseline"]
        cells = [
            html.escape(name),
            _share(row["quad"]),
            f"<span class='{'good' if clear else 'bad'}'>{_share(row['pair'])}</span>",
            f"{row['p']:.3f}",
            f"{row['auroc']:.2f}",
            f"{row['localisation_s']:.2f} s",
            f"{100 * random['quad']:.0f}%, {100 * random['pair']:.0f}%" if random else "",
            f"{base['name']}: {100 * base['quad']:.0f}%, {100 * base['pair']:.0f}%",
        ]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    titles = "".join(f"<th>{title}</th>" for title in head)
    level = f"{100 * verdict['confidence']:.0f}%"
    return (
        f"<h2>By scenario</h2><table><tr>{titles}</tr>{''.join(rows)}</table>"
        f"<p class='dim'>Intervals: {level}, bootstrap over quadruplets. Green: pairs clearly above"
        " chance, after Holm's correction for the number of scenarios.</p>"
    )


def _how(verdict: dict[str, Any]) -> str:
    look = verdict["look"]
    return (
        "<h2>How it was measured</h2><p>Each quadruplet has two contexts and two outcomes; the"
        " matching cells are possible. A pair is right when the possible video surprises less than"
        " an impossible one; a quadruplet, when each outcome surprises less after its own context."
        f" The model saw <b>{look['context']} frames</b> of each window (mask token"
        f" {look['mask']}) and the <b>{look['aggregate']}</b> over windows was taken: chosen on the"
        " validation split.</p>"
    )


def _probe(verdict: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{arm}</td>{''.join(f'<td>{value:.2f}</td>' for value in found.values())}</tr>"
        for arm, found in verdict["probe"].items()
    )
    titles = "".join(f"<th>{name}</th>" for name in verdict["probe"]["model"])
    return (
        "<h2>What can be read off the features</h2><p class='dim'>R² of a ridge probe: position"
        " and velocity of the scenario's object, fitted on the validation split, scored on this"
        f" one.</p><table><tr><th></th>{titles}</tr>{rows}</table>"
    )


def _rollout(verdict: dict[str, Any]) -> str:
    rows = []
    for row in verdict["rollout"]:
        same, cross = row["same_clip"], row["cross_clip"]
        cells = [
            str(row["tubelets_ahead"]),
            f"{row['error']['model']:.3f}",
            _share(row["skill"]["copy"]),
            _share(row["skill"]["linear"]),
            f"{100 * same['@1']:.0f}% <span class='dim'>({100 * same['chance@1']:.0f}%)</span>",
            f"{100 * cross['@1']:.0f}% <span class='dim'>({100 * cross['chance@1']:.1f}%)</span>",
        ]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = ["tubelets ahead", "error", "skill over copy", "skill over linear",
            "found among own moments", "found among other clips"]  # fmt: skip
    titles = "".join(f"<th>{title}</th>" for title in head)
    return (
        "<h2>How far ahead it sees</h2><p class='dim'>Features of the future predicted from the"
        " context, against repeating the last seen ones and extrapolating them. Skill is 1 -"
        " error / their error; below 0 the rule is better. In brackets: chance.</p>"
        f"<table><tr>{titles}</tr>{''.join(rows)}</table>"
    )


def _cases(name: str, verdict: dict[str, Any], findings: Findings, split: str) -> str:
    """A scenario's clearest and its worst quadruplet."""
    seen, look = findings.model[name], findings.look
    scores = seen.scores[look]
    # By how much the impossible cells surprise more, in units of the quad's own spread.
    spread = scores.std((1, 2)) + 1e-9
    margin = (scores[:, 0, 1] + scores[:, 1, 0] - scores[:, 0, 0] - scores[:, 1, 1]) / spread
    numbers = {"clearest": int(margin.argmax()), "worst": int(margin.argmin())}
    right = quad_right(scores)
    parts = [f"<h2>{html.escape(name)}</h2>"]
    for label, number in numbers.items():
        quad = findings.protocol.quad(split, name, number)
        said = "right" if right[number] == 1 else "wrong"
        parts.append(
            f"<div class='quad'><b>{label}</b> <span class='dim'>quadruplet {number}, {said}</span>"
            f"{_cells(quad, seen.curves[look.view][number], label == 'worst')}</div>"
        )
    return "".join(parts)


def _cells(quad: Quad, curves: np.ndarray, moving: bool) -> str:
    top = float(np.nanmax(curves)) or 1.0
    low = float(np.nanmin(curves))
    rows = []
    for i in range(2):
        for j in range(2):
            kind = "possible" if i == j else "impossible"
            mark = "good" if i == j else "bad"
            picture = _gif(quad.videos[i, j]) if moving and i != j else ""
            rows.append(
                f"<div class='cell'><div>{_CELLS[2 * i + j]}<br><span class='{mark}'>{kind}</span>"
                f"{picture}</div><div>{_strip(quad.videos[i, j])}"
                f"{_plot(curves[i, j], low, top, quad.t_break)}</div></div>"
            )
    return "".join(rows)


def _strip(video: np.ndarray) -> str:
    """Frames side by side, from uint8 [T, S, S, 3]."""
    at = np.linspace(0, len(video) - 1, STRIP_FRAMES).round().astype(int)
    return _image([Image.fromarray(np.concatenate(list(video[at]), axis=1))], "PNG")


def _gif(video: np.ndarray) -> str:
    frames = [Image.fromarray(frame) for frame in video]
    return f"<div style='width:96px'>{_image(frames, 'GIF')}</div>"


def _image(frames: list[Image.Image], kind: str) -> str:
    stream = io.BytesIO()
    options: dict[str, Any] = {}
    if kind == "GIF":
        options = {
            "save_all": True,
            "append_images": frames[1:],
            "duration": GIF_FRAME_MS,
            "loop": 0,
        }
    frames[0].save(stream, kind, **options)
    data = base64.b64encode(stream.getvalue()).decode()
    return f"<img alt='' src='data:image/{kind.lower()};base64,{data}'>"


def _plot(values: np.ndarray, low: float, top: float, t_break: int) -> str:
    """Surprise by frame, with the moment at which the outcomes part."""
    count, scale = len(values), 40 / max(top - low, 1e-9)
    points = " ".join(
        f"{1000 * (i + 0.5) / count:.0f},{43 - (value - low) * scale:.1f}"
        for i, value in enumerate(values)
        if not np.isnan(value)
    )
    x = 1000 * t_break / count
    return (
        "<svg viewBox='0 0 1000 46' preserveAspectRatio='none'>"
        f"<line x1='{x:.0f}' x2='{x:.0f}' y1='0' y2='46' stroke='#b3261e' stroke-dasharray='4'/>"
        f"<polyline points='{points}' fill='none' stroke='#2f6fdb' stroke-width='2'"
        " vector-effect='non-scaling-stroke'/></svg>"
    )


def _share(value: dict[str, float]) -> str:
    return (
        f"{100 * value['value']:.1f}% <span class='dim'>[{100 * value['low']:.0f},"
        f" {100 * value['high']:.0f}]</span>"
    )
