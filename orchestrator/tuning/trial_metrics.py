"""What trials are ranked by: read with labels, without them, or by the physics suite.

Each gives `{name: value}`, the parts of the objective; a trial's objective is their mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from orchestrator.evaluation.evaluable import Judgeable
from orchestrator.evaluation.measures.feature_rank import lidar
from orchestrator.evaluation.measures.ridge import grid_pooled, ridge_probe
from orchestrator.evaluation.measures.rollout import rolled, skill
from orchestrator.evaluation.measures.surprise import BATCH, View, see
from orchestrator.evaluation.suite.protocol import Look, protocol_of
from orchestrator.evaluation.suite.units import Seen, Unit
from orchestrator.job.config.evaluate import EvaluateJob
from orchestrator.report.statistics import Score, pair_accuracy, quad_right

Scores = dict[str, float]


@dataclass(frozen=True)
class Labelled:
    """Clips with what a probe is to read of them."""

    videos: np.ndarray
    """uint8 [clips, T, size, size, 3]."""

    targets: np.ndarray
    """States, float [clips, tubelets, k]; or one-hot classes, float [clips, classes]."""


def encoded(model: Judgeable, videos: np.ndarray) -> Tensor:
    """Features of clips uint8 [clips, T, size, size, 3]: float32 [clips, tokens, dim]."""
    parts = torch.split(torch.from_numpy(np.ascontiguousarray(videos)), BATCH)
    return torch.cat([model.encode(part).cpu() for part in parts])


def read_states(model: Judgeable, fit: Labelled, held: Labelled) -> np.ndarray:
    """R2 of each state, float [k], read by a ridge regression off each tubelet's features.

    Features are means over a coarse grid, so that where things are is not lost.
    """

    def rows(some: Labelled) -> tuple[np.ndarray, np.ndarray]:
        pooled = grid_pooled(encoded(model, some.videos).numpy(), model.clip.grid)
        return pooled.reshape(-1, pooled.shape[-1]), some.targets.reshape(-1, some.targets.shape[2])

    x, y = rows(fit)
    groups = np.repeat(np.arange(len(fit.videos)), len(x) // len(fit.videos))
    return ridge_probe(x, y, groups, *rows(held)).r2


def read_labels(model: Judgeable, fit: Labelled, held: Labelled) -> Scores:
    """R2 of the classes' indicators, read by a ridge regression off the mean of a clip's features.

    The mean of R2 over classes is finer than top-1, which moves in steps of a clip.
    """
    x, new = (encoded(model, some.videos).mean(1).numpy() for some in (fit, held))
    seen = np.ptp(held.targets, axis=0) > 0  # a class of no held-out clip, or of all, has no R2
    r2 = ridge_probe(x, fit.targets, np.arange(len(x)), new, held.targets).r2
    return {"label": float(r2[seen].mean())}


@dataclass(frozen=True)
class Foreseen:
    """How clips were predicted from their first halves."""

    skill: float
    """1 - error / error of repeating the last moment seen, over all moments ahead; 0: as good as
    copying (`evaluation.rollout.skill`)."""

    predicted: np.ndarray
    """float [clips, moments ahead, cells * width]: means over a coarse grid, as a probe's."""

    came: np.ndarray
    """The same of what came, for every moment of the clips: float [clips, moments, ...]."""

    @property
    def share(self) -> float:
        """Copying's error as a share of both errors: 1/2 as good as copying, 1 without error.
        It orders models as skill does, and is bounded where copying is nearly exact."""
        return 1 / (2 - self.skill)

    @property
    def found(self) -> float:
        """How high what came stands, among all moments of all clips, in the order of their distance
        (L1) to its prediction: 1 - mean log of its place / log of the last. Equal distances count
        against. 1: always first.

        Retrieval@1 stays at chance until trials are good, and then moves in steps of a clip.
        """
        clips, moments = self.came.shape[:2]
        ahead = self.predicted.shape[1]
        candidates = torch.from_numpy(self.came).flatten(0, 1)
        places = []
        for moment in range(ahead):
            distance = torch.cdist(torch.from_numpy(self.predicted[:, moment]), candidates, p=1)
            true = torch.arange(clips) * moments + moments - ahead + moment
            own = distance.gather(1, true[:, None])
            places.append((distance <= own).sum(1))
        return 1 - float(torch.stack(places).double().log().mean()) / math.log(len(candidates))


