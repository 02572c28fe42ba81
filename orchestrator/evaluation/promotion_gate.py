"""The registry's gate: a candidate becomes champion when it beats the champion, beyond doubt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.errors import JobFailed, RequestError
from orchestrator.report.statistics import RESAMPLES
from orchestrator.tracking import registry
from orchestrator.tracking.model_uri import find_version
from orchestrator.tracking.registry import Promotion, RegisteredVersion, version_at_alias
from orchestrator.tracking.results.physics import PHYSICS_PROTOCOL_TAG, load_scores, load_summary
from orchestrator.tracking.server import mlflow_client


@dataclass(frozen=True)
class Comparison:
    """Mean quad accuracies of two models on the same quadruplets, and the difference's interval."""

    candidate: float
    champion: float
    low: float
    high: float

    @property
    def is_better(self) -> bool:
        """Whether the candidate is ahead by more than chance explains."""
        return self.low > 0

    def __str__(self) -> str:
        return (
            f"quadruplets right: candidate {100 * self.candidate:.1f}%, champion"
            f" {100 * self.champion:.1f}%, difference {100 * (self.candidate - self.champion):+.1f}"
            f" [{100 * self.low:+.1f}, {100 * self.high:+.1f}] points"
        )


def require_better(candidate: RegisteredVersion, server: str) -> str:
    """What speaks for a version as champion.

    Raises:
        RequestError: it, or the champion, was not evaluated, or not in the same way.
        JobFailed: it is not better beyond the interval; with the numbers.
    """
    client = mlflow_client(server)
    mine = load_scores(client, find_version(client, candidate.uri))
    champion = version_at_alias(client, candidate.name, "champion")
    if champion is None:
        return f"{candidate.uri} is the first champion"
    if int(champion) == candidate.version:
        return f"{candidate.uri} is the champion already"
    present = find_version(client, f"models:/{candidate.name}/{champion}")
    found = compare(mine, load_scores(client, present))
    if not found.is_better:
        raise JobFailed(
            f"{candidate.uri} does not beat the champion, version {champion}: {found}",
            hint="train a better one, judge both on more quadruplets, or say --ungated",
        )
    return str(found)


def promote(model: str, alias: str, server: str, *, gated: bool) -> tuple[Promotion, str]:
    """Point `alias` at a registered model; where it is `gated`, with what speaks for it.

    Raises:
        RequestError: there is no such version, or it cannot be compared.
        JobFailed: it is not better than the champion; nothing has changed.
    """
    version = registry.show_model(model, server)
    why = require_better(version, server) if gated else ""
    return registry.promote(version.name, version.version, alias, server), why


def champion_comparison(model: str, scores: dict[str, Any], server: str) -> dict[str, Any] | None:
    """What a report shows of the champion of the judged model's name; None: there is none.

    Keys: `version`, `judged` (whether the champion is the judged version itself), `protocol` (None:
    it was never evaluated) and, under the same protocol, `overall`, `scenarios` (quads and pairs)
    and `difference` (candidate - champion, quads right).

    Args:
        scores: the candidate's (`driver.scores_json`).
    """
    if not model.startswith("models:/"):
        return None
    client = mlflow_client(server)
    version = find_version(client, model)
    number = version_at_alias(client, version.name, "champion")
    if number is None:
        return None
    found: dict[str, Any] = {"version": int(number), "judged": number == version.version}
    champion = find_version(client, f"models:/{version.name}/{number}")
    if PHYSICS_PROTOCOL_TAG not in champion.tags:
        return found | {"protocol": None}
    found["protocol"] = champion.tags[PHYSICS_PROTOCOL_TAG]
    if found["judged"] or found["protocol"] != scores["protocol"]:
        return found
    theirs, between = load_summary(client, champion), compare(scores, load_scores(client, champion))
    difference = {
        "value": between.candidate - between.champion,
        "low": between.low,
        "high": between.high,
    }
    rows = {
        name: {"quad": row["quad"], "pair": row["pair"]}
        for name, row in theirs["scenarios"].items()
    }
    return found | {"overall": theirs["overall"], "scenarios": rows, "difference": difference}


def compare(candidate: dict[str, Any], champion: dict[str, Any]) -> Comparison:
    """Compare two models' scores (`driver.scores_json`), quad by quad.

    Raises:
        RequestError: they were not measured in the same way.
    """
    if candidate["protocol"] != champion["protocol"]:
        raise RequestError(
            f"candidate and champion were judged by protocols {candidate['protocol']} and"
            f" {champion['protocol']}",
            where="models promote",
            hint="evaluate both with the same job file",
        )
    draw, differences = np.random.default_rng(0), []
    means: dict[str, list[float]] = {"candidate": [], "champion": []}
    level = float(candidate["confidence"])
    for name in candidate["quad"]:
        ours, best = np.array(candidate["quad"][name]), np.array(champion["quad"][name])
        means["candidate"].append(float(ours.mean()))
        means["champion"].append(float(best.mean()))
        chosen = draw.integers(0, len(ours), (RESAMPLES, len(ours)))
        differences.append((ours - best)[chosen].mean(1))
    tail = (1 - level) / 2
    low, high = np.quantile(np.mean(differences, axis=0), [tail, 1 - tail])
    mine, theirs = (float(np.mean(means[who])) for who in ("candidate", "champion"))
    return Comparison(mine, theirs, float(low), float(high))
