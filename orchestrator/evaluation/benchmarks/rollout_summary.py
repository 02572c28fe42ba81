"""What rollouts say as plain numbers, each with its interval and with what it has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from orchestrator.evaluation.benchmarks.clevrer import STATE_NAMES
from orchestrator.evaluation.benchmarks.rollouts import RolloutRawResults, protocol_digest
from orchestrator.evaluation.measures.ridge import ridge_probe
from orchestrator.evaluation.measures.rollout import Rollout, rollout_table, skill_score
from orchestrator.evaluation.measures.state_probe import StateRows, concat_rows
from orchestrator.job.config.benchmark import Clevrer, RolloutBenchmark
from orchestrator.job.config.evaluate import EvaluateJob
from orchestrator.report.statistics import RESAMPLES, ConfidenceInterval

BASELINES = ("copy", "linear")


def skill_over_baseline(
    rollouts: Sequence[Rollout], rule: str, confidence: float
) -> ConfidenceInterval:
    """1 - error / the rule's error over all horizons; clips are what is resampled."""
    mine, theirs = (
        np.concatenate([one.errors[name] for one in rollouts]).mean(1) for name in ("model", rule)
    )
    draw = np.random.default_rng(0).integers(0, len(mine), (RESAMPLES, len(mine)))
    drawn = skill_score(mine[draw].mean(1), theirs[draw].mean(1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return ConfidenceInterval(
        float(skill_score(mine.mean(), theirs.mean())), float(low), float(high)
    )


def summarize(
    job: EvaluateJob, benchmark: RolloutBenchmark, rolls: RolloutRawResults
) -> dict[str, Any]:
    """Everything that a report asks, JSON-serialisable.

    Keys: `benchmark`, `protocol` (its hash), `look` and what it was chosen on, `overall` (skill
    over each trivial rule: value, low, high), `rollout` (by horizon), `probe` (R2 of each state),
    `random`, `gain`, `counts`, `left_out` (by name, with the reason).
    """
    level = job.confidence
    whole = {
        f"skill_over_{rule}": skill_over_baseline(rolls.model, rule, level) for rule in BASELINES
    }
    random = [
        {f"skill_over_{rule}": skill_over_baseline(arm, rule, level).value for rule in BASELINES}
        for arm in rolls.random_models
    ]
    return {
        "benchmark": benchmark.kind,
        "model": job.model,
        "protocol": protocol_digest(job, benchmark, rolls),
        "look": asdict(rolls.context_spec),
        "chosen_from": [
            {**asdict(view), "skill_over_copy": value}
            for view, value in rolls.selection_skill.items()
        ],
        "chosen_on": _selection_text(benchmark, rolls),
        "confidence": level,
        "overall": {name: asdict(value) for name, value in whole.items()},
        "moment_s": rolls.clip_format.tubelet / rolls.clip_format.fps,
        "rollout": rollout_table(rolls.model, level),
        "probe": {
            arm: probe_object_states(fitted, held_out)
            for arm, (fitted, held_out) in rolls.state_rows.items()
        },
        "random": random,
        "gain": {
            f"{name}_over_random": value.value - float(np.mean([one[name] for one in random]))
            if random
            else None
            for name, value in whole.items()
        },
        "counts": {
            "scored": len(rolls.scored),
            "chosen_on": len(rolls.selection_clips),
            "left_out": len(rolls.excluded),
        },
        "left_out": [asdict(fault) for fault in rolls.excluded],
    }


def scores_json(
    job: EvaluateJob, benchmark: RolloutBenchmark, rolls: RolloutRawResults
) -> dict[str, Any]:
    """Clip by clip, so that two models can be compared on the same futures."""
    errors = {
        rule: np.concatenate([one.errors[rule] for one in rolls.model])
        for rule in ("model", *BASELINES)
    }
    return {
        "benchmark": benchmark.kind,
        "protocol": protocol_digest(job, benchmark, rolls),
        "confidence": job.confidence,
        "error": {
            name: {rule: each[i].tolist() for rule, each in errors.items()}
            for i, name in enumerate(rolls.scored)
        },
        "chosen_on": rolls.selection_clips,
    }


def probe_object_states(
    fitted: Sequence[StateRows], held_out: Sequence[StateRows]
) -> dict[str, float | None]:
    """R2 of each state on clips that the probe was not fitted to; None for one that is constant
    in them, of which there is nothing to explain."""
    train, test = concat_rows(fitted), concat_rows(held_out)
    found = ridge_probe(train.features, train.targets, train.groups, test.features, test.targets)
    varies = np.ptp(test.targets, axis=0) > 0
    return {
        name: float(r2) if known else None
        for name, r2, known in zip(STATE_NAMES, found.r2, varies, strict=True)
    }


def _selection_text(benchmark: RolloutBenchmark, rolls: RolloutRawResults) -> str:
    count = len(rolls.selection_clips)
    if isinstance(benchmark, Clevrer) and benchmark.selection_split == "train":
        return f"{count} clips of the training split"
    return (
        f"{count} clips that are not scored: the {100 * benchmark.selection_fraction:g}% whose"
        " names have the smallest SHA-256"
    )
