"""All that decides a score, beside the model: what is shown, and how it is looked at."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import RequestError, suggest
from orchestrator.evaluation.evaluable import Evaluable
from orchestrator.evaluation.measures.surprise import (
    AGGREGATES,
    ContextSpec,
    SlidingWindows,
    context_specs,
)
from orchestrator.job.config.evaluate import EvaluateJob
from orchestrator.job.config.former_names import former_dump
from orchestrator.physics.suite.quads import (
    EXPERIMENTAL_SCENARIOS,
    PROTOCOL_VERSION,
    SCENARIOS,
    Quad,
    make_quad,
)

TIER_KEYS = {"sanity", "arrow"}
"""Keys of the suite, by their former names, that no headline number depends on."""


@dataclass(frozen=True)
class ScoringRule:
    """A view, and how its errors become one number."""

    context_spec: ContextSpec
    aggregate: str


@dataclass(frozen=True)
class SuiteProtocol:
    """All that decides a score, beside the model."""

    scenarios: tuple[str, ...]
    size: int
    fps: float
    windows: SlidingWindows
    context_specs: tuple[ContextSpec, ...]
    seed: int

    def digest(self, job: EvaluateJob) -> str:
        """16 hex digits: equal where scores can be compared."""
        facts: dict[str, Any] = {
            "suite": PROTOCOL_VERSION,
            "job": former_dump(job.suite, without=TIER_KEYS),
            "surprise": former_dump(job.surprise),
            "size": self.size,
            "fps": self.fps,
            "windows": [self.windows.length, *self.windows.starts],
            "contexts": sorted({view.context for view in self.context_specs}),
            "horizons": sorted({view.horizon for view in self.context_specs}),
            "aggregates": AGGREGATES,
            "scenarios": self.scenarios,
        }
        text = json.dumps(facts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def make_quad(self, split: str, scenario: str, number: int) -> Quad:
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


def protocol_of(job: EvaluateJob, model: Evaluable) -> SuiteProtocol:
    """What is shown to this model, and how.

    Raises:
        RequestError: an unknown scenario, a window that does not fit, a model that cannot predict.
    """
    for name in job.suite.scenarios:
        if name not in SCENARIOS:
            raise RequestError(
                f"unknown scenario '{name}'",
                where="suite.scenarios",
                hint=suggest(name, SCENARIOS),
            )
    clip = model.clip
    return SuiteProtocol(
        scenarios=job.suite.scenarios
        or tuple(s for s in SCENARIOS if s not in EXPERIMENTAL_SCENARIOS),
        size=clip.size,
        fps=clip.fps,
        windows=SlidingWindows.with_stride(
            job.suite.frames, clip.frames, job.surprise.stride, clip.tubelet
        ),
        context_specs=tuple(context_specs(model, job.surprise.context_frames)),
        seed=job.suite.seed,
    )
