"""V-JEPA 2-AC's predictor: from what is done, the state and a frame's features to the next frame's.

arXiv 2506.09985, section 3.1. A frame is [action, state, its patches], each through a linear map of
its own; a token attends to all tokens of its frame and of those before it. Patches have their
place and time by rotation, action and state their time alone. Features are layer-normed without
affine terms on both sides.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.jepa.encoders.vision_transformer import encoder_width
from orchestrator.jepa.predictors.action_conditioning import (
    Standardizer,
    action_standardizer,
    state_standardizer,
)
from orchestrator.jepa.rope import Rotation, rotary_for_tokens
from orchestrator.jepa.transformer import Block, KVCache, Transformer
from orchestrator.job import Actions, Model
from orchestrator.job.config.model import Rope

if TYPE_CHECKING:
    from orchestrator.jepa.model_config import ModelConfig


class ActionConditionedPredictor(Transformer):
    """From the features of the frames so far, and what is done in each, to those of the next."""

    num_mask_tokens = num_horizons = 0
    """It must be told what is done: it answers no mask."""

    def __init__(
        self,
        *,
        encoder_dim: int,
        side: int,
        act: Actions,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        rope: Rope = "tiled",
    ) -> None:
        super().__init__(dim, depth, heads, mlp_ratio)
        self.grid_side, self.rope, self.actions_are_state_deltas = (
            side,
            rope,
            act.representation == "change",
        )
        self.embed = nn.Linear(encoder_dim, dim)
        self.action_standardizer: Standardizer = action_standardizer(act)
        self.action = nn.Linear(len(self.action_standardizer.mean), dim)
        # Of given actions nobody can say which states follow: none are read.
        self.state_standardizer: Standardizer | None = (
            state_standardizer(act) if self.actions_are_state_deltas else None
        )
        self.state = (
            nn.Linear(len(self.state_standardizer.mean), dim) if self.state_standardizer else None
        )
        self.proj = nn.Linear(dim, encoder_dim)
        self.init_weights()

    @property
    def patches_per_frame(self) -> int:
        """Patches of a frame."""
        return self.grid_side**2

    def predict_one_step(self, z: Tensor, actions: Tensor, states: Tensor | None) -> Tensor:
        """The features of the frame after each.

        Args:
            z: layer-normed features of n frames, [B, n * area, encoder_dim].
            actions: what is done in each, in the data's units, [B, n, D].
            states: each frame's state [B, n, S], where changes are told.

        Returns:
            Layer-normed [B, n * area, encoder_dim].
        """
        frames = actions.shape[1]
        x = self._embed_frames(z, actions, states)
        each = x.shape[2]
        seen = block_causal_mask(frames, each, x.device)
        x = self.run_blocks(x.flatten(1, 2), self._rotation(frames, each, x), seen)
        return self._to_features(x.view(len(x), frames, each, -1))

    def _embed_frames(self, z: Tensor, actions: Tensor, states: Tensor | None) -> Tensor:
        """Every frame's tokens, what is told first: [B, n, each, dim]."""
        dtype = self.embed.weight.dtype
        tokens = [self.action(self.action_standardizer(actions).to(dtype))[:, :, None]]
        if self.state is not None and self.state_standardizer is not None:
            assert states is not None
            tokens.append(self.state(self.state_standardizer(states).to(dtype))[:, :, None])
        patches = self.embed(z).view(len(z), actions.shape[1], self.patches_per_frame, -1)
        return torch.cat([*(token.to(patches.dtype) for token in tokens), patches], 2)

    def _rotation(self, frames: int, each: int, like: Tensor) -> Rotation:
        grid = (frames, self.grid_side, self.grid_side)
        ids = token_ids_with_conditioning(
            frames, self.patches_per_frame, each - self.patches_per_frame, like.device
        )
        return rotary_for_tokens(grid, ids, self.head_dim, like, self.rope)

    def _to_features(self, x: Tensor) -> Tensor:
        """From the blocks' output [B, n, each, dim] to features, [B, n * area, encoder_dim]."""
        patches = x[:, :, x.shape[2] - self.patches_per_frame :].flatten(1, 2)
        out: Tensor = self.proj(self.norm(patches))
        return F.layer_norm(out, out.shape[-1:])

    def rollout(
        self, z: Tensor, actions: Tensor, history: int, states: Tensor | None = None
    ) -> Tensor:
        """What follows frame by frame, each from the last `history` frames and predictions.

        Args:
            z: features of the h frames so far, [B, h * area, encoder_dim].
            actions: what is done in each of m >= h frames, [B, m, D].
            history: most frames that are read at once: as many as in training.
            states: of the h frames, [B, h, S], where changes are told; those that follow are the
                sums of state and change.

        Returns:
            [B, (m - h + 1) * area, encoder_dim].
        """
        known, start = z, z.shape[1] // self.patches_per_frame
        pasts: list[KVCache] = []
        for now in range(start, actions.shape[1] + 1):
            if states is not None and now > start:
                states = torch.cat([states, states[:, -1:] + actions[:, now - 2, None]], 1)
            first = new = max(0, now - history)
            if first or now == start:
                pasts = [KVCache() for _ in self.blocks]  # a window that moves is read anew
            else:
                new = now - 1
            stood = None if states is None else states[:, new:]
            x = self._embed_frames(
                known[:, new * self.patches_per_frame :], actions[:, new:now], stood
            )
            each = x.shape[2]
            x = self._step_with_cache(x.flatten(1, 2), new - first, each, pasts)
            after = self._to_features(x[:, -each:].view(len(x), 1, each, -1))
            known = torch.cat([known, after.to(z.dtype)], dim=1)
        return known[:, z.shape[1] :]

    def _step_with_cache(self, x: Tensor, skipped: int, each: int, pasts: list[KVCache]) -> Tensor:
        """The last of new frames [B, n, dim] behind `skipped` ones of the same window."""
        count = x.shape[1] // each
        cos, sin = self._rotation(skipped + count, each, x)
        rotation = cos[:, skipped * each :], sin[:, skipped * each :]
        seen = block_causal_mask(count, each, x.device)
        for block, past in zip(self.blocks, pasts, strict=True):
            assert isinstance(block, Block)
            asked = each if block is self.blocks[-1] else x.shape[1]
            x = block.step_with_cache(
                x, rotation, past, asked, None if count == 1 else seen[-asked:]
            )
        return x


