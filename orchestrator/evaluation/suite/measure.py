"""From a model and a suite to a verdict: choose how to look, measure, compare with nothing learnt.

Work is cut into units (one arm, one split, one scenario) that run side by side on Ray, or one
after the other in this process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from orchestrator.evaluation.evaluable import Evaluable
from orchestrator.evaluation.measures.state_probe import StateRows
from orchestrator.evaluation.suite.protocol import ScoringRule, SuiteProtocol, protocol_of
from orchestrator.evaluation.suite.tiers import TIERS, TierScores, TierUnit, merge_tier_scores
from orchestrator.evaluation.suite.units import QuadUnit, QuadUnitResult, SuiteUnit
from orchestrator.job.config.evaluate import EvaluateJob
from orchestrator.physics.suite.scoring import pair_accuracy, quad_correct
from orchestrator.progress import Progress

__all__ = [
    "QuadUnit",
    "QuadUnitResult",
    "ScoringRule",
    "SuiteProtocol",
    "SuiteRawResults",
    "measure_suite",
    "protocol_of",
]


@dataclass(frozen=True)
class TierResult:
    """What was found in a tier: by the model, and by each random one."""

    model: TierScores
    random_models: list[TierScores]


@dataclass
class SuiteRawResults:
    """Everything that was measured."""

    protocol: SuiteProtocol
    scoring_rule: ScoringRule
    selection_accuracy: dict[ScoringRule, float]
    """Quad accuracy of each look on the split that it was chosen on."""

    model: dict[str, QuadUnitResult]
    random_models: list[dict[str, QuadUnitResult]]
    state_rows: dict[str, tuple[list[StateRows], list[StateRows]]]
    """For a probe of the model, and of a random one: rows to fit, of the split that the look was
    chosen on, and rows to score."""

    tubelet_frames: int
    """Frames of one moment that the model predicts."""

    tiers: dict[str, TierResult]
    """Sanity and arrow, where the job asks for them."""


def measure_suite(
    job: EvaluateJob, model: Evaluable, progress: Progress, *, local: bool
) -> SuiteRawResults:
    """Measure a model, and random ones of its shape, on a suite.

    Raises:
        RequestError: model and suite do not fit.
    """
    protocol = protocol_of(job, model)
    suite, untaught = job.suite, job.random_models > 0

    def collect(rules: SuiteProtocol, units: Sequence[SuiteUnit], stage: str) -> list[Any]:
        run = _run_in_process if local else _run_on_ray
        return _collect(run(job, model, rules, units), units, stage, progress)

    choosing = [
        QuadUnit(
            None,
            suite.selection_split,
            scenario,
            suite.selection_quads,
            probe_random_model=untaught,
        )
        for scenario in protocol.scenarios
    ]
    fitted: list[QuadUnitResult] = collect(protocol, choosing, "choose")
    look, chosen_from = _select_scoring_rule(fitted)
    scored = [
        QuadUnit(
            None,
            suite.split,
            scenario,
            suite.quads,
            with_diagnostics=True,
            probe_random_model=untaught,
        )
        for scenario in protocol.scenarios
    ]
    # Each random model sees quads of its own, so that together they see many.
    random = [
        QuadUnit(seed, suite.split, scenario, job.random_quads, seed * job.random_quads)
        for seed in range(job.random_models)
        for scenario in protocol.scenarios
    ]
    tiers = _tier_units(job, look)
    units: list[SuiteUnit] = [*scored, *tiers, *random]
    found = collect(replace(protocol, context_specs=(look.context_spec,)), units, "judge")
    seen = found[: len(scored)]
    return SuiteRawResults(
        protocol,
        look,
        chosen_from,
        dict(zip(protocol.scenarios, seen, strict=True)),
        [
            {
                unit.scenario: one
                for unit, one in zip(random, found[len(units) - len(random) :], strict=True)
                if unit.random_seed == seed
            }
            for seed in range(job.random_models)
        ],
        {
            arm: ([one.state_rows[arm] for one in fitted], [one.state_rows[arm] for one in seen])
            for arm in seen[0].state_rows
        },
        model.clip.tubelet,
        _tiers(tiers, found[len(scored) : len(scored) + len(tiers)]),
    )


def _tier_units(job: EvaluateJob, look: ScoringRule) -> list[TierUnit]:
    suite = job.suite
    counts = {"sanity": suite.sanity, "arrow": suite.arrow_of_time}
    return [
        TierUnit(seed, kind, suite.split, look, counts[tier] if seed is None else 1, seed or 0)
        for tier, kinds in TIERS.items()
        if counts[tier]
        for kind in kinds
        for seed in (None, *range(job.random_models))
    ]


def _tiers(units: Sequence[TierUnit], found: Sequence[TierScores]) -> dict[str, TierResult]:
    tiers = {}
    for tier, kinds in TIERS.items():
        mine = [
            (unit.random_seed, one)
            for unit, one in zip(units, found, strict=True)
            if unit.kind in kinds
        ]
        by_arm = {
            seed: merge_tier_scores([one for arm, one in mine if arm == seed]) for seed, _ in mine
        }
        if mine:
            model = by_arm.pop(None)
            tiers[tier] = TierResult(model, list(by_arm.values()))
    return tiers


def _select_scoring_rule(
    found: list[QuadUnitResult],
) -> tuple[ScoringRule, dict[ScoringRule, float]]:
    """The look with the most quads right on the choosing split; pairs decide between equals."""
    looks = list(found[0].scores)
    quads = {
        look: float(np.mean([quad_correct(seen.scores[look]).mean() for seen in found]))
        for look in looks
    }
    pairs = {
        look: float(np.mean([pair_accuracy(seen.scores[look]).mean() for seen in found]))
        for look in looks
    }
    return max(looks, key=lambda look: (quads[look], pairs[look])), quads


def _collect(
    results: Iterable[tuple[int, Any]], units: Sequence[SuiteUnit], stage: str, progress: Progress
) -> list[Any]:
    """Results in the order of the units, told as they come."""
    found: dict[int, Any] = {}
    total, done = sum(unit.num_videos for unit in units), 0
    progress.update(stage, 0, total)
    for number, result in results:
        found[number] = result
        done += units[number].num_videos
        progress.update(stage, done, total, {"scenario": units[number].label})
    return [found[number] for number in range(len(units))]


def _run_in_process(
    job: EvaluateJob, model: Evaluable, rules: SuiteProtocol, units: Sequence[SuiteUnit]
) -> Iterator[tuple[int, Any]]:
    for number, unit in enumerate(units):
        yield number, unit.measure(model, rules)


def _run_on_ray(
    job: EvaluateJob, model: Evaluable, rules: SuiteProtocol, units: Sequence[SuiteUnit]
) -> Iterator[tuple[int, Any]]:
    import ray

    @ray.remote(num_cpus=job.cpus)  # type: ignore[untyped-decorator]
    def task(model: Evaluable, rules: SuiteProtocol, unit: SuiteUnit) -> Any:
        torch.set_num_threads(max(1, int(job.cpus)))
        return unit.measure(model, rules)

    shared = ray.put(model)
    waiting = {task.remote(shared, rules, unit): number for number, unit in enumerate(units)}
    while waiting:
        (ready, *_), _ = ray.wait(list(waiting))
        yield waiting.pop(ready), ray.get(ready)
