"""Violated expectations on a public benchmark: choose how to look, then measure surprise.

How to look (context, mask token, mean or worst window) is chosen on scenes that are never scored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from orchestrator.errors import DataError
from orchestrator.evaluation.benchmarks import grasp, inflevel, intphys, intphys2
from orchestrator.evaluation.benchmarks.decode import pair_frames
from orchestrator.evaluation.benchmarks.model_inputs import Shape, arm, shape_of
from orchestrator.evaluation.benchmarks.scenes import (
    Align,
    Fault,
    Read,
    Scene,
    Tally,
    divided,
    listing,
)
from orchestrator.evaluation.evaluable import Judgeable
from orchestrator.evaluation.measures.surprise import (
    AGGREGATES,
    View,
    Windows,
    aggregated,
    curve,
    surprise,
    views_of,
)
from orchestrator.evaluation.suite.measure import Look
from orchestrator.job.config.benchmark import Grasp, InfLevel, IntPhys, Surprising
from orchestrator.job.config.evaluate import EvaluateJob
from orchestrator.progress import Progress
from orchestrator.storage import Storage
from orchestrator.units.map_units import spread

VERSION = 1
"""Raised when the same files and job would give other numbers."""

PER_UNIT = 4
"""Scenes that one task looks at."""


@dataclass(frozen=True)
class Protocol:
    """How videos are shown, beside which."""

    shape: Shape
    stride: int
    views: tuple[View, ...]
    align: Align

    def windows(self, frames: int) -> Windows:
        """Where windows lie in a video.

        Raises:
            DataError: it is shorter than the model's clip.
        """
        shape = self.shape
        if frames < shape.frames:
            raise DataError(
                f"has {frames} frames at {shape.fps:g} a second, the model's clip has"
                f" {shape.frames}"
            )
        return Windows.over(frames, shape.frames, self.stride, shape.tubelet)

    def pairs(self, storage: Storage, scene: Scene) -> list[np.ndarray]:
        """A scene's pairs as the model sees them, uint8 [2, T, size, size, 3].

        Raises:
            DataError: see `frames.pair_frames`.
        """
        shape = self.shape
        found = pair_frames(storage, scene, shape.size, shape.fps, self.align)
        return [np.stack(pair) for pair in found]


@dataclass(frozen=True)
class Unit:
    """What one task measures. `seed` None: the model itself; else a random one of its shape."""

    seed: int | None
    scenes: tuple[Scene, ...]


@dataclass(frozen=True)
class SeenScene:
    """What was measured of one scene."""

    scene: Scene
    scores: dict[Look, np.ndarray]
    """Surprise, float [pairs, 2]: possible, impossible."""


@dataclass
class Findings:
    """Everything that was measured."""

    protocol: Protocol
    look: Look
    chosen_from: dict[Look, float]
    """Pair accuracy of each look on the scenes that it was chosen on."""

    chosen_on: list[str]
    """Names of those scenes."""

    model: list[SeenScene]
    random: list[list[SeenScene]]
    faults: list[Fault]
    twins: list[str]
    """Scenes that are not scored because they show videos that were chosen on."""


Shared = tuple[Judgeable, Storage, Protocol]


def read(benchmark: Surprising, storage: Storage) -> Read:
    """A benchmark's scenes.

    Raises:
        RequestError: the folder is not what the benchmark unpacks to.
    """
    if isinstance(benchmark, IntPhys):
        return intphys.read(benchmark, storage)
    if isinstance(benchmark, Grasp):
        return grasp.read(benchmark, storage)
    if isinstance(benchmark, InfLevel):
        return inflevel.read(benchmark, storage)
    return intphys2.read(benchmark, storage)


def judge_pairs(
    job: EvaluateJob, benchmark: Surprising, model: Judgeable, progress: Progress, *, local: bool
) -> Findings:
    """Measure a model, and random ones of its shape, on a benchmark's pairs.

    Raises:
        RequestError: the folder is not the benchmark, or the model cannot predict.
        JobFailed: more scenes than `bad_limit` cannot be used.
    """
    views = tuple(views_of(model, job.surprise.contexts))
    storage = Storage(benchmark.folder)
    with listing(benchmark.folder):
        found = read(benchmark, storage)
    tally = Tally(benchmark.bad_limit, benchmark.folder)
    tally.begin(found.faults, len(found.scored) + len(found.chosen_on))
    choosing, scoring = divided(found, benchmark.choose_share, benchmark.scenes)
    total = len(choosing) + len(scoring) + len(found.faults)
    protocol = Protocol(shape_of(model), job.surprise.stride, views, found.align)

    def collected(stage: str, protocol: Protocol, units: list[Unit]) -> list[list[SeenScene]]:
        """Of each unit the scenes that could be used."""
        seen: list[list[SeenScene]] = [[] for _ in units]
        done, every = 0, sum(len(unit.scenes) for unit in units)
        progress.update(stage, 0, every)
        shared = (model, storage, protocol)
        for number, results in spread(measure, shared, units, cpus=job.cpus, local=local):
            seen[number] = [one for one in results if isinstance(one, SeenScene)]
            tally.add((one for one in results if isinstance(one, Fault)), total)
            done += len(units[number].scenes)
            progress.update(stage, done, every, {"property": units[number].scenes[0].property})
        return seen

    chosen_on = [
        one for unit in collected("choose", protocol, _units(None, choosing)) for one in unit
    ]
    if not chosen_on:
        raise tally.nothing_left("choose on")
    look, chosen_from = _choose(chosen_on)
    units = _units(None, scoring)
    for seed in range(job.random):
        units += _units(seed, _sample(scoring, seed, job.random_quads))
    by_arm: dict[int | None, list[SeenScene]] = {}
    seen = collected("judge", replace(protocol, views=(look.view,)), units)
    for unit, scenes in zip(units, seen, strict=True):
        by_arm.setdefault(unit.seed, []).extend(scenes)
    mine = by_arm.pop(None, [])
    if not mine:
        raise tally.nothing_left("score")
    return Findings(
        protocol,
        look,
        chosen_from,
        [one.scene.name for one in chosen_on],
        mine,
        [scenes for scenes in by_arm.values() if scenes],
        tally.named(),
        found.twins,
    )


def measure(shared: Shared, unit: Unit) -> list[SeenScene | Fault]:
    """One unit: decode its scenes and look at them; a scene that cannot be used says why."""
    model, storage, protocol = shared
    model = arm(model, unit.seed)
    found: list[SeenScene | Fault] = []
    for scene in unit.scenes:
        try:
            found.append(_seen(model, storage, protocol, scene))
        except DataError as error:
            text = f"{error.where}: {error.what}" if error.where else error.what
            found.append(Fault(scene.name, text))
    return found


def _seen(model: Judgeable, storage: Storage, protocol: Protocol, scene: Scene) -> SeenScene:
    scores: dict[Look, list[np.ndarray]] = {}
    for videos in protocol.pairs(storage, scene):
        errors = surprise(model, videos, protocol.views, protocol.windows(videos.shape[1]))
        for view, error in errors.items():
            for how in AGGREGATES:
                scores.setdefault(Look(view, how), []).append(aggregated(error, how))
    return SeenScene(scene, {look: np.stack(each) for look, each in scores.items()})


def watched(
    model: Judgeable, storage: Storage, protocol: Protocol, look: Look, scene: Scene
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For a picture: each pair's videos, uint8 [2, T, size, size, 3], and curves [2, T]."""
    shown = []
    for videos in protocol.pairs(storage, scene):
        errors = surprise(model, videos, (look.view,), protocol.windows(videos.shape[1]))
        shown.append((videos, curve(errors[look.view])))
    return shown