@functools.lru_cache(maxsize=32)
def token_ids_with_conditioning(frames: int, area: int, extra: int, device: torch.device) -> Tensor:
    """Ids on the grid of patches of all tokens, int64 [1, frames * (extra + area)]: action and
    state stand where a frame's first patch does, whose place turns nothing."""
    with torch.inference_mode(False):
        first = torch.arange(frames, device=device)[:, None] * area
        own = torch.arange(area, device=device).expand(frames, -1)
        return torch.cat([first.expand(-1, extra), first + own], 1).reshape(1, -1)


@functools.lru_cache(maxsize=32)
def block_causal_mask(frames: int, each: int, device: torch.device) -> Tensor:
    """Which token (row) attends to which, bool [n, n], n = frames * each: its frame and earlier."""
    with torch.inference_mode(False):
        frame = torch.arange(frames * each, device=device) // each
        return frame[:, None] >= frame


def encode_frames_separately(encoder: nn.Module, video: Tensor, tubelet: int) -> Tensor:
    """The features of every frame by itself, as if it stood still for a tubelet.

    Args:
        video: normalised [B, 3, T, H, W].

    Returns:
        float32 [B, T * area, dim], layer-normed without affine terms.
    """
    still = video.transpose(1, 2).flatten(0, 1)[:, :, None].expand(-1, -1, tubelet, -1, -1)
    features = encoder(still.contiguous(), None).float()
    features = features.reshape(len(video), -1, features.shape[-1])
    return F.layer_norm(features, features.shape[-1:])


def build_action_conditioned_predictor(
    model: Model, *, encoder_dim: int, side: int, act: Actions
) -> ActionConditionedPredictor:
    """The predictor of a job's `model` for features of `side` x `side` patches a frame."""
    return ActionConditionedPredictor(
        encoder_dim=encoder_dim,
        side=side,
        act=act,
        rope=model.rope,
        **model.predictor.model_dump(),
    )


def rebuild_predictor(
    config: ModelConfig, encoder: nn.Module, num_mask_tokens: int
) -> ActionConditionedPredictor:
    """The predictor of a saved model, freshly initialised; it has no mask tokens."""
    assert config.actions is not None
    return build_action_conditioned_predictor(
        config.model,
        encoder_dim=encoder_width(encoder),
        side=config.token_grid_of(config.frames)[1],
        act=config.actions,
    )
