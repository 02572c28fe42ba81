"""Findings as plain numbers, each with its interval and with what it has to beat."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from orchestrator.evaluation.measures.feature_rank import lidar
from orchestrator.evaluation.measures.rollout import rollout_table
from orchestrator.evaluation.measures.state_probe import probe_states
from orchestrator.evaluation.suite.measure import QuadUnitResult, ScoringRule, SuiteRawResults
from orchestrator.evaluation.suite.tiers import tier_table
from orchestrator.job.config.evaluate import EvaluateJob
from orchestrator.physics.suite.quads import PROTOCOL_VERSION
from orchestrator.physics.suite.scoring import pair_accuracy, quad_correct
from orchestrator.report.statistics import (
    bootstrap_macro_mean,
    bootstrap_mean,
    gain_over_baseline,
    gain_over_random,
    holm_adjust,
    localisation_chance,
    localisation_errors,
    quad_auroc,
    sign_flip_test,
)
from orchestrator.training.health import feature_std, rankme

CHANCE = {"quad": 0.25, "pair": 0.5}


def summarize(job: EvaluateJob, findings: SuiteRawResults) -> dict[str, Any]:
    """Everything a report or a gate asks, JSON-serialisable.

    Keys: `protocol` (its hash), `look`, `overall` (quad, pair: value, low, high), `scenarios`,
    `random` (overall accuracies of each random model), `gain` (over their mean and over the best
    trivial baseline) and `gains` (the same with intervals, for quads and pairs), `health`, `probe`
    (R2 of the states), `rollout` (by horizon), `shown` (what the hash is of), `sanity` and `arrow`
    (see `tiers.tier_table`).
    """
    look = findings.scoring_rule
    quads = {name: quad_correct(seen.scores[look]) for name, seen in findings.model.items()}
    pairs = {name: pair_accuracy(seen.scores[look]) for name, seen in findings.model.items()}
    adjusted = holm_adjust({name: sign_flip_test(values) for name, values in pairs.items()})
    random = [_mean_accuracies(one, look) for one in findings.random_models]
    level = job.confidence
    whole = {"quad": bootstrap_macro_mean(quads, level), "pair": bootstrap_macro_mean(pairs, level)}
    scenarios = {
        name: {
            "quads": len(seen.break_frames),
            "quad": asdict(bootstrap_mean(quads[name], level)),
            "pair": asdict(bootstrap_mean(pairs[name], level)),
            "p": adjusted[name],
            "auroc": quad_auroc(seen.scores[look]),
            **_localisation(findings, seen, level),
            "random": _random_accuracies(findings, name),
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
        "look": _rule_dict(look),
        "chosen_from": [
            {**_rule_dict(one), "quad": q} for one, q in findings.selection_accuracy.items()
        ],
        "confidence": level,
        "shown": {
            "size": findings.protocol.size,
            "fps": findings.protocol.fps,
            "frames": findings.protocol.windows.frames,
            "tubelet": findings.tubelet_frames,
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
            name: tier_table(tier.model, tier.random_models, level)
            for name, tier in findings.tiers.items()
        },
    }


def _localisation(findings: SuiteRawResults, seen: QuadUnitResult, level: float) -> dict[str, Any]:
    """How far from the violation surprise is largest, in seconds and in frames."""
    curves, fps = seen.curves[findings.scoring_rule.context_spec], findings.protocol.fps
    errors = localisation_errors(curves, seen.break_frames)
    chance = localisation_chance(curves, seen.break_frames)
    return {
        "localisation_s": float(errors.mean()) / fps,
        "localisation": {
            "frames": asdict(bootstrap_mean(errors, level)),
            "seconds": asdict(bootstrap_mean(errors / fps, level)),
            "chance_frames": chance,
            "chance_s": chance / fps,
        },
    }


def _gains(
    findings: SuiteRawResults, scenarios: list[str], rule: str, level: float
) -> dict[str, dict[str, Any]]:
    """By how much more is right than by random models, and than by the best trivial rule."""
    look, gains = findings.scoring_rule, {}
    for kind, right in (("quad", quad_correct), ("pair", pair_accuracy)):
        mine = {name: right(findings.model[name].scores[look]) for name in scenarios}
        ruled = {name: right(findings.model[name].baselines[rule]) for name in scenarios}
        random = [
            {name: right(one[name].scores[look]) for name in scenarios}
            for one in findings.random_models
        ]
        gains[kind] = {
            "over_random": asdict(gain_over_random(mine, random, level)) if random else None,
            "over_baseline": asdict(gain_over_baseline(mine, ruled, level)),
        }
    return gains


def _probe(findings: SuiteRawResults) -> dict[str, dict[str, float]]:
    """R2 of states read off frozen features: the model's, and a random model's."""
    return {
        name: probe_states(fitted, held_out)
        for name, (fitted, held_out) in findings.state_rows.items()
    }


def _rule_dict(look: ScoringRule) -> dict[str, Any]:
    return {**asdict(look.context_spec), "aggregate": look.aggregate}


def _mean_accuracies(one: dict[str, QuadUnitResult], look: ScoringRule) -> dict[str, float]:
    return {
        "quad": float(np.mean([quad_correct(seen.scores[look]).mean() for seen in one.values()])),
        "pair": float(np.mean([pair_accuracy(seen.scores[look]).mean() for seen in one.values()])),
    }


def _random_accuracies(findings: SuiteRawResults, name: str) -> dict[str, float] | None:
    """A scenario's accuracies over all random models, and the best of theirs."""
    if not findings.random_models:
        return None
    scores = [one[name].scores[findings.scoring_rule] for one in findings.random_models]
    quads = [float(quad_correct(each).mean()) for each in scores]
    pairs = [float(pair_accuracy(each).mean()) for each in scores]
    return {
        "quad": float(np.mean(quads)),
        "pair": float(np.mean(pairs)),
        "best_quad": max(quads),
        "best_pair": max(pairs),
    }


def _best_baseline(seen: QuadUnitResult) -> dict[str, Any]:
    """The trivial rule with the most quads right."""
    quads = {name: float(quad_correct(score).mean()) for name, score in seen.baselines.items()}
    name = max(quads, key=lambda name: quads[name])
    return {
        "name": name,
        "quad": quads[name],
        "pair": float(pair_accuracy(seen.baselines[name]).mean()),
    }


def _baselines_overall(findings: SuiteRawResults) -> dict[str, Any]:
    """The one rule that is best over all scenarios."""
    names = next(iter(findings.model.values())).baselines
    quads = {
        name: float(
            np.mean([quad_correct(s.baselines[name]).mean() for s in findings.model.values()])
        )
        for name in names
    }
    name = max(quads, key=lambda name: quads[name])
    return {"name": name, "quad": quads[name]}


def _health(findings: SuiteRawResults) -> dict[str, float]:
    ranks = [one for seen in findings.model.values() for one in seen.rank_samples]
    tokens = torch.cat([one.tokens for one in ranks])[None]
    return {
        "rankme": rankme(tokens),
        "feature_std": feature_std(tokens),
        "lidar": lidar(torch.cat([one.view_means for one in ranks])),
    }
