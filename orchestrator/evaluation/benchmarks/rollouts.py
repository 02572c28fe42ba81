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
from orchestrator.evaluation.benchmarks.clips import Clip, ClipRead
from orchestrator.evaluation.benchmarks.model_inputs import Shape, arm, pooled_features, shape_of
from orchestrator.evaluation.benchmarks.scenes import Fault, Tally, listing
from orchestrator.evaluation.evaluable import Judgeable
from orchestrator.evaluation.measures.rollout import Rollout, roll_out, skill
from orchestrator.evaluation.measures.state_probe import StateRows
from orchestrator.evaluation.measures.surprise import View, views_of
from orchestrator.job.config.benchmark import MovingMnist, Rolled
from orchestrator.job.config.evaluate import EvaluateJob
from orchestrator.progress import Progress
from orchestrator.storage import Storage
from orchestrator.units.map_units import spread

VERSION = 1
"""Raised when the same files and job would give other numbers."""

PER_UNIT = 16
"""Clips that one task looks at."""

RANDOM_CLIPS = 64
"""Clips that each random model predicts, other ones than the one before."""


@dataclass(frozen=True)
class Unit:
    """What one task measures. `seed` None: the model itself; else a random one of its shape."""

    seed: int | None
    clips: tuple[Clip, ...]
    views: tuple[View, ...]
    """Ways to look; none: states only."""

    probed: bool


@dataclass
class SeenClips:
    """What one unit found."""

    names: list[str]
    rollouts: dict[View, Rollout] = field(default_factory=dict)
    states: StateRows | None = None
    faults: list[Fault] = field(default_factory=list)


@dataclass
class Rolls:
    """Everything that was measured."""

    shape: Shape
    view: View
    chosen_from: dict[View, float]
    """Skill over copying of each view on the clips that it was chosen on."""

    chosen_on: list[str]
    scored: list[str]
    model: list[Rollout]
    random: list[list[Rollout]]
    states: dict[str, tuple[list[StateRows], list[StateRows]]]
    """Rows to fit and rows to score, of the model and of a random one."""

    faults: list[Fault]


Shared = tuple[Judgeable, Storage, Shape]


def judge_rolls(
    job: EvaluateJob, benchmark: Rolled, model: Judgeable, progress: Progress, *, local: bool
) -> Rolls:
    """Measure a model's rollouts, and those of random models of its shape.

    Raises:
        RequestError: the folder is not the benchmark, or the model's clip does not fit.
        JobFailed: more clips than `bad_limit` cannot be used.
    """
    shape = shape_of(model)
    views = _views(job, model, shape)
    storage = Storage(benchmark.folder)
    with listing(benchmark.folder):
        found = _read(benchmark, storage, shape)
    tally = Tally(benchmark.bad_limit, benchmark.folder)
    tally.begin(found.faults, len(found.scored) + len(found.chosen_on))
    total = len(found.scored) + len(found.chosen_on) + len(found.faults)

    def collected(stage: str, units: list[Unit]) -> list[tuple[Unit, SeenClips]]:
        """Each unit with what could be used of it; those that could not be used at all are gone."""
        done, every = 0, sum(len(unit.clips) for unit in units)
        shared, seen = (model, storage, shape), {}
        progress.update(stage, 0, every)
        for number, one in spread(measure, shared, units, cpus=job.cpus, local=local):
            seen[number] = one
            tally.add(one.faults, total)
            done += len(units[number].clips)
            progress.update(stage, done, every)
        return [(units[number], seen[number]) for number in sorted(seen) if seen[number].names]

    probed = any(clip.annotation for clip in found.scored)
    fitted = [one for _, one in collected("choose", _units(None, found.chosen_on, views, probed))]
    if not fitted:
        raise tally.nothing_left("choose on")
    view, chosen_from = _choose(fitted)
    units = _units(None, found.scored, (view,), probed)
    if probed and job.random:  # one random model reads states off the same clips
        units += _units(0, found.chosen_on, (), True) + _units(0, found.scored, (), True)
    for seed in range(job.random):
        units += _units(seed, _sample(found.scored, seed), (view,), False)
    seen = collected("judge", units)
    mine = [one for unit, one in seen if unit.seed is None]
    if not mine:
        raise tally.nothing_left("score")
    untaught = [
        [one.rollouts[view] for unit, one in seen if unit.seed == seed and unit.views]
        for seed in range(job.random)
    ]
    return Rolls(
        shape,
        view,
        chosen_from,
        [name for one in fitted for name in one.names],
        [name for one in mine for name in one.names],
        [one.rollouts[view] for one in mine],
        [found for found in untaught if found],
        _states(fitted, seen, {clip.name for clip in found.chosen_on}),
        tally.named(),
    )


