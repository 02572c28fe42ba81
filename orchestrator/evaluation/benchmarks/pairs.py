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
from orchestrator.evaluation.benchmarks.decode import decode_pairs
from orchestrator.evaluation.benchmarks.model_inputs import (
    ClipFormat,
    clip_format_of,
    model_or_random,
)
from orchestrator.evaluation.benchmarks.scenes import (
    Align,
    BenchmarkScene,
    ExcludedItem,
    ExclusionTally,
    SceneListing,
    readable_folder,
    split_selection_and_scored,
)
from orchestrator.evaluation.evaluable import Evaluable
from orchestrator.evaluation.measures.surprise import (
    AGGREGATES,
    ContextSpec,
    SlidingWindows,
    aggregate_errors,
    context_specs,
    surprise,
    surprise_by_frame,
)
from orchestrator.evaluation.suite.measure import ScoringRule
from orchestrator.job.config.benchmark import Grasp, InfLevel, IntPhys, ViolationOfExpectation
from orchestrator.job.config.evaluate import EvaluateJob
from orchestrator.job.config.former_names import former_dump
from orchestrator.progress import Progress
from orchestrator.storage import Storage
from orchestrator.units.map_units import map_units

PROTOCOL_VERSION = 1
"""Raised when the same files and job would give other numbers."""

SCENES_PER_UNIT = 4
"""Scenes that one task looks at."""


@dataclass(frozen=True)
class PairsProtocol:
    """How videos are shown, beside which."""

    clip_format: ClipFormat
    stride: int
    context_specs: tuple[ContextSpec, ...]
    align: Align

    def windows(self, frames: int) -> SlidingWindows:
        """Where windows lie in a video.

        Raises:
            DataError: it is shorter than the model's clip.
        """
        shape = self.clip_format
        if frames < shape.frames:
            raise DataError(
                f"has {frames} frames at {shape.fps:g} a second, the model's clip has"
                f" {shape.frames}"
            )
        return SlidingWindows.with_stride(frames, shape.frames, self.stride, shape.tubelet)

    def decode_pairs(self, storage: Storage, scene: BenchmarkScene) -> list[np.ndarray]:
        """A scene's pairs as the model sees them, uint8 [2, T, size, size, 3].

        Raises:
            DataError: see `decode.decode_pairs`.
        """
        shape = self.clip_format
        found = decode_pairs(storage, scene, shape.size, shape.fps, self.align)
        return [np.stack(pair) for pair in found]


@dataclass(frozen=True)
class PairsUnit:
    """What one task measures. `seed` None: the model itself; else a random one of its shape."""

    random_seed: int | None
    scenes: tuple[BenchmarkScene, ...]


@dataclass(frozen=True)
class SceneScores:
    """What was measured of one scene."""

    scene: BenchmarkScene
    scores: dict[ScoringRule, np.ndarray]
    """Surprise, float [pairs, 2]: possible, impossible."""


@dataclass
class PairsRawResults:
    """Everything that was measured."""

    protocol: PairsProtocol
    scoring_rule: ScoringRule
    selection_accuracy: dict[ScoringRule, float]
    """Pair accuracy of each look on the scenes that it was chosen on."""

    selection_scenes: list[str]
    """Names of those scenes."""

    model: list[SceneScores]
    random_models: list[list[SceneScores]]
    excluded: list[ExcludedItem]
    duplicates: list[str]
    """Scenes that are not scored because they show videos that were chosen on."""


PairsContext = tuple[Evaluable, Storage, PairsProtocol]


def list_scenes(benchmark: ViolationOfExpectation, storage: Storage) -> SceneListing:
    """A benchmark's scenes.

    Raises:
        RequestError: the folder is not what the benchmark unpacks to.
    """
    if isinstance(benchmark, IntPhys):
        return intphys.list_scenes(benchmark, storage)
    if isinstance(benchmark, Grasp):
        return grasp.list_scenes(benchmark, storage)
    if isinstance(benchmark, InfLevel):
        return inflevel.list_scenes(benchmark, storage)
    return intphys2.list_scenes(benchmark, storage)


def measure_pairs(
    job: EvaluateJob,
    benchmark: ViolationOfExpectation,
    model: Evaluable,
    progress: Progress,
    *,
    local: bool,
) -> PairsRawResults:
    """Measure a model, and random ones of its shape, on a benchmark's pairs.

    Raises:
        RequestError: the folder is not the benchmark, or the model cannot predict.
        JobFailed: more scenes than `bad_limit` cannot be used.
    """
    views = tuple(context_specs(model, job.surprise.context_frames))
    storage = Storage(benchmark.folder)
    with readable_folder(benchmark.folder):
        found = list_scenes(benchmark, storage)
    tally = ExclusionTally(benchmark.bad_limit, benchmark.folder)
    tally.add_listed(found.excluded, len(found.scored) + len(found.selection))
    choosing, scoring = split_selection_and_scored(
        found, benchmark.selection_fraction, benchmark.scenes
    )
    total = len(choosing) + len(scoring) + len(found.excluded)
    protocol = PairsProtocol(clip_format_of(model), job.surprise.stride, views, found.align)

    def collected(
        stage: str, protocol: PairsProtocol, units: list[PairsUnit]
    ) -> list[list[SceneScores]]:
        """Of each unit the scenes that could be used."""
        seen: list[list[SceneScores]] = [[] for _ in units]
        done, every = 0, sum(len(unit.scenes) for unit in units)
        progress.update(stage, 0, every)
        shared = (model, storage, protocol)
        for number, results in map_units(measure_unit, shared, units, cpus=job.cpus, local=local):
            seen[number] = [one for one in results if isinstance(one, SceneScores)]
            tally.add((one for one in results if isinstance(one, ExcludedItem)), total)
            done += len(units[number].scenes)
            progress.update(stage, done, every, {"property": units[number].scenes[0].property})
        return seen

    chosen_on = [
        one for unit in collected("choose", protocol, _units(None, choosing)) for one in unit
    ]
    if not chosen_on:
        raise tally.none_left_error("choose on")
    look, chosen_from = _select_scoring_rule(chosen_on)
    units = _units(None, scoring)
    for seed in range(job.random_models):
        units += _units(seed, _sample(scoring, seed, job.random_quads))
    by_arm: dict[int | None, list[SceneScores]] = {}
    seen = collected("judge", replace(protocol, context_specs=(look.context_spec,)), units)
    for unit, scenes in zip(units, seen, strict=True):
        by_arm.setdefault(unit.random_seed, []).extend(scenes)
    mine = by_arm.pop(None, [])
    if not mine:
        raise tally.none_left_error("score")
    return PairsRawResults(
        protocol,
        look,
        chosen_from,
        [one.scene.name for one in chosen_on],
        mine,
        [scenes for scenes in by_arm.values() if scenes],
        tally.sorted_exclusions(),
        found.duplicates,
    )


