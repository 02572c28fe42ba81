"""The model, and random ones of its shape, as benchmarks look at them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrator.evaluation.probe import grid_pooled
from orchestrator.jepa.hub import WorldModel, random_model


@dataclass(frozen=True)
class Shape:
    """What a model's clip is."""

    size: int
    """Pixels of the square."""

    frames: int
    fps: float
    """Frames a second that it was trained at."""

    tubelet: int


def shape_of(model: WorldModel) -> Shape:
    """The clip that a model looks at."""
    config = model.config
    fps = float(config.job["data"]["fps"])
    return Shape(config.size, config.frames, fps, config.model.tubelet)


def arm(model: WorldModel, seed: int | None) -> WorldModel:
    """The model itself, or with a seed a random one of its shape."""
    return model if seed is None else random_model(model.config, seed)


def pooled_features(model: WorldModel, frames: np.ndarray) -> np.ndarray:
    """Features by tubelet, float32 [clips, tubelets, cells * dim], of uint8 [clips, T, S, S, 3]."""
    config = model.config
    side = config.size // config.model.patch
    return grid_pooled(
        model.encode(frames).numpy(), (config.frames // config.model.tubelet, side, side)
    )
