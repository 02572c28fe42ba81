"""Summaries as evaluations make them, with hostile names, for the tests of reports."""

from __future__ import annotations

import random
import re
from types import SimpleNamespace
from typing import Any

import numpy as np

HOSTILE = "run<script>alert('x')</script>&amp;"
"""A name that would break a page which does not escape it."""

_RESOURCE = re.compile(r"""(?:src|href|srcset|poster|data)\s*=\s*["']?(?!["']?(?:data:|\#))""")


def external_references(page: str) -> list[str]:
    """What a page would load from elsewhere: nothing may be left."""
    without_text = re.sub(r">[^<]*<", "><", page)
    found = [without_text[m.start() : m.end() + 30] for m in _RESOURCE.finditer(without_text)]
    found += re.findall(r"@import[^;]*|url\((?!['\"]?(?:data:|#))[^)]*\)", page)
    return found + re.findall(r"<(?:script|link|iframe|object|embed|base)\b[^>]*>", page)


def interval(value: float, width: float = 0.1) -> dict[str, float]:
    return {"value": value, "low": value - width, "high": value + width}


def rollout_rows() -> list[dict[str, Any]]:
    shares = {"@1": 0.31, "chance@1": 0.0625, "@5": 0.62, "chance@5": 1.0}
    return [
        {
            "tubelets_ahead": ahead,
            "error": {"model": 0.411 * ahead, "copy": 0.522, "linear": 0.633},
            "skill": {"copy": interval(0.21 / ahead), "linear": interval(-0.37)},
            "same_clip": shares,
            "cross_clip": shares | {"@1": 0.44},
        }
        for ahead in (1, 2, 3)
    ]


def pairs_summary() -> dict[str, Any]:
    row = {
        "scenes": 17, "pair": interval(0.712), "all": interval(0.655), "p": 0.0123,
        "auroc": interval(0.701), "random": {"pair": 0.48, "best_pair": 0.57},
    }  # fmt: skip
    return {
        "benchmark": "grasp", "model": HOSTILE, "protocol": "feedbeef", "confidence": 0.95,
        "look": {"context": 6, "mask": 1, "horizon": 3, "aggregate": "mean"},
        "chosen_on": "9 scenes of the dev set", "chosen_from": [],
        "overall": {"pair": interval(0.71), "all": interval(0.65), "auroc": interval(0.702)},
        "properties": {"Gravity<b>": row, "Inertia": row | {"random": None}},
        "random": [{"pair": 0.482}, {"pair": 0.532}],
        "counts": {"scored": 34, "chosen_on": 9, "left_out": 1},
        "left_out": [{"scene": "Inertia/004", "reason": "no frames <in> it"}],
    }  # fmt: skip


def videos() -> list[tuple[np.ndarray, np.ndarray]]:
    """Possible and impossible video [2, 16, 32, 32, 3] and their surprise [2, 16]."""
    draw = np.random.default_rng(0)
    videos = np.repeat(draw.integers(0, 255, (1, 16, 32, 32, 3)).astype(np.uint8), 2, axis=0)
    videos[1, 7:, 8:20, 8:20] = 255
    curves = draw.random((2, 16))
    curves[:, :4] = np.nan
    return [(videos, curves)]


def rollouts_summary() -> dict[str, Any]:
    return {
        "benchmark": "clevrer", "model": HOSTILE, "protocol": "feedbeef", "moment_s": 0.25,
        "look": {"context": 6, "mask": 1, "horizon": 0}, "chosen_on": "4 clips",
        "overall": {"skill_over_copy": interval(0.234), "skill_over_linear": interval(0.345)},
        "rollout": rollout_rows(),
        "probe": {"model": {"x": 0.81, "count": None}, "random": {"x": -0.001, "count": None}},
        "random": [{"skill_over_copy": 0.012}, {"skill_over_copy": 0.022}],
        "counts": {"scored": 12, "left_out": 0}, "left_out": [],
    }  # fmt: skip


def probe_summary() -> dict[str, Any]:
    def score(value: float | None, metric: str = "R2") -> dict[str, Any]:
        low, high = (None, None) if value is None else (value - 0.05, value + 0.05)
        cost = [{"validation": 0.123}, {"validation": 4.5}]
        return {
            "metric": metric, "value": value, "low": low, "high": high,
            "chosen": {"penalty": 0.01}, "cost": cost,
        }  # fmt: skip

    def arm(shift: float) -> dict[str, Any]:
        return {
            "scores": {
                "x<i>": score(0.8123 - shift),
                "contact": score(0.6 - shift, "average precision"),
                "vy": score(None),
            }
        }

    facts = {
        "uri": "/storage/features/f", "digest": "d1d1", "model": "m2m2", "model_uri": HOSTILE,
        "data": ["a3a3", "b4b4"], "pooling": "tokens", "dtype": "float32", "clips": 1234,
    }  # fmt: skip
    return {
        "target": "states", "head": "linear", "protocol": "feedbeef", "confidence": 0.9,
        "features": {"model": facts, "random": facts | {"digest": "r5r5"}},
        "split": {
            "train": {"rows": 1111, "videos": 22}, "validation": {"rows": 333, "videos": 4},
            "test": {"rows": 555, "videos": 6},
        },
        "classes": None, "left_out": 7,
        "arms": {"model": arm(0), "random": arm(0.5), "baseline": arm(0.7)},
    }  # fmt: skip


