"""From a model and a suite to a verdict: choose how to look, measure, compare with nothing learnt.

Work is cut into units (one arm, one split, one scenario) that run side by side on Ray, or one
after the other in this process.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from orchestrator.errors import RequestError, suggest
from orchestrator.evaluation.ranks import Ranks, ranks_of
from orchestrator.evaluation.rollout import Rollout, roll_out
from orchestrator.evaluation.states import StateRows, state_rows
from orchestrator.evaluation.surprise import (
    AGGREGATES,
    View,
    Windows,
    aggregated,
    curve,
    surprise,
    views_of,
)
from orchestrator.jepa.hub import WorldModel, random_model
from orchestrator.job.evaluate import EvaluateJob, Suite
from orchestrator.physics.suite import PROTOCOL_VERSION, SCENARIOS, UNPROVEN, Quad, make_quad
from orchestrator.physics.suite.baselines import baseline_scores
from orchestrator.progress import Progress

RANKED = 4
"""Quads of a scenario that the ranks of features are taken of."""


@dataclass(frozen=True)
class Look:
    """A view, and how its errors become one number."""

    view: View
    aggregate: str


@dataclass(frozen=True)
class Unit:
    """What one task measures. `seed` None: the model itself; else a random one of its shape."""

    seed: int | None
    split: str
    scenario: str
    quads: int
    first: int = 0
    """Number of the first quad."""

    whole: bool = False
    """Whether baselines, ranks and rollouts are wanted too."""


@dataclass
class Seen:
    """What one unit found."""

    scores: dict[Look, np.ndarray]
    """float [quads, 2, 2]."""

    curves: dict[View, np.ndarray]
    """float [quads, 2, 2, frames]."""

    t_break: np.ndarray
    states: StateRows | None
    """Of the possible videos, for a probe."""

    baselines: dict[str, np.ndarray] = field(default_factory=dict)
    """What rules that need no model say: float [quads, 2, 2]."""

    ranks: list[Ranks] = field(default_factory=list)
    rollouts: list[Rollout] = field(default_factory=list)


@dataclass(frozen=True)
class Protocol:
    """All that decides a score, beside the model."""

    scenarios: tuple[str, ...]
    size: int
    fps: float
    windows: Windows
    views: tuple[View, ...]
    seed: int

    def digest(self, job: EvaluateJob) -> str:
        """16 hex digits: equal where scores can be compared."""
        facts: dict[str, Any] = {
            "suite": PROTOCOL_VERSION,
            "job": job.suite.model_dump(mode="json"),
            "surprise": job.surprise.model_dump(mode="json"),
            "size": self.size,
            "fps": self.fps,
            "windows": [self.windows.length, *self.windows.starts],
            "contexts": sorted({view.context for view in self.views}),
            "scenarios": self.scenarios,
        }
        text = json.dumps(facts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def quad(self, split: str, scenario: str, number: int) -> Quad:
        """One quadruplet, as the model is to see it."""
        return make_quad(
            scenario,
            split,
            number,
            size=self.size,
            fps=self.fps,
            frames=self.windows.frames,
            seed=self.seed,
        )


@dataclass
class Findings:
    """Everything that was measured."""

    protocol: Protocol
    look: Look
    chosen_from: dict[Look, float]
    """Quad accuracy of each look on the split that it was chosen on."""

    model: dict[str, Seen]
    random: list[dict[str, Seen]]
    states: dict[str, tuple[list[StateRows], list[StateRows]]]
    """For a probe of the model, and of a random one: rows to fit, of the split that the look was
    chosen on, and rows to score."""


def protocol_of(job: EvaluateJob, model: WorldModel) -> Protocol:
    """What is shown to this model, and how.

    Raises:
        RequestError: an unknown scenario, a window that does not fit, a model that cannot predict.
    """
    for name in job.suite.scenarios:
        if name not in SCENARIOS:
            raise RequestError(
                f"unknown scenario '{name}'",
                where="suite.scenarios",
                mend=suggest(name, SCENARIOS),
            )
    config = model.config
    return Protocol(
        scenarios=job.suite.scenarios or tuple(s for s in SCENARIOS if s not in UNPROVEN),
        size=config.size,
        fps=float(config.job["data"]["fps"]),
        windows=Windows.over(
            job.suite.frames, config.frames, job.surprise.stride, config.model.tubelet
        ),
        views=tuple(views_of(model, job.surprise.contexts)),
        seed=job.suite.seed,
    )


def judge(job: EvaluateJob, model: WorldModel, progress: Progress, *, local: bool) -> Findings:
    """Measure a model, and random ones of its shape, on a suite.

    Raises:
        RequestError: model and suite do not fit.
    """
    protocol = protocol_of(job, model)
    run = _alone if local else _on_ray
    suite = job.suite
    choosing = [
        Unit(None, suite.choose, scenario, suite.choose_quads) for scenario in protocol.scenarios
    ]
    fitted = _collect(run, job, model, protocol, choosing, "choose", progress)
    look, chosen_from = _choose([seen for _, seen in fitted])
    narrow, blind = replace(protocol, views=(look.view,)), replace(protocol, views=())
    units = [
        Unit(None, suite.split, scenario, suite.quads, whole=True)
        for scenario in protocol.scenarios
    ]
    untaught = [replace(unit, seed=0, whole=False) for unit in choosing + units if job.random]
    unseen = _collect(run, job, model, blind, untaught, "probe", progress)
    # Each random model sees quads of its own, so that together they see many.
    units += [
        Unit(seed, suite.split, scenario, job.random_quads, seed * job.random_quads)
        for seed in range(job.random)
        for scenario in protocol.scenarios
    ]
    found = _collect(run, job, model, narrow, units, "judge", progress)
    judged = {unit.scenario: seen for unit, seen in found if unit.seed is None}
    states = {"model": _states(fitted + found, None, suite)}
    if unseen:
        states["random"] = _states(unseen, 0, suite)
    return Findings(
        protocol,
        look,
        chosen_from,
        judged,
        [
            {unit.scenario: seen for unit, seen in found if unit.seed == seed}
            for seed in range(job.random)
        ],
        states,
    )


def _states(
    found: list[tuple[Unit, Seen]], seed: int | None, suite: Suite
) -> tuple[list[StateRows], list[StateRows]]:
    """One arm's rows of the choosing split, and of the scored one."""
    mine = [(unit.split, seen.states) for unit, seen in found if unit.seed == seed]
    fit, score = (
        [rows for split, rows in mine if split == which and rows is not None]
        for which in (suite.choose, suite.split)
    )
    return fit, score


