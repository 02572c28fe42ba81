"""What decides a folder of features: the model, the data, and how one is looked at by the other."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.data.loader.eval_clips import EvalDecodeConfig
from orchestrator.data.store.index import DatasetIndex
from orchestrator.errors import RequestError
from orchestrator.jepa.encoders.vision_transformer import encoder_width
from orchestrator.jepa.model_files import WEIGHTS_FILE, ModelConfig, WorldModel
from orchestrator.job import EmbedJob

PROTOCOL_VERSION = 1
"""Raised when the same model and data with the same options would give other numbers."""

_BLOCK = 1 << 20


@dataclass(frozen=True)
class EmbeddingSpec:
    """How clips are chosen, and what is kept of a clip."""

    decode_config: EvalDecodeConfig
    grid: tuple[int, int, int]
    """Tokens of a clip along time, height and width."""

    dim: int
    pooling: str
    dtype: str
    part_bytes: int

    @classmethod
    def from_job(cls, job: EmbedJob, model: WorldModel) -> EmbeddingSpec:
        """What a job asks of a model.

        Raises:
            RequestError: the model cannot look at clips of this length.
        """
        config = model.config
        frames = job.data.frames or config.frames
        tubelet = config.model.tubelet
        if frames % tubelet:
            raise RequestError(
                f"{frames} frames do not divide by the model's tubelet {tubelet}",
                where="data.frames",
                hint=f"give a multiple of {tubelet}; it was trained on {config.frames}",
            )
        fps = job.data.fps or float(config.job["data"]["fps"])
        return cls(
            decode_config=EvalDecodeConfig(frames, fps, config.size, job.data.clips_per_segment),
            grid=config.token_grid_of(frames),
            dim=encoder_width(model.encoder),
            pooling=job.pooling,
            dtype=job.dtype,
            part_bytes=int(job.part_bytes),
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a clip's features."""
        t, h, w = self.grid
        leading = {"tokens": (t * h * w,), "frames": (t,), "mean": ()}[self.pooling]
        return (*leading, self.dim)

    @property
    def bytes_per_clip(self) -> int:
        """Of a clip's features, on disk."""
        return math.prod(self.shape) * (2 if self.dtype == "float16" else 4)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `protocol` is the version of the code that chooses and pools."""
        recipe = self.decode_config
        return {
            "protocol": PROTOCOL_VERSION,
            "frames": recipe.frames,
            "fps": recipe.fps,
            "size": recipe.size,
            "clips": recipe.clips_per_segment,
            "grid": list(self.grid),
            "dim": self.dim,
            "pooling": self.pooling,
            "dtype": self.dtype,
            "part_bytes": self.part_bytes,
        }


def embedding_identity(
    spec: EmbeddingSpec, model: str, data: Sequence[DatasetIndex]
) -> dict[str, Any]:
    """All that decides the numbers, flat; the same name with another identity is refused."""
    digests = {f"data.{i}": index.digest for i, index in enumerate(data)}
    return {"model": model, **digests, **spec.to_dict()}


def model_digest(folder: Path, config: ModelConfig, untrained: int | None = None) -> str:
    """16 hex digits of a model's weights and shape; of its shape and seed where it is `untrained`.

    Wherever a model is copied, and whatever it is called, its digest stays.
    """
    digest = hashlib.sha256(f"{architecture_digest(config)} untrained {untrained}".encode())
    if untrained is None:
        with open(folder / WEIGHTS_FILE, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()[:16]


def architecture_digest(config: ModelConfig) -> str:
    """16 hex digits of a model's shape alone: a random model of the same shape has the same."""
    shape = config.model.model_dump(mode="json", exclude={"start"})
    facts = {"model": shape, "size": config.size, "frames": config.frames}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
