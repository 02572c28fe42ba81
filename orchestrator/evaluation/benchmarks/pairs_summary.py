"""What surprise says about pairs: accuracies and AUROC with intervals, over whole scenes.

A scene's scores are float [pairs, 2]: the surprise at the possible and at the impossible video.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from orchestrator.evaluation.benchmarks.pairs import PairsRawResults, SceneScores, protocol_digest
from orchestrator.evaluation.suite.measure import ScoringRule
from orchestrator.job.config.benchmark import IntPhys2, ViolationOfExpectation
from orchestrator.job.config.evaluate import EvaluateJob
from orchestrator.report.statistics import (
    RESAMPLES,
    ConfidenceInterval,
    auroc,
    bootstrap_macro_mean,
    bootstrap_mean,
    holm_adjust,
    sign_flip_test,
)

SceneScoreArrays = Sequence[np.ndarray]


def pair_accuracy_by_scene(scores: SceneScoreArrays) -> np.ndarray:
    """Each scene's share of pairs in which the possible video surprises less; a tie is half."""
    return np.array([_win_rate(one[:, 0], one[:, 1]).mean() for one in scores])


def cross_pair_accuracy_by_scene(scores: SceneScoreArrays) -> np.ndarray:
    """The same over each possible with each impossible video of the scene, paired or not."""
    return np.array([_win_rate(one[:, 0][:, None], one[:, 1][None]).mean() for one in scores])


def _win_rate(possible: np.ndarray, impossible: np.ndarray) -> np.ndarray:
    return np.asarray((possible < impossible) + 0.5 * (possible == impossible))


def pairs_auroc(scores: SceneScoreArrays) -> float:
    """Chance that an impossible video of any scene surprises more than a possible one of any."""
    every = np.concatenate(list(scores))
    return auroc(every[:, 0], every[:, 1])


def bootstrap_scenes(
    scores: SceneScoreArrays, measure: Callable[[SceneScoreArrays], float], seed: int = 0
) -> np.ndarray:
    """A measure of scenes drawn with replacement, again and again: float [RESAMPLES]."""
    draws = np.random.default_rng(seed).integers(0, len(scores), (RESAMPLES, len(scores)))
    return np.array([measure([scores[i] for i in draw]) for draw in draws])


def percentile_interval(value: float, drawn: np.ndarray, confidence: float) -> ConfidenceInterval:
    """A value with the middle of what was drawn."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return ConfidenceInterval(value, float(low), float(high))


def summarize(
    job: EvaluateJob, benchmark: ViolationOfExpectation, findings: PairsRawResults
) -> dict[str, Any]:
    """Everything that a report asks, JSON-serialisable.

    Keys: `benchmark`, `protocol` (its hash), `look` and what it was chosen on, `overall` (pair,
    all, auroc: value, low, high), `properties`, `random` (each random model's), `gain`, `counts`,
    `twins` (not scored: their videos were chosen on), `left_out` (by name, with the reason).
    """
    look, level = findings.scoring_rule, job.confidence
    by_property = _by_property(findings.model, look)
    pairs = {name: pair_accuracy_by_scene(scores) for name, scores in by_property.items()}
    every = {name: cross_pair_accuracy_by_scene(scores) for name, scores in by_property.items()}
    areas = {name: pairs_auroc(scores) for name, scores in by_property.items()}
    drawn = {name: bootstrap_scenes(scores, pairs_auroc) for name, scores in by_property.items()}
    adjusted = holm_adjust({name: sign_flip_test(values) for name, values in pairs.items()})
    whole = {
        "pair": bootstrap_macro_mean(pairs, level),
        "all": bootstrap_macro_mean(every, level),
        "auroc": percentile_interval(
            float(np.mean(list(areas.values()))), np.mean(list(drawn.values()), axis=0), level
        ),
    }
    arms = [_by_property(arm, look) for arm in findings.random_models]
    random = [_mean_accuracies(arm) for arm in arms]
    return {
        "benchmark": benchmark.kind,
        "model": job.model,
        "protocol": protocol_digest(job, benchmark, findings),
        "look": _rule_dict(look),
        "chosen_from": [
            {**_rule_dict(one), "pair": v} for one, v in findings.selection_accuracy.items()
        ],
        "chosen_on": _selection_text(benchmark, findings),
        "confidence": level,
        "overall": {name: asdict(value) for name, value in whole.items()},
        "properties": {
            name: {
                "scenes": len(scores),
                "pairs": sum(map(len, scores)),
                "pair": asdict(bootstrap_mean(pairs[name], level)),
                "all": asdict(bootstrap_mean(every[name], level)),
                "p": adjusted[name],
                "auroc": asdict(percentile_interval(areas[name], drawn[name], level)),
                "random": _random_accuracies([arm[name] for arm in arms if name in arm]),
            }
            for name, scores in by_property.items()
        },
        "random": random,
        "gain": {
            "over_random": whole["pair"].value - float(np.mean([one["pair"] for one in random]))
            if random
            else None
        },
        "counts": {
            "scored": len(findings.model),
            "chosen_on": len(findings.selection_scenes),
            "left_out": len(findings.excluded),
        },
        "twins": findings.duplicates,
        "left_out": [asdict(fault) for fault in findings.excluded],
    }


def scores_json(
    job: EvaluateJob, benchmark: ViolationOfExpectation, findings: PairsRawResults
) -> dict[str, Any]:
    """Scene by scene, so that two models can be compared on the same pairs."""
    return {
        "benchmark": benchmark.kind,
        "protocol": protocol_digest(job, benchmark, findings),
        "confidence": job.confidence,
        "surprise": {
            one.scene.name: one.scores[findings.scoring_rule].tolist() for one in findings.model
        },
        "chosen_on": findings.selection_scenes,
    }


def _by_property(seen: Sequence[SceneScores], look: ScoringRule) -> dict[str, list[np.ndarray]]:
    found: dict[str, list[np.ndarray]] = {}
    for one in seen:
        found.setdefault(one.scene.property, []).append(one.scores[look])
    return found


def _mean_accuracies(arm: Mapping[str, SceneScoreArrays]) -> dict[str, float]:
    return {
        "pair": float(np.mean([pair_accuracy_by_scene(scores).mean() for scores in arm.values()])),
        "all": float(
            np.mean([cross_pair_accuracy_by_scene(scores).mean() for scores in arm.values()])
        ),
    }


def _random_accuracies(arms: Sequence[SceneScoreArrays]) -> dict[str, float] | None:
    """A property's pair accuracy over all random models, and the best of theirs."""
    if not arms:
        return None
    values = [float(pair_accuracy_by_scene(scores).mean()) for scores in arms]
    return {"pair": float(np.mean(values)), "best_pair": max(values)}


def _selection_text(benchmark: ViolationOfExpectation, findings: PairsRawResults) -> str:
    count = len(findings.selection_scenes)
    if isinstance(benchmark, IntPhys2) and benchmark.selection_split != "share":
        text = f"the {count} scenes of split {benchmark.selection_split}"
        twins = len(findings.duplicates)
        also = f", of which {twins} stand in {benchmark.split} too and are not scored there"
        return text + also if twins else text
    return (
        f"{count} scenes that are not scored: of each property the"
        f" {100 * benchmark.selection_fraction:g}% whose names have the smallest SHA-256"
    )


def _rule_dict(look: ScoringRule) -> dict[str, Any]:
    return {**asdict(look.context_spec), "aggregate": look.aggregate}
