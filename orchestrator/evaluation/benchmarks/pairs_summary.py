"""What surprise says about pairs: accuracies and AUROC with intervals, over whole scenes.

A scene's scores are float [pairs, 2]: the surprise at the possible and at the impossible video.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from orchestrator.evaluation.benchmarks.pairs import Findings, SeenScene, digest
from orchestrator.evaluation.suite.measure import Look
from orchestrator.job.config.benchmark import IntPhys2, Surprising
from orchestrator.job.config.evaluate import EvaluateJob
from orchestrator.report.statistics import (
    RESAMPLES,
    Estimate,
    estimate,
    holm,
    overall,
    sign_test,
)

Scores = Sequence[np.ndarray]


def pairs_right(scores: Scores) -> np.ndarray:
    """Each scene's share of pairs in which the possible video surprises less; a tie is half."""
    return np.array([_less(one[:, 0], one[:, 1]).mean() for one in scores])


def all_right(scores: Scores) -> np.ndarray:
    """The same over each possible with each impossible video of the scene, paired or not."""
    return np.array([_less(one[:, 0][:, None], one[:, 1][None]).mean() for one in scores])


def _less(possible: np.ndarray, impossible: np.ndarray) -> np.ndarray:
    return np.asarray((possible < impossible) + 0.5 * (possible == impossible))


def auroc(scores: Scores) -> float:
    """Chance that an impossible video of any scene surprises more than a possible one of any."""
    every = np.concatenate(list(scores))
    possible = np.sort(every[:, 0])
    below = np.searchsorted(possible, every[:, 1], "left")
    not_above = np.searchsorted(possible, every[:, 1], "right")
    return float((below + not_above).mean() / (2 * len(possible)))


def resampled(scores: Scores, measure: Callable[[Scores], float], seed: int = 0) -> np.ndarray:
    """A measure of scenes drawn with replacement, again and again: float [RESAMPLES]."""
    draws = np.random.default_rng(seed).integers(0, len(scores), (RESAMPLES, len(scores)))
    return np.array([measure([scores[i] for i in draw]) for draw in draws])


def interval(value: float, drawn: np.ndarray, confidence: float) -> Estimate:
    """A value with the middle of what was drawn."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))


def verdict(job: EvaluateJob, benchmark: Surprising, findings: Findings) -> dict[str, Any]:
    """Everything that a report asks, JSON-serialisable.

    Keys: `benchmark`, `protocol` (its hash), `look` and what it was chosen on, `overall` (pair,
    all, auroc: value, low, high), `properties`, `random` (each random model's), `gain`, `counts`,
    `twins` (not scored: their videos were chosen on), `left_out` (by name, with the reason).
    """
    look, level = findings.look, job.confidence
    by_property = _by_property(findings.model, look)
    pairs = {name: pairs_right(scores) for name, scores in by_property.items()}
    every = {name: all_right(scores) for name, scores in by_property.items()}
    areas = {name: auroc(scores) for name, scores in by_property.items()}
    drawn = {name: resampled(scores, auroc) for name, scores in by_property.items()}
    adjusted = holm({name: sign_test(values) for name, values in pairs.items()})
    whole = {
        "pair": overall(pairs, level),
        "all": overall(every, level),
        "auroc": interval(
            float(np.mean(list(areas.values()))), np.mean(list(drawn.values()), axis=0), level
        ),
    }
    arms = [_by_property(arm, look) for arm in findings.random]
    random = [_means(arm) for arm in arms]
    return {
        "benchmark": benchmark.kind,
        "model": job.model,
        "protocol": digest(job, benchmark, findings),
        "look": _plain(look),
        "chosen_from": [{**_plain(one), "pair": v} for one, v in findings.chosen_from.items()],
        "chosen_on": _chosen_on(benchmark, findings),
        "confidence": level,
        "overall": {name: asdict(value) for name, value in whole.items()},
        "properties": {
            name: {
                "scenes": len(scores),
                "pairs": sum(map(len, scores)),
                "pair": asdict(estimate(pairs[name], level)),
                "all": asdict(estimate(every[name], level)),
                "p": adjusted[name],
                "auroc": asdict(interval(areas[name], drawn[name], level)),
                "random": _random_of([arm[name] for arm in arms if name in arm]),
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
            "chosen_on": len(findings.chosen_on),
            "left_out": len(findings.faults),
        },
        "twins": findings.twins,
        "left_out": [asdict(fault) for fault in findings.faults],
    }


def scores_json(job: EvaluateJob, benchmark: Surprising, findings: Findings) -> dict[str, Any]:
    """Scene by scene, so that two models can be compared on the same pairs."""
    return {
        "benchmark": benchmark.kind,
        "protocol": digest(job, benchmark, findings),
        "confidence": job.confidence,
        "surprise": {one.scene.name: one.scores[findings.look].tolist() for one in findings.model},
        "chosen_on": findings.chosen_on,
    }


def _by_property(seen: Sequence[SeenScene], look: Look) -> dict[str, list[np.ndarray]]:
    found: dict[str, list[np.ndarray]] = {}
    for one in seen:
        found.setdefault(one.scene.property, []).append(one.scores[look])
    return found


def _means(arm: Mapping[str, Scores]) -> dict[str, float]:
    return {
        "pair": float(np.mean([pairs_right(scores).mean() for scores in arm.values()])),
        "all": float(np.mean([all_right(scores).mean() for scores in arm.values()])),
    }


def _random_of(arms: Sequence[Scores]) -> dict[str, float] | None:
    """A property's pair accuracy over all random models, and the best of theirs."""
    if not arms:
        return None
    values = [float(pairs_right(scores).mean()) for scores in arms]
    return {"pair": float(np.mean(values)), "best_pair": max(values)}


def _chosen_on(benchmark: Surprising, findings: Findings) -> str:
    count = len(findings.chosen_on)
    if isinstance(benchmark, IntPhys2) and benchmark.choose != "share":
        text = f"the {count} scenes of split {benchmark.choose}"
        twins = len(findings.twins)
        also = f", of which {twins} stand in {benchmark.split} too and are not scored there"
        return text + also if twins else text
    return (
        f"{count} scenes that are not scored: of each property the"
        f" {100 * benchmark.choose_share:g}% whose names have the smallest SHA-256"
    )


def _plain(look: Look) -> dict[str, Any]:
    return {**asdict(look.view), "aggregate": look.aggregate}
