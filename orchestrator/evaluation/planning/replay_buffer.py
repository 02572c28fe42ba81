"""What the training data shows: its videos cut into model steps, as the frozen model sees them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from orchestrator.data.codec.decode import decode_clip
from orchestrator.data.store.index import DatasetIndex
from orchestrator.environments.base import Floats
from orchestrator.errors import DataError, RequestError
from orchestrator.planning.base import PlannableModel

MAX_FEATURE_DIM = 1024
"""Most numbers that are kept of a moment's features; more are projected at random."""


@dataclass(frozen=True)
class EncodedEpisode:
    """A video: T moments, one each model step."""

    features: Tensor
    """float32 [T, W]."""

    actions: Floats
    """float32 [T - 1, D]: what led from one to the next."""

    states: Floats
    """float32 [T, S]; S is 0 where the data has none."""


@dataclass(frozen=True)
class ReplayBuffer:
    """What is remembered, and how features became W numbers."""

    episodes: list[EncodedEpisode]
    projection: Tensor | None
    """[area * dim, W]; None: they are kept as they are."""

    def flatten(self, z: Tensor) -> Tensor:
        """[..., area, dim] -> [..., W]."""
        return flatten_features(z, self.projection)


def flatten_features(z: Tensor, projection: Tensor | None) -> Tensor:
    """[..., area, dim] -> [..., W]."""
    rows = z.flatten(-2).float().cpu()
    return rows if projection is None else rows @ projection


def build_replay_buffer(
    model: PlannableModel,
    indexes: Sequence[DatasetIndex],
    episodes: int,
    size: int,
    action_dim: int,
) -> ReplayBuffer:
    """Look at the first `episodes` videos.

    Args:
        size: pixels of the square that the model sees.
        action_dim: D, numbers of a model step.

    Raises:
        RequestError: the data has no actions, or other ones than the world.
    """
    projection: Tensor | None = None
    videos: list[EncodedEpisode] = []
    for payload, actions, states in _videos(indexes):
        if len(videos) == episodes:
            break
        whole = (len(actions) - 1) // model.block  # the last row means nothing
        if whole < 1:
            continue
        if model.block * actions.shape[1] != action_dim:
            raise RequestError(
                f"its actions have {actions.shape[1]} numbers,"
                f" the world's {action_dim // model.block}",
                where="planning.data",
                hint="name data that was collected in this world",
            )
        at = np.arange(whole + 1) * model.block
        frames = decode_clip(payload.video_bytes, (at + 0.25) / payload.fps, size=size)
        z = model.encode(frames[None])[0].view(len(at), -1)
        if not videos and z.shape[1] > MAX_FEATURE_DIM:
            draw = torch.Generator().manual_seed(0)
            projection = (
                torch.randn(z.shape[1], MAX_FEATURE_DIM, generator=draw) / z.shape[1] ** 0.5
            )
        done = actions[: whole * model.block].reshape(whole, action_dim)
        videos.append(EncodedEpisode(flatten_features(z[:, None], projection), done, states[at]))
    if not videos:
        raise RequestError(
            "no video of it comes with actions",
            where="planning.data",
            hint="name data with KEY.actions.npy, or leave cloning and nearest out of the arms",
        )
    return ReplayBuffer(videos, projection)


@dataclass(frozen=True)
class _EncodedVideo:
    video_bytes: bytes
    fps: float


def _videos(indexes: Sequence[DatasetIndex]) -> Iterator[tuple[_EncodedVideo, Floats, Floats]]:
    """Coded video, actions [F, A] and states [F, S] of every segment that has actions."""
    for index in indexes:
        for shard in range(index.num_shards):
            for row in index.shard_rows(shard).to_pylist():
                beside = {extra["name"]: extra for extra in row.get("extras") or []}
                if "actions.npy" not in beside:
                    continue
                actions = _array(index, shard, beside["actions.npy"])
                states = np.zeros((len(actions), 0), np.float32)
                if "states.npy" in beside:
                    states = _array(index, shard, beside["states.npy"]).reshape(len(actions), -1)
                coded = index.read_bytes(shard, row["offset"], row["bytes"], row["sha256"])
                yield _EncodedVideo(coded, row["fps"]), actions, states


def _array(index: DatasetIndex, shard: int, extra: dict[str, int]) -> Floats:
    data = index.read_bytes(shard, extra["offset"], extra["bytes"])
    try:
        return np.asarray(np.load(io.BytesIO(data), allow_pickle=False), np.float32)
    except ValueError as error:
        raise DataError(f"an array beside a video cannot be read: {error}") from None