def foreseen(model: Judgeable, videos: np.ndarray) -> list[Foreseen]:
    """What the second half of clips is predicted to be from the first, by each mask token."""
    clip = model.clip
    seen = max(1, clip.grid[0] // 2)
    ahead = (clip.grid[0] - seen, *clip.grid[1:])
    views = [View(seen * clip.tubelet, mask) for mask in range(model.masks)]
    errors: dict[View, list[np.ndarray]] = {view: [] for view in views}
    predicted: dict[View, list[np.ndarray]] = {view: [] for view in views}
    came = []
    for part in torch.split(torch.from_numpy(np.ascontiguousarray(videos)), BATCH):
        sight = see(model, part, views)
        came.append(grid_pooled(sight.wanted.numpy(), clip.grid))
        for view in views:
            rolls = rolled(sight, view, clip.area).errors
            errors[view].append(np.stack([rolls["model"], rolls["copy"]]))
            predicted[view].append(grid_pooled(sight.predicted[view].numpy(), ahead))
    found = []
    for view in views:
        mine, copied = np.concatenate(errors[view], axis=1).mean((1, 2))
        guess = np.concatenate(predicted[view])
        found.append(Foreseen(float(skill(mine, copied)), guess, np.concatenate(came)))
    return found


VIEWS, NOISE = 4, 12.0
"""Views of a clip that LiDAR compares, and the deviation of their pixels' noise, of 255."""

MOST_CLASSES = 2048
"""Tokens that LiDAR tells apart."""


def read_future(model: Judgeable, videos: np.ndarray) -> Scores:
    """Without labels: whether futures are told apart (retrieval), and foreseen better than by
    copying. Each by the mask token that does best.

    Either alone can be had cheaply: copying is easily beaten where features say little, and
    futures are told apart by what never changes.
    """
    rolls = foreseen(model, videos)
    return {
        "retrieval": max(one.found for one in rolls),
        "over_copy": max(one.share for one in rolls),
    }


def log_lidar(model: Judgeable, videos: np.ndarray) -> float:
    """log LiDAR (arXiv 2312.04000): of the effective rank of what tells classes apart, in units of
    what changes within one.

    Here a class is a token of a clip; its samples are that token where the pixels flicker
    otherwise: what happens, and where, is the same.
    """
    views = [encoded(model, flickering(videos, number)).flatten(0, 1) for number in range(VIEWS)]
    stride = -(-len(views[0]) // MOST_CLASSES)
    return math.log(lidar(torch.stack([view[::stride] for view in views], 1)))


def flickering(videos: np.ndarray, seed: int) -> np.ndarray:
    """The same clips with other noise in every pixel, uint8 [clips, T, size, size, 3]."""
    draw, out = np.random.default_rng(seed), np.empty_like(videos)
    for number, clip in enumerate(videos):
        noise = draw.normal(0, NOISE, clip.shape).astype(np.float32)
        out[number] = np.clip(clip + noise, 0, 255)
    return out


SUITE = EvaluateJob(kind="evaluate", name="trial", model="checkpoint", random=0)
"""How the physics suite is shown: as an evaluation does by default, but on its validation split,
so that what a winner is judged by later was not searched on."""


def read_quads(model: Judgeable, quads: int) -> Scores:
    """Share of quadruplets that are right, the mean over scenarios. How to look is chosen on
    quadruplets of their own.

    Raises:
        RequestError: the model's clips do not fit the suite's videos.
    """
    rules = protocol_of(SUITE, model)

    def measured(first: int, count: int) -> list[Seen]:
        units = [Unit(None, "validation", s, count, first) for s in rules.scenarios]
        return [unit.measure(model, rules) for unit in units]

    chosen_on = measured(0, SUITE.suite.choose_quads)
    scored = measured(SUITE.suite.choose_quads, quads)

    def share(seen: list[Seen], score: Score) -> dict[Look, float]:
        return {
            look: float(np.mean([score(one.scores[look]).mean() for one in seen]))
            for look in seen[0].scores
        }

    right, pairs = share(chosen_on, quad_right), share(chosen_on, pair_accuracy)
    look = max(right, key=lambda one: (right[one], pairs[one]))
    return {"quads": share(scored, quad_right)[look]}
