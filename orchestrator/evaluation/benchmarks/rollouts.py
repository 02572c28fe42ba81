"""Rollouts on a public benchmark: choose a view, then predict futures, and read states off.

The mask token is chosen where nothing is scored, by the skill over repeating what was last seen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from orchestrator.errors import RequestError
from orchestrator.evaluation.benchmarks import clevrer, moving_mnist
from orchestrator.evaluation.benchmarks.clips import BenchmarkClip, ClipListing
from orchestrator.evaluation.benchmarks.model_inputs import (
    ClipFormat,
    clip_format_of,
    model_or_random,
    pooled_features,
)
from orchestrator.evaluation.benchmarks.scenes import ExcludedItem, ExclusionTally, readable_folder
from orchestrator.evaluation.evaluable import Evaluable
from orchestrator.evaluation.measures.rollout import Rollout, rollout_clips, skill_score
from orchestrator.evaluation.measures.state_probe import StateRows
from orchestrator.evaluation.measures.surprise import ContextSpec, context_specs
from orchestrator.job.config.benchmark import MovingMnist, RolloutBenchmark
from orchestrator.job.config.evaluate import EvaluateJob
from orchestrator.job.config.former_names import former_dump
from orchestrator.progress import Progress
from orchestrator.storage import Storage
from orchestrator.units.map_units import map_units

PROTOCOL_VERSION = 1
"""Raised when the same files and job would give other numbers."""

CLIPS_PER_UNIT = 16
"""Clips that one task looks at."""

RANDOM_CLIPS = 64
"""Clips that each random model predicts, other ones than the one before."""


@dataclass(frozen=True)
class RolloutUnit:
    """What one task measures. `seed` None: the model itself; else a random one of its shape."""

    random_seed: int | None
    clips: tuple[BenchmarkClip, ...]
    context_specs: tuple[ContextSpec, ...]
    """Ways to look; none: states only."""

    with_states: bool


@dataclass
class RolloutUnitResult:
    """What one unit found."""

    names: list[str]
    rollouts: dict[ContextSpec, Rollout] = field(default_factory=dict)
    state_rows: StateRows | None = None
    excluded: list[ExcludedItem] = field(default_factory=list)


@dataclass
class RolloutRawResults:
    """Everything that was measured."""

    clip_format: ClipFormat
    context_spec: ContextSpec
    selection_skill: dict[ContextSpec, float]
    """Skill over copying of each view on the clips that it was chosen on."""

    selection_clips: list[str]
    scored: list[str]
    model: list[Rollout]
    random_models: list[list[Rollout]]
    state_rows: dict[str, tuple[list[StateRows], list[StateRows]]]
    """Rows to fit and rows to score, of the model and of a random one."""

    excluded: list[ExcludedItem]


RolloutContext = tuple[Evaluable, Storage, ClipFormat]


def measure_rollouts(
    job: EvaluateJob,
    benchmark: RolloutBenchmark,
    model: Evaluable,
    progress: Progress,
    *,
    local: bool,
) -> RolloutRawResults:
    """Measure a model's rollouts, and those of random models of its shape.

    Raises:
        RequestError: the folder is not the benchmark, or the model's clip does not fit.
        JobFailed: more clips than `bad_limit` cannot be used.
    """
    shape = clip_format_of(model)
    views = _views(job, model, shape)
    storage = Storage(benchmark.folder)
    with readable_folder(benchmark.folder):
        found = _list_clips(benchmark, storage, shape)
    tally = ExclusionTally(benchmark.bad_limit, benchmark.folder)
    tally.add_listed(found.excluded, len(found.scored) + len(found.selection))
    total = len(found.scored) + len(found.selection) + len(found.excluded)

    def collected(
        stage: str, units: list[RolloutUnit]
    ) -> list[tuple[RolloutUnit, RolloutUnitResult]]:
        """Each unit with what could be used of it; those that could not be used at all are gone."""
        done, every = 0, sum(len(unit.clips) for unit in units)
        shared, seen = (model, storage, shape), {}
        progress.update(stage, 0, every)
        for number, one in map_units(measure_unit, shared, units, cpus=job.cpus, local=local):
            seen[number] = one
            tally.add(one.excluded, total)
            done += len(units[number].clips)
            progress.update(stage, done, every)
        return [(units[number], seen[number]) for number in sorted(seen) if seen[number].names]

    probed = any(clip.annotation for clip in found.scored)
    fitted = [one for _, one in collected("choose", _units(None, found.selection, views, probed))]
    if not fitted:
        raise tally.none_left_error("choose on")
    view, chosen_from = _select_context(fitted)
    units = _units(None, found.scored, (view,), probed)
    if probed and job.random_models:  # one random model reads states off the same clips
        units += _units(0, found.selection, (), True) + _units(0, found.scored, (), True)
    for seed in range(job.random_models):
        units += _units(seed, _sample(found.scored, seed), (view,), False)
    seen = collected("judge", units)
    mine = [one for unit, one in seen if unit.random_seed is None]
    if not mine:
        raise tally.none_left_error("score")
    untaught = [
        [
            one.rollouts[view]
            for unit, one in seen
            if unit.random_seed == seed and unit.context_specs
        ]
        for seed in range(job.random_models)
    ]
    return RolloutRawResults(
        shape,
        view,
        chosen_from,
        [name for one in fitted for name in one.names],
        [name for one in mine for name in one.names],
        [one.rollouts[view] for one in mine],
        [found for found in untaught if found],
        _states(fitted, seen, {clip.name for clip in found.selection}),
        tally.sorted_exclusions(),
    )


def measure_unit(shared: RolloutContext, unit: RolloutUnit) -> RolloutUnitResult:
    """One unit: read its clips, predict their futures, keep rows for a probe."""
    model, storage, shape = shared
    model = model_or_random(model, unit.random_seed)
    clips = (
        moving_mnist.decode_clips if unit.clips[0].sequence is not None else clevrer.decode_clips
    )
    read = clips(storage, unit.clips, shape)
    seen = RolloutUnitResult([clip.name for clip in read.clips], excluded=read.excluded)
    if not read.clips:
        return seen
    seen.rollouts = {view: rollout_clips(model, read.frames, view) for view in unit.context_specs}
    if unit.with_states:
        seen.state_rows = _state_rows(
            pooled_features(model, read.frames), read.targets, shape.tubelet
        )
    return seen


def _state_rows(pooled: np.ndarray, targets: np.ndarray, tubelet: int) -> StateRows:
    """A row for each tubelet whose state is known in all of its frames."""
    state = targets.reshape(len(pooled), -1, tubelet, targets.shape[-1]).mean(2)
    known = np.isfinite(state).all(-1)
    numbers = np.broadcast_to(np.arange(len(pooled))[:, None], known.shape)
    return StateRows(
        pooled[known].astype(np.float32), state[known].astype(np.float32), numbers[known]
    )


def protocol_digest(job: EvaluateJob, benchmark: RolloutBenchmark, rolls: RolloutRawResults) -> str:
    """16 hex digits: equal where numbers can be compared, wherever the files lie."""
    facts: dict[str, Any] = {
        "version": PROTOCOL_VERSION,
        "benchmark": former_dump(benchmark, without=("folder", "bad_limit")),
        "contexts": sorted({view.context for view in rolls.selection_skill}),
        "shape": asdict(rolls.clip_format),
        "chosen_on": sorted(rolls.selection_clips),
        "scored": sorted(rolls.scored),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _list_clips(benchmark: RolloutBenchmark, storage: Storage, shape: ClipFormat) -> ClipListing:
    if isinstance(benchmark, MovingMnist):
        return moving_mnist.list_clips(benchmark, storage, shape)
    return clevrer.list_clips(benchmark, storage)


def _views(job: EvaluateJob, model: Evaluable, shape: ClipFormat) -> tuple[ContextSpec, ...]:
    """One context, half of the clip if none is asked for, with every mask token.

    Raises:
        RequestError: several contexts: their horizons would differ.
    """
    given = job.surprise.context_frames
    if len(given) > 1:
        raise RequestError(
            f"{len(given)} contexts; errors at other horizons cannot be compared",
            where="surprise.context_frames",
            hint="give one for a rollout",
        )
    half = max(shape.tubelet, shape.frames // 2 // shape.tubelet * shape.tubelet)
    return tuple(context_specs(model, given or (half,)))


def _units(
    seed: int | None, clips: Sequence[BenchmarkClip], views: tuple[ContextSpec, ...], probed: bool
) -> list[RolloutUnit]:
    return [
        RolloutUnit(seed, tuple(clips[first : first + CLIPS_PER_UNIT]), views, probed)
        for first in range(0, len(clips), CLIPS_PER_UNIT)
    ]


def _sample(clips: Sequence[BenchmarkClip], seed: int) -> list[BenchmarkClip]:
    numbers = {(seed * RANDOM_CLIPS + i) % len(clips) for i in range(RANDOM_CLIPS)}
    return [clips[number] for number in sorted(numbers)]


def _select_context(
    seen: Sequence[RolloutUnitResult],
) -> tuple[ContextSpec, dict[ContextSpec, float]]:
    skills = {}
    for view in seen[0].rollouts:
        errors = [one.rollouts[view].errors for one in seen]
        mine, copied = (
            np.concatenate([each[rule] for each in errors]).mean() for rule in ("model", "copy")
        )
        skills[view] = float(skill_score(mine, copied))
    return max(skills, key=lambda view: skills[view]), skills


def _states(
    fitted: Sequence[RolloutUnitResult],
    seen: Sequence[tuple[RolloutUnit, RolloutUnitResult]],
    chosen_on: set[str],
) -> dict[str, tuple[list[StateRows], list[StateRows]]]:
    """Each arm's rows to fit and to score; nothing where there are no states."""

    def rows(found: Sequence[RolloutUnitResult]) -> list[StateRows]:
        return [one.state_rows for one in found if one.state_rows is not None]

    states = {
        "model": (rows(fitted), rows([one for unit, one in seen if unit.random_seed is None]))
    }
    untaught = [one for unit, one in seen if unit.random_seed is not None and unit.with_states]
    states["random"] = (
        rows([one for one in untaught if one.names[0] in chosen_on]),
        rows([one for one in untaught if one.names[0] not in chosen_on]),
    )
    return {name: both for name, both in states.items() if both[0] and both[1]}
