"""Two Rooms' own dynamics as a model to plan with: it sees the dot, and knows where it goes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from orchestrator.environments.two_rooms import ROOM_SIZE, TwoRooms


class TwoRoomsModel:
    """Features: x and y of the dot over 224, one token a moment."""

    block, history = 5, 1

    def __init__(self) -> None:
        self.num_encoded_frames = 0
        self._world = TwoRooms()

    def encode(self, video: Tensor | np.ndarray) -> Tensor:
        """uint8 [B, T, H, W, 3] -> [B, T, 2]: where red outweighs green."""
        frames = np.asarray(video).astype(np.float32)
        self.num_encoded_frames += frames.shape[0] * frames.shape[1]
        red = (frames[..., 0] - frames[..., 1] - 40).clip(0)  # a coded video is grey nowhere
        side = (np.arange(frames.shape[2]) + 0.5) / frames.shape[2]
        weight = red.sum((2, 3))
        x = (red * side).sum((2, 3)) / weight
        y = (red * side[:, None]).sum((2, 3)) / weight
        return torch.from_numpy(np.stack([x, y], -1)).float()

    def predict(self, z: Tensor, actions: Tensor, states: Tensor | None = None) -> Tensor:
        """[B, h, 2], [B, m, 10] -> [B, m - h + 1, 2]."""
        ahead = actions[:, z.shape[1] - 1 :].reshape(len(z), -1, 2).numpy()
        reached = self._world.rollout(z[:, -1].numpy() * ROOM_SIZE, ahead)
        return torch.from_numpy(reached[:, self.block - 1 :: self.block] / ROOM_SIZE).float()
