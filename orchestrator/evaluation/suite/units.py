"""What one task measures: some quadruplets of a scenario, by the model or by an untaught one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from orchestrator.evaluation.evaluable import Judgeable
from orchestrator.evaluation.measures.feature_rank import Ranks, ranks_of
from orchestrator.evaluation.measures.rollout import Rollout, rolled
from orchestrator.evaluation.measures.state_probe import StateRows, state_rows
from orchestrator.evaluation.measures.surprise import AGGREGATES, View, aggregated, curve, see
from orchestrator.evaluation.suite.protocol import Look
from orchestrator.evaluation.suite.protocol import Protocol as Rules
from orchestrator.physics.suite.baselines import baseline_scores

RANKED = 4
"""Quads of a scenario that the ranks of features are taken of."""

POSSIBLE = [0, 3]
"""Cells of a flattened quad whose outcome belongs to their context."""


class Work(Protocol):
    """A piece of an evaluation that runs by itself."""

    @property
    def label(self) -> str:
        """What a person is told that is being measured."""

    @property
    def videos(self) -> int:
        """How much it is."""

    def measure(self, model: Judgeable, rules: Rules) -> Any:
        """Render, look and score."""


@dataclass
class Seen:
    """What one unit found."""

    scores: dict[Look, np.ndarray]
    """float [quads, 2, 2]."""

    curves: dict[View, np.ndarray]
    """float [quads, 2, 2, frames]."""

    t_break: np.ndarray
    states: dict[str, StateRows] = field(default_factory=dict)
    """Of the possible videos, for a probe of the model and of a random one."""

    baselines: dict[str, np.ndarray] = field(default_factory=dict)
    """What rules that need no model say: float [quads, 2, 2]."""

    ranks: list[Ranks] = field(default_factory=list)
    rollouts: list[Rollout] = field(default_factory=list)


@dataclass(frozen=True)
class Unit:
    """Quadruplets of one scenario. `seed` None: the model itself; else an untaught one."""

    seed: int | None
    split: str
    scenario: str
    quads: int
    first: int = 0
    """Number of the first quad."""

    whole: bool = False
    """Whether baselines, ranks and rollouts are wanted too."""

    untaught: bool = False
    """Whether states are to be probed in an untaught model as well."""

    @property
    def label(self) -> str:
        """The scenario."""
        return self.scenario

    @property
    def videos(self) -> int:
        """Four of each quadruplet."""
        return 4 * self.quads

    def measure(self, model: Judgeable, rules: Rules) -> Seen:
        """Render the quads, look at each once, and score them."""
        model = model if self.seed is None else model.untaught(self.seed)
        numbers = range(self.first, self.first + self.quads)
        quads = [rules.quad(self.split, self.scenario, number) for number in numbers]
        seen = Seen({}, {}, np.array([quad.t_break for quad in quads]))
        errors: dict[View, list[np.ndarray]] = {view: [] for view in rules.views}
        begun, baselines = [], []
        for quad in quads:
            videos = quad.videos.reshape(4, *quad.videos.shape[2:])
            sight = see(model, rules.windows.cut(videos), rules.views)
            for view, error in sight.errors.items():
                errors[view].append(rules.windows.spread(error).reshape(2, 2, -1, videos.shape[1]))
            features = sight.features.view(4, -1, *sight.features.shape[1:])[POSSIBLE]
            begun.append(features[:, 0])
            if self.whole:
                baselines.append(baseline_scores(quad))
                if len(seen.ranks) < RANKED:
                    seen.ranks.append(ranks_of(features))
                last = [(cell + 1) * len(rules.windows.starts) - 1 for cell in POSSIBLE]
                seen.rollouts.append(rolled(sight.only(last), rules.views[0], model.clip.area))
        for view, each in errors.items():
            whole = np.stack(each)
            seen.curves[view] = curve(whole)
            for how in AGGREGATES:
                seen.scores[Look(view, how)] = aggregated(whole, how)
        if self.seed is None:
            seen.states["model"] = state_rows(model, quads, begun)
        if self.untaught:
            seen.states["random"] = state_rows(model.untaught(0), quads)
        for name in baselines[0] if baselines else ():
            seen.baselines[name] = np.stack([one[name] for one in baselines])
        return seen