def measure(shared: Shared, unit: Unit) -> SeenClips:
    """One unit: read its clips, predict their futures, keep rows for a probe."""
    model, storage, shape = shared
    model = arm(model, unit.seed)
    clips = moving_mnist.frames if unit.clips[0].sequence is not None else clevrer.frames
    read = clips(storage, unit.clips, shape)
    seen = SeenClips([clip.name for clip in read.clips], faults=read.faults)
    if not read.clips:
        return seen
    seen.rollouts = {view: roll_out(model, read.frames, view) for view in unit.views}
    if unit.probed:
        seen.states = _rows(pooled_features(model, read.frames), read.targets, shape.tubelet)
    return seen


def _rows(pooled: np.ndarray, targets: np.ndarray, tubelet: int) -> StateRows:
    """A row for each tubelet whose state is known in all of its frames."""
    state = targets.reshape(len(pooled), -1, tubelet, targets.shape[-1]).mean(2)
    known = np.isfinite(state).all(-1)
    numbers = np.broadcast_to(np.arange(len(pooled))[:, None], known.shape)
    return StateRows(
        pooled[known].astype(np.float32), state[known].astype(np.float32), numbers[known]
    )


def digest(job: EvaluateJob, benchmark: Rolled, rolls: Rolls) -> str:
    """16 hex digits: equal where numbers can be compared, wherever the files lie."""
    facts: dict[str, Any] = {
        "version": VERSION,
        "benchmark": benchmark.model_dump(mode="json", exclude={"folder", "bad_limit"}),
        "contexts": sorted({view.context for view in rolls.chosen_from}),
        "shape": asdict(rolls.shape),
        "chosen_on": sorted(rolls.chosen_on),
        "scored": sorted(rolls.scored),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _read(benchmark: Rolled, storage: Storage, shape: Shape) -> ClipRead:
    if isinstance(benchmark, MovingMnist):
        return moving_mnist.read(benchmark, storage, shape)
    return clevrer.read(benchmark, storage)


def _views(job: EvaluateJob, model: Judgeable, shape: Shape) -> tuple[View, ...]:
    """One context, half of the clip if none is asked for, with every mask token.

    Raises:
        RequestError: several contexts: their horizons would differ.
    """
    given = job.surprise.contexts
    if len(given) > 1:
        raise RequestError(
            f"{len(given)} contexts; errors at other horizons cannot be compared",
            where="surprise.contexts",
            mend="give one for a rollout",
        )
    half = max(shape.tubelet, shape.frames // 2 // shape.tubelet * shape.tubelet)
    return tuple(views_of(model, given or (half,)))


def _units(
    seed: int | None, clips: Sequence[Clip], views: tuple[View, ...], probed: bool
) -> list[Unit]:
    return [
        Unit(seed, tuple(clips[first : first + PER_UNIT]), views, probed)
        for first in range(0, len(clips), PER_UNIT)
    ]


def _sample(clips: Sequence[Clip], seed: int) -> list[Clip]:
    numbers = {(seed * RANDOM_CLIPS + i) % len(clips) for i in range(RANDOM_CLIPS)}
    return [clips[number] for number in sorted(numbers)]


def _choose(seen: Sequence[SeenClips]) -> tuple[View, dict[View, float]]:
    skills = {}
    for view in seen[0].rollouts:
        errors = [one.rollouts[view].errors for one in seen]
        mine, copied = (
            np.concatenate([each[rule] for each in errors]).mean() for rule in ("model", "copy")
        )
        skills[view] = float(skill(mine, copied))
    return max(skills, key=lambda view: skills[view]), skills


def _states(
    fitted: Sequence[SeenClips], seen: Sequence[tuple[Unit, SeenClips]], chosen_on: set[str]
) -> dict[str, tuple[list[StateRows], list[StateRows]]]:
    """Each arm's rows to fit and to score; nothing where there are no states."""

    def rows(found: Sequence[SeenClips]) -> list[StateRows]:
        return [one.states for one in found if one.states is not None]

    states = {"model": (rows(fitted), rows([one for unit, one in seen if unit.seed is None]))}
    untaught = [one for unit, one in seen if unit.seed is not None and unit.probed]
    states["random"] = (
        rows([one for one in untaught if one.names[0] in chosen_on]),
        rows([one for one in untaught if one.names[0] not in chosen_on]),
    )
    return {name: both for name, both in states.items() if both[0] and both[1]}