def planning_facts() -> tuple[dict[str, Any], Any]:
    """A summary, and raw results of three tasks whose first and third were reached."""
    arm = {"tasks": 3, "success": interval(0.667), "distance": 0.42, "steps": 11.5, "ms": 3.21}
    summary = {
        "world": "two_rooms", "model": HOSTILE, "protocol": "feedbeef", "confidence": 0.95,
        "arms": {
            "model": arm,
            "random": arm | {"success": interval(0.333), "steps": None, "distance": 1.23},
        },
        "gain": {"random": interval(0.334)},
        "shown": {
            "together": 16, "ahead": 25, "seed": 4, "goal": "image", "budget": 50, "horizon": 6,
            "execute": 3, "distance": "l2", "cost": "last",
            "solver": {"kind": "cem", "samples": 64},
        },
    }  # fmt: skip
    draw = np.random.default_rng(0)
    states = [np.full(2, i) for i in range(5)]
    ended = [SimpleNamespace(states=states, steps_to_goal=goal) for goal in (4, None, 7)]
    results = SimpleNamespace(
        policies=["model", "random"],
        episodes=lambda name: ended if name == "model" else ended[1:],
        success=lambda name: np.array([one.steps_to_goal is not None for one in ended]),
        environment=SimpleNamespace(
            render_state=lambda state: draw.integers(0, 255, (32, 32, 3)).astype(np.uint8)
        ),
        context=SimpleNamespace(
            tasks=SimpleNamespace(
                all=[SimpleNamespace(goal=np.zeros(2))] * 3, distance=lambda a, b: 0.31
            )
        ),
    )
    return summary, results


def suite_summary() -> dict[str, Any]:
    place = {"seconds": interval(0.52, 0.03), "chance_s": 0.91}
    row = {
        "quad": interval(0.41), "pair": interval(0.72), "p": 0.004, "auroc": 0.77,
        "localisation": place, "random": {"quad": 0.12, "pair": 0.49},
        "baseline": {"name": "centroid", "quad": 0.61, "pair": 0.73},
    }  # fmt: skip
    return {
        "model": HOSTILE, "split": "test", "protocol": "feedbeef", "confidence": 0.95,
        "look": {"context": 4, "mask": 0, "horizon": 2, "aggregate": "max"},
        "chosen_from": [
            {"context": 4, "mask": 0, "horizon": 2, "aggregate": "max", "quad": 0.375}
        ],
        "shown": {
            "size": 32, "fps": 8.0, "frames": 24, "tubelet": 2, "window": 16,
            "windows_at": [0, 8], "seed": 5, "suite": 2,
        },
        "overall": {"quad": interval(0.433), "pair": interval(0.711)},
        "scenarios": {"permanence": row, "fall": row | {"random": None}},
        "random": [{"quad": 0.11, "pair": 0.5}, {"quad": 0.22, "pair": 0.5}],
        "baseline": {"name": "centroid", "quad": 0.61},
        "gains": {"quad": {"over_random": interval(0.268), "over_baseline": interval(-0.177)}},
        "health": {"rankme": 9.63, "feature_std": 1.25},
        "probe": {"model": {"x": 0.83, "vx": -0.72}, "random": {"x": 0.11, "vx": 0.02}},
        "rollout": rollout_rows(),
        "sanity": {
            "vanish": {
                "count": 13, "share": interval(0.85), "random": 0.38,
                "baseline": {"name": "jump", "share": 0.57},
            }
        },
    }  # fmt: skip


def study_result() -> dict[str, Any]:
    panel = {
        "background": "moving", "score": "position",
        "arms": {
            "ema": [[0.1, 0.3, 0.5], [0.2, 0.3, 0.6]],
            "pixels": [[-0.4, 0.0, 0.2], [0.0, 0.1, 0.1]],
            r"ran<dom $\nope$": [[0.05], [0.07]],
        },
        "ratios": {"ema": {"value": 4.2, "low": 2.0, "high": 9.0, "claim": True, "why": ""}},
    }  # fmt: skip
    return {
        "name": HOSTILE, "clips": [16, 64, 4096], "seeds": [0, 1], "steps": 1234,
        "global_batch": 8, "reference": "pixels", "source": "physics://mixed?size=48&fps=8",
        "probe": {"fit": 10, "score": 4, "seed": 1}, "panels": [panel],
    }  # fmt: skip


def sweep_result(trials: int = 12, seed: int = 0) -> dict[str, Any]:
    """A sweep with trials of every state and a key that only some trials have."""
    draw, rows = random.Random(seed), []
    for number in range(trials):
        state = ("done", "done", "done", "pruned", "collapsed", "failed")[number % 6]
        values: dict[str, Any] = {
            "optim.lr": 10 ** draw.uniform(-4, -2),
            "depth<b>": draw.randint(1, 6),
            "predictor": draw.choice([{"kind": "vit"}, {"kind": r"gru<script>$\nope$"}]),
        }
        if number % 2:
            values["objective.ema"] = draw.choice([0.9, 0.99])
        objective = None if state in ("collapsed", "failed") else draw.random()
        shut = ["rankme_share 0.1 is below 0.2"] if state == "collapsed" else []
        rung = {"steps": 5, "objective": objective, "scores": {"place": 0.5, "speed": 0.4}}
        rows.append(
            {
                "number": number, "state": state, "values": values, "objective": objective,
                "steps": 2000 if state == "done" else 500, "loss": 0.01 * number,
                "rungs": [rung | {"shut": shut}], "run_id": "",
                "error": "out of memory" if state == "failed" else "",
            }
        )  # fmt: skip
    rows.sort(key=lambda row: (row["state"] != "done", -(row["objective"] or 0)))
    return {
        "name": HOSTILE, "search": "tpe", "scheduler": "asha", "budget": 2000,
        "keys": ["optim.lr", "depth<b>", "predictor", "objective.ema"], "log": ["optim.lr"],
        "importance": {"optim.lr": 0.7, "depth<b>": 0.3},
        "best": rows[0]["number"] if rows[0]["state"] == "done" else None, "trials": rows,
    }  # fmt: skip
