"""What a trial is worth, without labels of its own: a probe of its features, behind gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from orchestrator.evaluation.study.probing import BATCH, Shown, probe_scores, shown
from orchestrator.jepa.hub import WorldModel, random_model
from orchestrator.job import Data, Model, TrainJob, TuneJob
from orchestrator.job.tune import Gates, ProbeObjective
from orchestrator.physics.uri import parse
from orchestrator.training.health import feature_std, rankme, token_cosine


@dataclass(frozen=True)
class _Asked:
    """What decides the probe's videos of a trial."""

    data: Data
    model: Model
    probe: ProbeObjective


def held_out(job: TuneJob, train: TrainJob) -> tuple[Shown, Shown]:
    """Videos that the probe is fitted to and scored on, as a trial's model sees video."""
    background = parse(train.data.source or "").background
    return shown(_Asked(train.data, train.model, job.objective), background)


def score(model: WorldModel, gates: Gates, videos: tuple[Shown, Shown]) -> dict[str, Any]:
    """Objective, its parts, and what the gates looked at; no objective for what collapsed."""
    fit, held = videos
    untrained = random_model(model.config, 0)
    found = signs(_encoded(model, held), _encoded(untrained, held))
    closed = shut(found, gates)
    if closed:
        return {"objective": None, "scores": {}, "gates": found, "shut": closed}
    scores = probe_scores(model, fit, held)
    mean = sum(scores.values()) / len(scores)
    return {"objective": mean, "scores": scores, "gates": found, "shut": []}


def signs(features: torch.Tensor, untrained: torch.Tensor) -> dict[str, float]:
    """Signs of collapse in features [B, n, dim], beside an untrained model's of the same videos.

    A model may keep the spread of its features and still put all of it along a few directions:
    how many there could be is what an untrained model says.
    """
    return {
        "feature_std": feature_std(features),
        "rankme": rankme(features),
        "rankme_share": rankme(features) / rankme(untrained),
        "token_cosine": token_cosine(features),
    }


def _encoded(model: WorldModel, shown: Shown) -> torch.Tensor:
    parts = torch.split(torch.from_numpy(shown.videos), BATCH)
    return torch.cat([model.encode(part) for part in parts])


def shut(found: dict[str, float], gates: Gates) -> list[str]:
    """The gates that a model does not pass, in words; a NaN passes none."""
    words = []
    least_of = {"feature_std": gates.feature_std, "rankme_share": gates.rankme_share}
    for name, least in least_of.items():
        if not found[name] >= least:
            words.append(f"{name} {found[name]:.3g} is below {least:g}")
    if not found["token_cosine"] <= gates.token_cosine:
        words.append(f"token_cosine {found['token_cosine']:.3g} is above {gates.token_cosine:g}")
    return words