def measure(model: WorldModel, protocol: Protocol, unit: Unit) -> Seen:
    """One unit: render its quads, look at them, and score them."""
    if unit.seed is not None:
        model = random_model(model.config, unit.seed)
    numbers = range(unit.first, unit.first + unit.quads)
    quads = [protocol.quad(unit.split, unit.scenario, number) for number in numbers]
    breaks = np.array([quad.t_break for quad in quads])
    # A random model is either probed or surprised: nothing is seen twice.
    probed = unit.seed is None or not protocol.views
    seen = Seen({}, {}, breaks, state_rows(model, quads) if probed else None)
    errors: dict[View, list[np.ndarray]] = {view: [] for view in protocol.views}
    baselines = []
    for quad in quads:
        videos = quad.videos.reshape(4, *quad.videos.shape[2:])
        for view, error in surprise(model, videos, protocol.views, protocol.windows).items():
            errors[view].append(error.reshape(2, 2, *error.shape[1:]))
        if unit.whole:
            possible = videos[[0, 3]]
            baselines.append(baseline_scores(quad))
            if len(seen.ranks) < RANKED:
                seen.ranks.append(ranks_of(model, possible, protocol.windows))
            last = possible[:, -protocol.windows.length :]
            seen.rollouts.append(roll_out(model, last, protocol.views[0]))
    for view, each in errors.items():
        whole = np.stack(each)
        seen.curves[view] = curve(whole)
        for how in AGGREGATES:
            seen.scores[Look(view, how)] = aggregated(whole, how)
    seen.baselines = {
        name: np.stack([one[name] for one in baselines])
        for name in (baselines[0] if baselines else {})
    }
    return seen


def _choose(found: list[Seen]) -> tuple[Look, dict[Look, float]]:
    """The look with the most quads right on the choosing split; pairs decide between equals."""
    from orchestrator.evaluation.metrics import pair_accuracy, quad_right

    looks = list(found[0].scores)
    quads = {
        look: float(np.mean([quad_right(seen.scores[look]).mean() for seen in found]))
        for look in looks
    }
    pairs = {
        look: float(np.mean([pair_accuracy(seen.scores[look]).mean() for seen in found]))
        for look in looks
    }
    return max(looks, key=lambda look: (quads[look], pairs[look])), quads


Runner = Callable[[EvaluateJob, WorldModel, Protocol, list[Unit]], Iterable[tuple[Unit, Seen]]]


def _collect(
    run: Runner,
    job: EvaluateJob,
    model: WorldModel,
    protocol: Protocol,
    units: list[Unit],
    stage: str,
    progress: Progress,
) -> list[tuple[Unit, Seen]]:
    found: list[tuple[Unit, Seen]] = []
    total, done = sum(unit.quads for unit in units), 0
    progress.update(stage, 0, total)
    for unit, seen in run(job, model, protocol, units):
        found.append((unit, seen))
        done += unit.quads
        progress.update(stage, done, total, {"scenario": unit.scenario})
    return sorted(found, key=lambda pair: units.index(pair[0]))


def _alone(
    job: EvaluateJob, model: WorldModel, protocol: Protocol, units: list[Unit]
) -> Iterator[tuple[Unit, Seen]]:
    for unit in units:
        yield unit, measure(model, protocol, unit)


def _on_ray(
    job: EvaluateJob, model: WorldModel, protocol: Protocol, units: list[Unit]
) -> Iterator[tuple[Unit, Seen]]:
    import ray

    @ray.remote(num_cpus=job.cpus)  # type: ignore[untyped-decorator]
    def task(model: WorldModel, protocol: Protocol, unit: Unit) -> Seen:
        torch.set_num_threads(max(1, int(job.cpus)))
        return measure(model, protocol, unit)

    shared = ray.put(model)
    waiting = {task.remote(shared, protocol, unit): unit for unit in units}
    while waiting:
        (ready, *_), _ = ray.wait(list(waiting))
        yield waiting.pop(ready), ray.get(ready)
