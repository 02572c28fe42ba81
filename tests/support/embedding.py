"""Small videos, a saved model, and embed jobs, for the tests of features and probes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.data.codec.encode import encode_h264
from orchestrator.jepa.model_files import save_model
from orchestrator.jepa.objectives import build_objective
from orchestrator.job import EmbedJob, build_job
from tests.support.tiny import tiny_job

FPS = 8


def save_tiny_model(folder: Path, seed: int = 0) -> Path:
    """A model that has learnt nothing; another seed, another model."""
    job = tiny_job().model_copy(update={"seed": seed})
    save_model(folder, build_objective(job), None, job, {})
    return folder


def write_noise_videos(
    folder: Path, seconds: list[float], width: int = 48, height: int = 32
) -> Path:
    """Drifting noise, `v0.mp4`, `v1.mp4`, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, length in enumerate(seconds):
        draw = np.random.default_rng(number)
        picture = draw.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        still = picture.repeat(8, 0).repeat(8, 1)
        frames = [np.roll(still, 3 * i, 1) for i in range(round(length * FPS))]
        (folder / f"v{number}.mp4").write_bytes(encode_h264(frames, FPS, 8, 20))
    return folder


def embed_job(storage: Path, model: Path, source: Path | str, **changes: Any) -> EmbedJob:
    job = build_job(
        {
            "kind": "embed",
            "name": "features",
            "storage": str(storage),
            "model": str(model),
            "data": {"source": str(source), "encode": {"short_side": 32}},
            "dtype": "float32",
            "scale": {"batch": 2},
        },
        [f"{key.replace('__', '.')}={value}" for key, value in changes.items()],
    )
    assert isinstance(job, EmbedJob)
    return job
