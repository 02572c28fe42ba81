"""The model, and random ones of its shape, as benchmarks look at them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from orchestrator.evaluation.evaluable import Evaluable
from orchestrator.evaluation.measures.ridge import pool_to_grid


@dataclass(frozen=True)
class ClipFormat:
    """What a model's clip is."""

    size: int
    """Pixels of the square."""

    frames: int
    fps: float
    """Frames a second that it was trained at."""

    tubelet: int


def clip_format_of(model: Evaluable) -> ClipFormat:
    """The clip that a model looks at."""
    clip = model.clip
    return ClipFormat(clip.size, clip.frames, clip.fps, clip.tubelet)


def model_or_random(model: Evaluable, seed: int | None) -> Evaluable:
    """The model itself, or with a seed a random one of its shape."""
    return model if seed is None else model.untaught(seed)


def pooled_features(model: Evaluable, frames: np.ndarray) -> np.ndarray:
    """Features by tubelet, float32 [clips, tubelets, cells * dim], of uint8 [clips, T, S, S, 3]."""
    features = model.encode(torch.from_numpy(np.ascontiguousarray(frames)))
    return pool_to_grid(features.cpu().numpy(), model.clip.grid)