def digest(job: EvaluateJob, benchmark: Surprising, findings: Findings) -> str:
    """16 hex digits: equal where scores can be compared, wherever the files lie."""
    protocol = findings.protocol
    facts: dict[str, Any] = {
        "version": VERSION,
        "benchmark": benchmark.model_dump(mode="json", exclude={"folder", "priming", "bad_limit"}),
        "priming_shown": getattr(benchmark, "priming", None) is None,
        "surprise": job.surprise.model_dump(mode="json"),
        "shape": asdict(protocol.shape),
        "contexts": sorted({view.context for view in protocol.views}),
        "chosen_on": sorted(findings.chosen_on),
        "scored": sorted(one.scene.name for one in findings.model),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _units(seed: int | None, scenes: Sequence[Scene]) -> list[Unit]:
    """Runs of scenes of one property."""
    units = []
    for name in dict.fromkeys(scene.property for scene in scenes):
        mine = [scene for scene in scenes if scene.property == name]
        units += [
            Unit(seed, tuple(mine[first : first + PER_UNIT]))
            for first in range(0, len(mine), PER_UNIT)
        ]
    return units


def _sample(scenes: Sequence[Scene], seed: int, count: int) -> list[Scene]:
    """Some scenes of each property; the next seed gets the next ones, round and round."""
    chosen = []
    for name in dict.fromkeys(scene.property for scene in scenes):
        mine = [scene for scene in scenes if scene.property == name]
        numbers = {(seed * count + i) % len(mine) for i in range(count)}
        chosen += [mine[number] for number in sorted(numbers)]
    return chosen


def _choose(seen: Sequence[SeenScene]) -> tuple[Look, dict[Look, float]]:
    """The look with the most pairs right; how clearly decides between equals."""
    accuracy, margin = {}, {}
    for look in seen[0].scores:
        values = np.concatenate([one.scores[look] for one in seen])
        right = (values[:, 0] < values[:, 1]) + 0.5 * (values[:, 0] == values[:, 1])
        accuracy[look] = float(right.mean())
        apart = values[:, 1] - values[:, 0]
        margin[look] = float(apart.mean() / (np.abs(apart).mean() + 1e-12))
    return max(accuracy, key=lambda look: (accuracy[look], margin[look])), accuracy
