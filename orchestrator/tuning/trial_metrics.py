"""What trials are ranked by: read with labels, without them, or by the physics suite.

Each gives `{name: value}`, the parts of the objective; a trial's objective is their mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from orchestrator.evaluation.evaluable import Evaluable
from orchestrator.evaluation.measures.feature_rank import lidar
from orchestrator.evaluation.measures.ridge import pool_to_grid, ridge_probe
from orchestrator.evaluation.measures.rollout import compute_rollout, skill_score
from orchestrator.evaluation.measures.surprise import BATCH_SIZE, ContextSpec, encode_windows
from orchestrator.evaluation.suite.protocol import ScoringRule, protocol_of
from orchestrator.evaluation.suite.units import QuadUnit, QuadUnitResult
from orchestrator.job.config.evaluate import EvaluateJob
from orchestrator.physics.suite.scoring import pair_accuracy, quad_correct
from orchestrator.report.statistics import ScoreFunction

Scores = dict[str, float]


@dataclass(frozen=True)
class ProbeClips:
    """Clips with what a probe is to read of them."""

    videos: np.ndarray
    """uint8 [clips, T, size, size, 3]."""

    targets: np.ndarray
    """States, float [clips, tubelets, k]; or one-hot classes, float [clips, classes]."""


def encode_batched(model: Evaluable, videos: np.ndarray) -> Tensor:
    """Features of clips uint8 [clips, T, size, size, 3]: float32 [clips, tokens, dim]."""
    parts = torch.split(torch.from_numpy(np.ascontiguousarray(videos)), BATCH_SIZE)
    return torch.cat([model.encode(part).cpu() for part in parts])


def probe_states(model: Evaluable, fit: ProbeClips, test: ProbeClips) -> np.ndarray:
    """R2 of each state, float [k], read by a ridge regression off each tubelet's features.

    Features are means over a coarse grid, so that where things are is not lost.
    """

    def rows(some: ProbeClips) -> tuple[np.ndarray, np.ndarray]:
        pooled = pool_to_grid(encode_batched(model, some.videos).numpy(), model.clip.grid)
        return pooled.reshape(-1, pooled.shape[-1]), some.targets.reshape(-1, some.targets.shape[2])

    x, y = rows(fit)
    groups = np.repeat(np.arange(len(fit.videos)), len(x) // len(fit.videos))
    return ridge_probe(x, y, groups, *rows(test)).r2


def probe_labels(model: Evaluable, fit: ProbeClips, test: ProbeClips) -> Scores:
    """R2 of the classes' indicators, read by a ridge regression off the mean of a clip's features.

    The mean of R2 over classes is finer than top-1, which moves in steps of a clip.
    """
    x, new = (encode_batched(model, some.videos).mean(1).numpy() for some in (fit, test))
    seen = np.ptp(test.targets, axis=0) > 0  # a class of no held-out clip, or of all, has no R2
    r2 = ridge_probe(x, fit.targets, np.arange(len(x)), new, test.targets).r2
    return {"label": float(r2[seen].mean())}


@dataclass(frozen=True)
class PredictionScores:
    """How clips were predicted from their first halves."""

    skill: float
    """1 - error / error of repeating the last moment seen, over all moments ahead; 0: as good as
    copying (`evaluation.measures.rollout.skill_score`)."""

    predicted: np.ndarray
    """float [clips, moments ahead, cells * width]: means over a coarse grid, as a probe's."""

    observed: np.ndarray
    """The same of what came, for every moment of the clips: float [clips, moments, ...]."""

    @property
    def share(self) -> float:
        """Copying's error as a share of both errors: 1/2 as good as copying, 1 without error.
        It orders models as skill does, and is bounded where copying is nearly exact."""
        return 1 / (2 - self.skill)

    @property
    def retrieval(self) -> float:
        """How high what came stands, among all moments of all clips, in the order of their distance
        (L1) to its prediction: 1 - mean log of its place / log of the last. Equal distances count
        against. 1: always first.

        Retrieval@1 stays at chance until trials are good, and then moves in steps of a clip.
        """
        clips, moments = self.observed.shape[:2]
        ahead = self.predicted.shape[1]
        candidates = torch.from_numpy(self.observed).flatten(0, 1)
        places = []
        for moment in range(ahead):
            distance = torch.cdist(torch.from_numpy(self.predicted[:, moment]), candidates, p=1)
            true = torch.arange(clips) * moments + moments - ahead + moment
            own = distance.gather(1, true[:, None])
            places.append((distance <= own).sum(1))
        return 1 - float(torch.stack(places).double().log().mean()) / math.log(len(candidates))


