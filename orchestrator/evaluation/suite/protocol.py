"""All that decides a score, beside the model: what is shown, and how it is looked at."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import RequestError, suggest
from orchestrator.evaluation.evaluable import Judgeable
from orchestrator.evaluation.measures.surprise import AGGREGATES, View, Windows, views_of
from orchestrator.job.config.evaluate import EvaluateJob
from orchestrator.physics.suite.quads import PROTOCOL_VERSION, SCENARIOS, UNPROVEN, Quad, make_quad

TIERS = {"sanity", "arrow"}
"""Keys of the suite that no headline number depends on."""


@dataclass(frozen=True)
class Look:
    """A view, and how its errors become one number."""

    view: View
    aggregate: str


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
            "job": job.suite.model_dump(mode="json", exclude=TIERS),
            "surprise": job.surprise.model_dump(mode="json"),
            "size": self.size,
            "fps": self.fps,
            "windows": [self.windows.length, *self.windows.starts],
            "contexts": sorted({view.context for view in self.views}),
            "horizons": sorted({view.horizon for view in self.views}),
            "aggregates": AGGREGATES,
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


def protocol_of(job: EvaluateJob, model: Judgeable) -> Protocol:
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
    clip = model.clip
    return Protocol(
        scenarios=job.suite.scenarios or tuple(s for s in SCENARIOS if s not in UNPROVEN),
        size=clip.size,
        fps=clip.fps,
        windows=Windows.over(job.suite.frames, clip.frames, job.surprise.stride, clip.tubelet),
        views=tuple(views_of(model, job.surprise.contexts)),
        seed=job.suite.seed,
    )
