"""What a frozen encoder knows of the states of physics: ridge R2 on videos it never saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from orchestrator.evaluation.measures.ridge import pool_to_grid, ridge_probe
from orchestrator.jepa.model_files import WorldModel
from orchestrator.job import Data, Model
from orchestrator.physics.scene import VIEW_METERS
from orchestrator.physics.simulated_video import STATE_COLUMNS, simulate_video
from orchestrator.physics.uri import parse_physics_uri
from orchestrator.randomness import generator

BATCH_SIZE = 16
OBJECT_ROLES = ("mover", "target")
SCORE_COLUMNS = {"position": (0, 1), "velocity": (2, 3)}
"""Scores, each the mean R2 of some columns of the targets x, y, vx, vy."""


class ProbeVideoCounts(Protocol):
    """How many videos a probe is fitted to and scored on, and the seed that draws them."""

    @property
    def fit_videos(self) -> int: ...

    @property
    def scored_videos(self) -> int: ...

    @property
    def seed(self) -> int: ...


class ProbeJob(Protocol):
    """What decides a probe's videos: a study, or a sweep."""

    @property
    def data(self) -> Data: ...

    @property
    def model(self) -> Model: ...

    @property
    def probe(self) -> ProbeVideoCounts: ...


@dataclass(frozen=True)
class ProbeVideos:
    """Videos with their states."""

    videos: np.ndarray
    """uint8 [videos, frames, size, size, 3]."""

    states: np.ndarray
    """float32 [videos, tubelets, 4]: x, y, vx, vy, in picture widths (a second)."""


def make_probe_videos(job: ProbeJob, background: str) -> tuple[ProbeVideos, ProbeVideos]:
    """What probes are fitted to, and what they are scored on: the same for every cell.

    The families and options are the training source's, the seed is the probe's own. The state of
    a tubelet is the mean over its frames and over the things that the scene is about, seen or
    hidden: no bystander, no plank.
    """
    fit, score = job.probe.fit_videos, job.probe.scored_videos
    whole = [_make_probe_video(job, background, index) for index in range(fit + score)]
    videos = np.stack([video for video, _ in whole])
    states = np.stack([state for _, state in whole])
    return ProbeVideos(videos[:fit], states[:fit]), ProbeVideos(videos[fit:], states[fit:])


def _make_probe_video(job: ProbeJob, background: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """One clip from a drawn moment of its video: frames, and states by tubelet."""
    given, data = parse_physics_uri(job.data.source or ""), job.data
    simulation = simulate_video(
        given.scene_type_of(index),
        job.probe.seed,
        index,
        size=data.size,
        fps=data.fps,
        seconds=max(given.seconds, data.frames / data.fps),
        distractors=given.distractors,
        background=background,
    )
    last = len(simulation.frames) - data.frames
    start = int(generator(job.probe.seed, index, "probe").integers(0, last, endpoint=True))
    at = slice(start, start + data.frames)
    named = [i for i, one in enumerate(simulation.meta["objects"]) if one["role"] in OBJECT_ROLES]
    columns = [STATE_COLUMNS.index(name) for name in ("x", "y", "vx", "vy")]
    state = simulation.states[at][:, named][:, :, columns].mean(1) / VIEW_METERS
    tubelets = state.reshape(-1, job.model.tubelet, 4).mean(1)
    return simulation.frames[at], tubelets.astype(np.float32)


def probe_scores(model: WorldModel, fit: ProbeVideos, score: ProbeVideos) -> dict[str, float]:
    """R2 of position and velocity, read linearly off the frozen features of each tubelet."""
    x, groups = _features(model, fit.videos)
    held_out, _ = _features(model, score.videos)
    found = ridge_probe(x, fit.states.reshape(-1, 4), groups, held_out, score.states.reshape(-1, 4))
    return {name: float(found.r2[list(at)].mean()) for name, at in SCORE_COLUMNS.items()}


def _features(model: WorldModel, videos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pooled features of every tubelet, float32 [rows, dim], and the video of each row."""
    grid = model.config.token_grid_of(model.config.frames)
    parts = [
        pool_to_grid(model.encode(batch).cpu().numpy(), grid)
        for batch in torch.split(torch.from_numpy(videos), BATCH_SIZE)
    ]
    rows = np.concatenate(parts)
    groups = np.repeat(np.arange(len(rows)), rows.shape[1])
    return rows.reshape(-1, rows.shape[-1]), groups