def predict_second_half(model: Evaluable, videos: np.ndarray) -> list[PredictionScores]:
    """What the second half of clips is predicted to be from the first, by each mask token."""
    clip = model.clip
    seen = max(1, clip.grid[0] // 2)
    ahead = (clip.grid[0] - seen, *clip.grid[1:])
    views = [ContextSpec(seen * clip.tubelet, mask) for mask in range(model.masks)]
    errors: dict[ContextSpec, list[np.ndarray]] = {view: [] for view in views}
    predicted: dict[ContextSpec, list[np.ndarray]] = {view: [] for view in views}
    came = []
    for part in torch.split(torch.from_numpy(np.ascontiguousarray(videos)), BATCH_SIZE):
        sight = encode_windows(model, part, views)
        came.append(pool_to_grid(sight.prediction_targets.numpy(), clip.grid))
        for view in views:
            rolls = compute_rollout(sight, view, clip.tokens_per_timestep).errors
            errors[view].append(np.stack([rolls["model"], rolls["copy"]]))
            predicted[view].append(pool_to_grid(sight.predicted[view].numpy(), ahead))
    found = []
    for view in views:
        mine, copied = np.concatenate(errors[view], axis=1).mean((1, 2))
        guess = np.concatenate(predicted[view])
        found.append(
            PredictionScores(float(skill_score(mine, copied)), guess, np.concatenate(came))
        )
    return found


LIDAR_VIEWS, LIDAR_NOISE_STD = 4, 12.0
"""Views of a clip that LiDAR compares, and the deviation of their pixels' noise, of 255."""

MAX_LIDAR_CLASSES = 2048
"""Tokens that LiDAR tells apart."""


def prediction_scores(model: Evaluable, videos: np.ndarray) -> Scores:
    """Without labels: whether futures are told apart (retrieval), and foreseen better than by
    copying. Each by the mask token that does best.

    Either alone can be had cheaply: copying is easily beaten where features say little, and
    futures are told apart by what never changes.
    """
    rolls = predict_second_half(model, videos)
    return {
        "retrieval": max(one.retrieval for one in rolls),
        "over_copy": max(one.share for one in rolls),
    }


def log_lidar(model: Evaluable, videos: np.ndarray) -> float:
    """log LiDAR (arXiv 2312.04000): of the effective rank of what tells classes apart, in units of
    what changes within one.

    Here a class is a token of a clip; its samples are that token where the pixels flicker
    otherwise: what happens, and where, is the same.
    """
    views = [
        encode_batched(model, with_pixel_noise(videos, number)).flatten(0, 1)
        for number in range(LIDAR_VIEWS)
    ]
    stride = -(-len(views[0]) // MAX_LIDAR_CLASSES)
    return math.log(lidar(torch.stack([view[::stride] for view in views], 1)))


def with_pixel_noise(videos: np.ndarray, seed: int) -> np.ndarray:
    """The same clips with other noise in every pixel, uint8 [clips, T, size, size, 3]."""
    draw, out = np.random.default_rng(seed), np.empty_like(videos)
    for number, clip in enumerate(videos):
        noise = draw.normal(0, LIDAR_NOISE_STD, clip.shape).astype(np.float32)
        out[number] = np.clip(clip + noise, 0, 255)
    return out


SUITE_JOB = EvaluateJob(kind="evaluate", name="trial", model="checkpoint", random_models=0)
"""How the physics suite is shown: as an evaluation does by default, but on its validation split,
so that what a winner is judged by later was not searched on."""


def quad_accuracy(model: Evaluable, quads: int) -> Scores:
    """Share of quadruplets that are right, the mean over scenarios. How to look is chosen on
    quadruplets of their own.

    Raises:
        RequestError: the model's clips do not fit the suite's videos.
    """
    rules = protocol_of(SUITE_JOB, model)

    def measured(first: int, count: int) -> list[QuadUnitResult]:
        units = [QuadUnit(None, "validation", s, count, first) for s in rules.scenarios]
        return [unit.measure(model, rules) for unit in units]

    chosen_on = measured(0, SUITE_JOB.suite.selection_quads)
    scored = measured(SUITE_JOB.suite.selection_quads, quads)

    def share(seen: list[QuadUnitResult], score: ScoreFunction) -> dict[ScoringRule, float]:
        return {
            look: float(np.mean([score(one.scores[look]).mean() for one in seen]))
            for look in seen[0].scores
        }

    right, pairs = share(chosen_on, quad_correct), share(chosen_on, pair_accuracy)
    look = max(right, key=lambda one: (right[one], pairs[one]))
    return {"quads": share(scored, quad_correct)[look]}
