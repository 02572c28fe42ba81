"""Tiers beside the quadruplets: sanity, and the arrow of time. No headline depends on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.evaluation.evaluable import Evaluable
from orchestrator.evaluation.measures.surprise import SlidingWindows, aggregate_errors, surprise
from orchestrator.evaluation.suite.protocol import ScoringRule, SuiteProtocol
from orchestrator.physics.suite.arrow_of_time import ARROW_OF_TIME_KINDS, make_arrow_of_time_pair
from orchestrator.physics.suite.baselines import video_baseline_scores
from orchestrator.physics.suite.sanity import IMPOSSIBLE_EVENTS, POSSIBLE_EVENTS, make_sanity_videos
from orchestrator.report.statistics import bootstrap_mean

TIERS = {"sanity": ("sanity",), "arrow": ARROW_OF_TIME_KINDS}
"""Tier -> the kinds of work that it is cut into."""


@dataclass
class TierScores:
    """Shares of comparisons that are right, by what is compared: float [numbers] each."""

    accuracy: dict[str, np.ndarray]
    baseline_accuracy: dict[str, dict[str, np.ndarray]]
    """The same of rules that need no model: rule -> what is compared -> shares."""


@dataclass(frozen=True)
class TierUnit:
    """Numbers of one kind of a tier. `seed` None: the model itself; else an untaught one."""

    random_seed: int | None
    kind: str
    split: str
    scoring_rule: ScoringRule
    count: int
    first_index: int = 0

    @property
    def label(self) -> str:
        """The kind."""
        return self.kind

    @property
    def num_videos(self) -> int:
        """All that are shown."""
        return self.count * (
            len(IMPOSSIBLE_EVENTS + POSSIBLE_EVENTS) if self.kind == "sanity" else 2
        )

    def measure(self, model: Evaluable, protocol: SuiteProtocol) -> TierScores:
        """Render, look, and compare."""
        model = model if self.random_seed is None else model.untaught(self.random_seed)
        compare = self._sanity if self.kind == "sanity" else self._arrow
        found = [compare(model, protocol, self.first_index + i) for i in range(self.count)]
        return TierScores(
            {name: np.array([one["model"][name] for one in found]) for name in found[0]["model"]},
            {
                rule: {name: np.array([one[rule][name] for one in found]) for name in shares}
                for rule, shares in found[0].items()
                if rule != "model"
            },
        )

    def _sanity(
        self, model: Evaluable, rules: SuiteProtocol, number: int
    ) -> dict[str, dict[str, float]]:
        """Broken things against legal ones: the share of those that surprise less."""
        shown = make_sanity_videos(
            self.split,
            number,
            size=rules.size,
            fps=rules.fps,
            frames=rules.windows.frames,
            seed=rules.seed,
        )
        films = np.stack([*shown.impossible.values(), *shown.possible.values()])
        scores = self._scores(model, films, rules.windows, shown.event_frame)
        count = len(IMPOSSIBLE_EVENTS)
        return {
            who: {
                name: float(np.mean(_win_rate(each[i], each[count:])))
                for i, name in enumerate(IMPOSSIBLE_EVENTS)
            }
            for who, each in scores.items()
        }

    def _arrow(
        self, model: Evaluable, rules: SuiteProtocol, number: int
    ) -> dict[str, dict[str, float]]:
        """A video against its reverse."""
        length, context = rules.windows.length, self.scoring_rule.context_spec.context
        shown = make_arrow_of_time_pair(
            self.kind,
            self.split,
            number,
            size=rules.size,
            fps=rules.fps,
            frames=length,
            context_frames=context,
            seed=rules.seed,
        )
        films = np.stack([shown.forward, shown.backward])
        # One window: what is predicted is the same frames in either direction.
        scores = self._scores(model, films, SlidingWindows((0,), length, length), context)
        return {
            who: {self.kind: float(_win_rate(each[1], each[0]))} for who, each in scores.items()
        }

    def _scores(
        self, model: Evaluable, films: np.ndarray, windows: SlidingWindows, moment: int
    ) -> dict[str, np.ndarray]:
        """Surprise of the model and of trivial rules: "model" and each rule -> float [films]."""
        errors = surprise(model, films, [self.scoring_rule.context_spec], windows)[
            self.scoring_rule.context_spec
        ]
        ruled = [
            video_baseline_scores(film, moment) | {"jump": _largest_frame_change(film)}
            for film in films
        ]
        return {
            "model": aggregate_errors(errors, self.scoring_rule.aggregate),
            **{name: np.array([one[name] for one in ruled]) for name in ruled[0]},
        }


def _largest_frame_change(film: np.ndarray) -> float:
    """By how much the largest change from one frame to the next stands out."""
    change = np.abs(np.diff(film.astype(np.float32), axis=0)).mean((1, 2, 3))
    return float(change.max() - np.median(change))


def _win_rate(score: np.ndarray, others: np.ndarray) -> np.ndarray:
    """1 where a score is above another, half for a tie."""
    return np.asarray((score > others) + 0.5 * (score == others))


def merge_tier_scores(found: Sequence[TierScores]) -> TierScores:
    """All kinds of one tier."""
    rules = {rule for one in found for rule in one.baseline_accuracy}
    return TierScores(
        {name: right for one in found for name, right in one.accuracy.items()},
        {
            rule: {
                name: right for one in found for name, right in one.baseline_accuracy[rule].items()
            }
            for rule in sorted(rules)
        },
    )


def tier_table(
    model: TierScores, random_models: Sequence[TierScores], confidence: float
) -> dict[str, dict[str, Any]]:
    """By what is compared: the share right with its interval, random models', the best rule's."""
    rows: dict[str, dict[str, Any]] = {}
    for name, right in model.accuracy.items():
        rules = {
            rule: float(shares[name].mean()) for rule, shares in model.baseline_accuracy.items()
        }
        best = max(rules, key=lambda rule: rules[rule])
        found = bootstrap_mean(right, confidence)
        rows[name] = {
            "count": len(right),
            "share": {"value": found.value, "low": found.low, "high": found.high},
            "random": float(np.mean([one.accuracy[name].mean() for one in random_models]))
            if random_models
            else None,
            "baseline": {"name": best, "share": rules[best]},
        }
    return rows
