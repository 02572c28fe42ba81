"""Findings as plain numbers, each with its interval and with what it has to beat."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from orchestrator.evaluation.measures.feature_rank import lidar
from orchestrator.evaluation.measures.rollout import rollout_table
from orchestrator.evaluation.measures.state_probe import probe_states
from orchestrator.evaluation.suite.measure import Findings, Look, Seen
from orchestrator.evaluation.suite.tiers import tier_table
from orchestrator.job.config.evaluate import EvaluateJob
from orchestrator.physics.suite.quads import PROTOCOL_VERSION
from orchestrator.report.statistics import (
    auroc,
    estimate,
    gain_over_baseline,
    gain_over_random,
    holm,
    localisation_chance,
    localisation_errors,
    overall,
    pair_accuracy,
    quad_right,
    sign_test,
)
from orchestrator.training.health import feature_std, rankme

CHANCE = {"quad": 0.25, "pair": 0.5}


def verdict(job: EvaluateJob, findings: Findings) -> dict[str, Any]:
    """Everything a report or a gate asks, JSON-serialisable.

    Keys: `protocol` (its hash), `look`, `overall` (quad, pair: value, low, high), `scenarios`,
    `random` (overall accuracies of each random model), `gain` (over their mean and over the best
    trivial baseline) and `gains` (the same with intervals, for quads and pairs), `health`, `probe`
    (R2 of the states), `rollout` (by horizon), `shown` (what the hash is of), `sanity` and `arrow`
    (see `tiers.tier_table`).
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
            **_localisation(findings, seen, level),
            "random": _random_of(findings, name),
            "baseline": _best_baseline(seen),
            "gains": _gains(findings, [name], _best_baseline(seen)["name"], level),
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
        "shown": {
            "size": findings.protocol.size,
            "fps": findings.protocol.fps,
            "frames": findings.protocol.windows.frames,
            "tubelet": findings.tubelet,
            "window": findings.protocol.windows.length,
            "windows_at": list(findings.protocol.windows.starts),
            "seed": findings.protocol.seed,
            "suite": PROTOCOL_VERSION,
        },
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
        "gains": _gains(findings, list(findings.model), baseline["name"], level),
        "health": _health(findings),
        "probe": _probe(findings),
        "rollout": rollout_table(
            [one for seen in findings.model.values() for one in seen.rollouts], level
        ),
        **{
            name: tier_table(tier.model, tier.random, level)
            for name, tier in findings.tiers.items()
        },
    }


def _localisation(findings: Findings, seen: Seen, level: float) -> dict[str, Any]:
    """How far from the violation surprise is largest, in seconds and in frames."""
    curves, fps = seen.curves[findings.look.view], findings.protocol.fps
    errors = localisation_errors(curves, seen.t_break)
    chance = localisation_chance(curves, seen.t_break)
    return {
        "localisation_s": float(errors.mean()) / fps,
        "localisation": {
            "frames": asdict(estimate(errors, level)),
            "seconds": asdict(estimate(errors / fps, level)),
            "chance_frames": chance,
            "chance_s": chance / fps,
        },
    }


def _gains(
    findings: Findings, scenarios: list[str], rule: str, level: float
) -> dict[str, dict[str, Any]]:
    """By how much more is right than by random models, and than by the best trivial rule."""
    look, gains = findings.look, {}
    for kind, right in (("quad", quad_right), ("pair", pair_accuracy)):
        mine = {name: right(findings.model[name].scores[look]) for name in scenarios}
        ruled = {name: right(findings.model[name].baselines[rule]) for name in scenarios}
        random = [
            {name: right(one[name].scores[look]) for name in scenarios} for one in findings.random
        ]
        gains[kind] = {
            "over_random": asdict(gain_over_random(mine, random, level)) if random else None,
            "over_baseline": asdict(gain_over_baseline(mine, ruled, level)),
        }
    return gains


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
    return {
        "rankme": rankme(tokens),
        "feature_std": feature_std(tokens),
        "lidar": lidar(torch.cat([one.means for one in ranks])),
    }
