"""What one task measures: some quadruplets of a scenario, by the model or by an untaught one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from orchestrator.evaluation.evaluable import Evaluable
from orchestrator.evaluation.measures.feature_rank import RankSample, sample_for_rank
from orchestrator.evaluation.measures.rollout import Rollout, compute_rollout
from orchestrator.evaluation.measures.state_probe import StateRows, collect_state_rows
from orchestrator.evaluation.measures.surprise import (
    AGGREGATES,
    ContextSpec,
    aggregate_errors,
    encode_windows,
    surprise_by_frame,
)
from orchestrator.evaluation.suite.protocol import ScoringRule
from orchestrator.evaluation.suite.protocol import SuiteProtocol as Rules
from orchestrator.physics.suite.baselines import baseline_scores

QUADS_FOR_RANK = 4
"""Quads of a scenario that the ranks of features are taken of."""

POSSIBLE_CELLS = [0, 3]
"""Cells of a flattened quad whose outcome belongs to their context."""


class SuiteUnit(Protocol):
    """A piece of an evaluation that runs by itself."""

    @property
    def label(self) -> str:
        """What a person is told that is being measured."""

    @property
    def num_videos(self) -> int:
        """How much it is."""

    def measure(self, model: Evaluable, protocol: Rules) -> Any:
        """Render, look and score."""


@dataclass
class QuadUnitResult:
    """What one unit found."""

    scores: dict[ScoringRule, np.ndarray]
    """float [quads, 2, 2]."""

    curves: dict[ContextSpec, np.ndarray]
    """float [quads, 2, 2, frames]."""

    break_frames: np.ndarray
    state_rows: dict[str, StateRows] = field(default_factory=dict)
    """Of the possible videos, for a probe of the model and of a random one."""

    baselines: dict[str, np.ndarray] = field(default_factory=dict)
    """What rules that need no model say: float [quads, 2, 2]."""

    rank_samples: list[RankSample] = field(default_factory=list)
    rollouts: list[Rollout] = field(default_factory=list)


@dataclass(frozen=True)
class QuadUnit:
    """Quadruplets of one scenario. `random_seed` None: the model itself; else an untaught one."""

    random_seed: int | None
    split: str
    scenario: str
    num_quads: int
    first_quad: int = 0
    """Number of the first quad."""

    with_diagnostics: bool = False
    """Whether baselines, ranks and rollouts are wanted too."""

    probe_random_model: bool = False
    """Whether states are to be probed in an untaught model as well."""

    @property
    def label(self) -> str:
        """The scenario."""
        return self.scenario

    @property
    def num_videos(self) -> int:
        """Four of each quadruplet."""
        return 4 * self.num_quads

    def measure(self, model: Evaluable, protocol: Rules) -> QuadUnitResult:
        """Render the quads, look at each once, and score them."""
        model = model if self.random_seed is None else model.untaught(self.random_seed)
        numbers = range(self.first_quad, self.first_quad + self.num_quads)
        quads = [protocol.make_quad(self.split, self.scenario, number) for number in numbers]
        seen = QuadUnitResult({}, {}, np.array([quad.break_frame for quad in quads]))
        errors: dict[ContextSpec, list[np.ndarray]] = {view: [] for view in protocol.context_specs}
        begun, baselines = [], []
        for quad in quads:
            videos = quad.videos.reshape(4, *quad.videos.shape[2:])
            sight = encode_windows(model, protocol.windows.extract(videos), protocol.context_specs)
            for view, error in sight.errors.items():
                errors[view].append(
                    protocol.windows.scatter_to_frames(error).reshape(2, 2, -1, videos.shape[1])
                )
            features = sight.features.view(4, -1, *sight.features.shape[1:])[POSSIBLE_CELLS]
            begun.append(features[:, 0])
            if self.with_diagnostics:
                baselines.append(baseline_scores(quad))
                if len(seen.rank_samples) < QUADS_FOR_RANK:
                    seen.rank_samples.append(sample_for_rank(features))
                last = [(cell + 1) * len(protocol.windows.starts) - 1 for cell in POSSIBLE_CELLS]
                seen.rollouts.append(
                    compute_rollout(
                        sight.select(last),
                        protocol.context_specs[0],
                        model.clip.tokens_per_timestep,
                    )
                )
        for view, each in errors.items():
            whole = np.stack(each)
            seen.curves[view] = surprise_by_frame(whole)
            for how in AGGREGATES:
                seen.scores[ScoringRule(view, how)] = aggregate_errors(whole, how)
        if self.random_seed is None:
            seen.state_rows["model"] = collect_state_rows(model, quads, begun)
        if self.probe_random_model:
            seen.state_rows["random"] = collect_state_rows(model.untaught(0), quads)
        for name in baselines[0] if baselines else ():
            seen.baselines[name] = np.stack([one[name] for one in baselines])
        return seen
