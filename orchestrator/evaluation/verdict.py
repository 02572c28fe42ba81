"""Findings as plain numbers, each with its interval and with what it has to beat."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from orchestrator.evaluation.judge import Findings, Look, Seen
from orchestrator.evaluation.metrics import (
    auroc,
    estimate,
    holm,
    localisation_error,
    overall,
    pair_accuracy,
    quad_right,
    sign_test,
)
from orchestrator.evaluation.ranks import lidar
from orchestrator.evaluation.rollout import rollout_table
from orchestrator.evaluation.states import probe_states
from orchestrator.job.evaluate import EvaluateJob
from orchestrator.training.health import feature_std, rankme

CHANCE = {"quad": 0.25, "pair": 0.5}


def verdict(job: EvaluateJob, findings: Findings) -> dict[str, Any]:
    """Everything a report or a gate asks, JSON-serialisable.

    Keys: `protocol` (its hash), `look`, `overall` (quad, pair: value, low, high), `scenarios`,
    `random` (overall accuracies of each random model), `gain` (over their mean and over the best
    trivial baseline), `health`, `probe` (R2 of the states), `rollout` (by horizon).
    """
    look = findings.look
    quads = {name: quad_right(seen.scores[look]) for name, seen in findings.model.items()}
    pairs = {name: pair_accuracy(seen.scores[look]) for name, seen in findings.model.items()}
    adjusted = holm({name: sign_test(values) for name, values in pairs.items()})
    random = [_means(one, look) for one in findings.random]
    level = job.confidence
    whole = {"quad": overall(quads, level), "pair": overall(pairs, level)}
    scenarios = {
        name: {
            "quads": len(seen.t_break),
            "quad": asdict(estimate(quads[name], level)),
            "pair": asdict(estimate(pairs[name], level)),
            "p": adjusted[name],
            "auroc": auroc(seen.scores[look]),
            "localisation_s": localisation_error(seen.curves[look.view], seen.t_break)
            / findings.protocol.fps,
            "random": _random_of(findings, name),
            "baseline": _best_baseline(seen),
        }
        for name, seen in findings.model.items()
    }
    baseline = _baselines_overall(findings)
    return {
        "model": job.model,
        "split": job.suite.split,
        "protocol": findings.protocol.digest(job),
        "look": _plain(look),
        "chosen_from": [{**_plain(one), "quad": q} for one, q in findings.chosen_from.items()],
        "confidence": level,
        "overall": {name: asdict(value) for name, value in whole.items()},
        "scenarios": scenarios,
        "random": random,
        "baseline": baseline,
        "gain": {
            "over_random": whole["quad"].value - float(np.mean([r["quad"] for r in random]))
            if random
            else None,
            "over_baseline": whole["quad"].value - baseline["quad"],
        },
        "health": _health(findings),
        "probe": _probe(findings),
        "rollout": rollout_table(
            [one for seen in findings.model.values() for one in seen.rollouts], level
        ),
    }


def _probe(findings: Findings) -> dict[str, dict[str, float]]:
    """R2 of states read off frozen features: the model's, and a random model's."""
    return {
        name: probe_states(fitted, held_out) for name, (fitted, held_out) in findings.states.items()
    }


def _plain(look: Look) -> dict[str, Any]:
    return {**asdict(look.view), "aggregate": look.aggregate}


def _means(one: dict[str, Seen], look: Look) -> dict[str, float]:
    return {
        "quad": float(np.mean([quad_right(seen.scores[look]).mean() for seen in one.values()])),
        "pair": float(np.mean([pair_accuracy(seen.scores[look]).mean() for seen in one.values()])),
    }


def _random_of(findings: Findings, name: str) -> dict[str, float] | None:
    """A scenario's accuracies over all random models, and the best of theirs."""
    if not findings.random:
        return None
    scores = [one[name].scores[findings.look] for one in findings.random]
    quads = [float(quad_right(each).mean()) for each in scores]
    pairs = [float(pair_accuracy(each).mean()) for each in scores]
    return {
        "quad": float(np.mean(quads)),
        "pair": float(np.mean(pairs)),
        "best_quad": max(quads),
        "best_pair": max(pairs),
    }


def _best_baseline(seen: Seen) -> dict[str, Any]:
    """The trivial rule with the most quads right."""
    quads = {name: float(quad_right(score).mean()) for name, score in seen.baselines.items()}
    name = max(quads, key=lambda name: quads[name])
    return {
        "name": name,
        "quad": quads[name],
        "pair": float(pair_accuracy(seen.baselines[name]).mean()),
    }


def _baselines_overall(findings: Findings) -> dict[str, Any]:
    """The one rule that is best over all scenarios."""
    names = next(iter(findings.model.values())).baselines
    quads = {
        name: float(
            np.mean([quad_right(s.baselines[name]).mean() for s in findings.model.values()])
        )
        for name in names
    }
    name = max(quads, key=lambda name: quads[name])
    return {"name": name, "quad": quads[name]}


def _health(findings: Findings) -> dict[str, float]:
    ranks = [one for seen in findings.model.values() for one in seen.ranks]
    tokens = torch.cat([one.tokens for one in ranks])[None]
    found = {"rankme": rankme(tokens), "feature_std": feature_std(tokens)}
    if ranks[0].means.shape[1] > 1:
        found["lidar"] = lidar(torch.cat([one.means for one in ranks]))
    return found
