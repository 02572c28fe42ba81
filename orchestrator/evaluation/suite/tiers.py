"""Tiers beside the quadruplets: sanity, and the arrow of time. No headline depends on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.evaluation.evaluable import Judgeable
from orchestrator.evaluation.measures.surprise import Windows, aggregated, surprise
from orchestrator.evaluation.suite.protocol import Look, Protocol
from orchestrator.physics.suite.arrow_of_time import ARROWS, make_arrow
from orchestrator.physics.suite.baselines import film_scores
from orchestrator.physics.suite.sanity import BROKEN, LEGAL, make_sanity
from orchestrator.report.statistics import estimate

TIERS = {"sanity": ("sanity",), "arrow": ARROWS}
"""Tier -> the kinds of work that it is cut into."""


@dataclass
class TierSeen:
    """Shares of comparisons that are right, by what is compared: float [numbers] each."""

    right: dict[str, np.ndarray]
    rules: dict[str, dict[str, np.ndarray]]
    """The same of rules that need no model: rule -> what is compared -> shares."""


@dataclass(frozen=True)
class TierUnit:
    """Numbers of one kind of a tier. `seed` None: the model itself; else an untaught one."""

    seed: int | None
    kind: str
    split: str
    look: Look
    count: int
    first: int = 0

    @property
    def label(self) -> str:
        """The kind."""
        return self.kind

    @property
    def videos(self) -> int:
        """All that are shown."""
        return self.count * (len(BROKEN + LEGAL) if self.kind == "sanity" else 2)

    def measure(self, model: Judgeable, rules: Protocol) -> TierSeen:
        """Render, look, and compare."""
        model = model if self.seed is None else model.untaught(self.seed)
        compare = self._sanity if self.kind == "sanity" else self._arrow
        found = [compare(model, rules, self.first + i) for i in range(self.count)]
        return TierSeen(
            {name: np.array([one["model"][name] for one in found]) for name in found[0]["model"]},
            {
                rule: {name: np.array([one[rule][name] for one in found]) for name in shares}
                for rule, shares in found[0].items()
                if rule != "model"
            },
        )

    def _sanity(
        self, model: Judgeable, rules: Protocol, number: int
    ) -> dict[str, dict[str, float]]:
        """Broken things against legal ones: the share of those that surprise less."""
        shown = make_sanity(
            self.split,
            number,
            size=rules.size,
            fps=rules.fps,
            frames=rules.windows.frames,
            seed=rules.seed,
        )
        films = np.stack([*shown.broken.values(), *shown.legal.values()])
        scores = self._scores(model, films, rules.windows, shown.moment)
        count = len(BROKEN)
        return {
            who: {
                name: float(np.mean(_more(each[i], each[count:]))) for i, name in enumerate(BROKEN)
            }
            for who, each in scores.items()
        }

    def _arrow(self, model: Judgeable, rules: Protocol, number: int) -> dict[str, dict[str, float]]:
        """A video against its reverse."""
        length, context = rules.windows.length, self.look.view.context
        shown = make_arrow(
            self.kind,
            self.split,
            number,
            size=rules.size,
            fps=rules.fps,
            frames=length,
            seen=context,
            seed=rules.seed,
        )
        films = np.stack([shown.forward, shown.backward])
        # One window: what is predicted is the same frames in either direction.
        scores = self._scores(model, films, Windows((0,), length, length), context)
        return {who: {self.kind: float(_more(each[1], each[0]))} for who, each in scores.items()}

    def _scores(
        self, model: Judgeable, films: np.ndarray, windows: Windows, moment: int
    ) -> dict[str, np.ndarray]:
        """Surprise of the model and of trivial rules: "model" and each rule -> float [films]."""
        errors = surprise(model, films, [self.look.view], windows)[self.look.view]
        ruled = [film_scores(film, moment) | {"jump": _jump(film)} for film in films]
        return {
            "model": aggregated(errors, self.look.aggregate),
            **{name: np.array([one[name] for one in ruled]) for name in ruled[0]},
        }


def _jump(film: np.ndarray) -> float:
    """By how much the largest change from one frame to the next stands out."""
    change = np.abs(np.diff(film.astype(np.float32), axis=0)).mean((1, 2, 3))
    return float(change.max() - np.median(change))


def _more(score: np.ndarray, others: np.ndarray) -> np.ndarray:
    """1 where a score is above another, half for a tie."""
    return np.asarray((score > others) + 0.5 * (score == others))


def joined(found: Sequence[TierSeen]) -> TierSeen:
    """All kinds of one tier."""
    rules = {rule for one in found for rule in one.rules}
    return TierSeen(
        {name: right for one in found for name, right in one.right.items()},
        {
            rule: {name: right for one in found for name, right in one.rules[rule].items()}
            for rule in sorted(rules)
        },
    )


def tier_table(
    model: TierSeen, random: Sequence[TierSeen], confidence: float
) -> dict[str, dict[str, Any]]:
    """By what is compared: the share right with its interval, random models', the best rule's."""
    rows: dict[str, dict[str, Any]] = {}
    for name, right in model.right.items():
        rules = {rule: float(shares[name].mean()) for rule, shares in model.rules.items()}
        best = max(rules, key=lambda rule: rules[rule])
        found = estimate(right, confidence)
        rows[name] = {
            "count": len(right),
            "share": {"value": found.value, "low": found.low, "high": found.high},
            "random": float(np.mean([one.right[name].mean() for one in random]))
            if random
            else None,
            "baseline": {"name": best, "share": rules[best]},
        }
    return rows