def measure_unit(shared: PairsContext, unit: PairsUnit) -> list[SceneScores | ExcludedItem]:
    """One unit: decode its scenes and look at them; a scene that cannot be used says why."""
    model, storage, protocol = shared
    model = model_or_random(model, unit.random_seed)
    found: list[SceneScores | ExcludedItem] = []
    for scene in unit.scenes:
        try:
            found.append(_score_scene(model, storage, protocol, scene))
        except DataError as error:
            text = f"{error.where}: {error.what}" if error.where else error.what
            found.append(ExcludedItem(scene.name, text))
    return found


def _score_scene(
    model: Evaluable, storage: Storage, protocol: PairsProtocol, scene: BenchmarkScene
) -> SceneScores:
    scores: dict[ScoringRule, list[np.ndarray]] = {}
    for videos in protocol.decode_pairs(storage, scene):
        errors = surprise(model, videos, protocol.context_specs, protocol.windows(videos.shape[1]))
        for view, error in errors.items():
            for how in AGGREGATES:
                scores.setdefault(ScoringRule(view, how), []).append(aggregate_errors(error, how))
    return SceneScores(scene, {look: np.stack(each) for look, each in scores.items()})


def case_videos(
    model: Evaluable,
    storage: Storage,
    protocol: PairsProtocol,
    look: ScoringRule,
    scene: BenchmarkScene,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For a picture: each pair's videos, uint8 [2, T, size, size, 3], and curves [2, T]."""
    shown = []
    for videos in protocol.decode_pairs(storage, scene):
        errors = surprise(model, videos, (look.context_spec,), protocol.windows(videos.shape[1]))
        shown.append((videos, surprise_by_frame(errors[look.context_spec])))
    return shown


def protocol_digest(
    job: EvaluateJob, benchmark: ViolationOfExpectation, findings: PairsRawResults
) -> str:
    """16 hex digits: equal where scores can be compared, wherever the files lie."""
    protocol = findings.protocol
    facts: dict[str, Any] = {
        "version": PROTOCOL_VERSION,
        "benchmark": former_dump(benchmark, without=("folder", "priming", "bad_limit")),
        "priming_shown": getattr(benchmark, "priming", None) is None,
        "surprise": former_dump(job.surprise),
        "shape": asdict(protocol.clip_format),
        "contexts": sorted({view.context for view in protocol.context_specs}),
        "chosen_on": sorted(findings.selection_scenes),
        "scored": sorted(one.scene.name for one in findings.model),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _units(seed: int | None, scenes: Sequence[BenchmarkScene]) -> list[PairsUnit]:
    """Runs of scenes of one property."""
    units = []
    for name in dict.fromkeys(scene.property for scene in scenes):
        mine = [scene for scene in scenes if scene.property == name]
        units += [
            PairsUnit(seed, tuple(mine[first : first + SCENES_PER_UNIT]))
            for first in range(0, len(mine), SCENES_PER_UNIT)
        ]
    return units


def _sample(scenes: Sequence[BenchmarkScene], seed: int, count: int) -> list[BenchmarkScene]:
    """Some scenes of each property; the next seed gets the next ones, round and round."""
    chosen = []
    for name in dict.fromkeys(scene.property for scene in scenes):
        mine = [scene for scene in scenes if scene.property == name]
        numbers = {(seed * count + i) % len(mine) for i in range(count)}
        chosen += [mine[number] for number in sorted(numbers)]
    return chosen


def _select_scoring_rule(
    seen: Sequence[SceneScores],
) -> tuple[ScoringRule, dict[ScoringRule, float]]:
    """The look with the most pairs right; how clearly decides between equals."""
    accuracy, margin = {}, {}
    for look in seen[0].scores:
        values = np.concatenate([one.scores[look] for one in seen])
        right = (values[:, 0] < values[:, 1]) + 0.5 * (values[:, 0] == values[:, 1])
        accuracy[look] = float(right.mean())
        apart = values[:, 1] - values[:, 0]
        margin[look] = float(apart.mean() / (np.abs(apart).mean() + 1e-12))
    return max(accuracy, key=lambda look: (accuracy[look], margin[look])), accuracy
