"""A predictor that reads time forwards: after every moment, the features of those that follow.

The way of DINO-WM (arXiv 2411.04983) and V-JEPA 2-AC (arXiv 2506.09985, section 3), without
actions: one pass over a clip gives a prediction after each of its moments, so every frame of
every clip is something to be predicted. Attention is factorised: within a moment over space, and
at a place over the moments up to now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.jepa.encoders.vision_transformer import encoder_width
from orchestrator.jepa.rope import Grid, Rotation, rotary_for_tokens
from orchestrator.jepa.transformer import MLP, NORM_EPS, Attention, ResidualStreamBlock, Transformer
from orchestrator.job import Model
from orchestrator.job.config.model import Rope

if TYPE_CHECKING:
    from orchestrator.jepa.model_config import ModelConfig


class SpaceTimeBlock(ResidualStreamBlock):
    """Attention over space, then over the past, then an MLP; each behind its norm."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.space = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.time = Attention(dim, heads, causal=True)
        self.norm3 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = MLP(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, spatial_rotation: Rotation, temporal_rotation: Rotation) -> Tensor:
        """[B, moments, places, dim] -> the same."""
        batch, times, area, dim = x.shape
        seen = self.space(self.norm1(x).flatten(0, 1), spatial_rotation)
        x = x + seen.view(x.shape)
        turned = self.norm2(x).transpose(1, 2).reshape(batch * area, times, dim)
        past = self.time(turned, temporal_rotation)
        x = x + past.view(batch, area, times, dim).transpose(1, 2)
        out: Tensor = x + self.mlp(self.norm3(x))
        return out

    def output_projections(self) -> list[nn.Linear]:
        """Of either attention and of the MLP."""
        return [self.space.proj, self.time.proj, self.mlp.fc2]


class CausalPredictor(Transformer):
    """From the features of the moments so far to those of the next `horizons` moments."""

    num_mask_tokens = 1
    """There is one way to ask: what comes next."""

    def __init__(
        self,
        *,
        encoder_dim: int,
        grid: Grid,
        horizons: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        rope: Rope = "tiled",
    ) -> None:
        super().__init__(dim, depth, heads, mlp_ratio, SpaceTimeBlock)
        self.grid, self.num_horizons, self.heads, self.rope = grid, horizons, heads, rope
        self.embed = nn.Linear(encoder_dim, dim)
        self.proj = nn.Linear(dim, horizons * encoder_dim)
        self.init_weights()

    def predict_next(self, features: Tensor) -> Tensor:
        """What follows each moment: [B, n, encoder_dim], n tokens of whole moments, to
        [B, moments, places, horizons, encoder_dim]."""
        _, height, width = self.grid
        area = height * width
        x = self.embed(F.layer_norm(features, features.shape[-1:]))
        x = x.view(len(x), -1, area, x.shape[-1])
        places = rotary_for_tokens((1, height, width), None, self.head_dim, x, self.rope)
        moments = rotary_for_tokens((x.shape[1], 1, 1), None, self.head_dim, x, self.rope)
        out: Tensor = self.proj(self.norm(self.run_blocks(x, places, moments)))
        return out.view(*out.shape[:3], self.num_horizons, -1)

    def forward(self, z: Tensor, context: Tensor, target: Tensor, mask: int = 0) -> Tensor:
        """Predict all that follows the first moments; beyond the horizons from predictions.

        Args:
            z: the encoder's features of the first moments, [B, n_c, encoder_dim].
            context: their token ids int64 [B, n_c]: 0 to n_c - 1.
            target: the token ids that follow, int64 [B, n_t]: n_c to n_c + n_t - 1.
            mask: 0.

        Returns:
            [B, n_t, encoder_dim].
        """
        known = F.layer_norm(z, z.shape[-1:])
        while known.shape[1] < z.shape[1] + target.shape[1]:
            after = self.predict_next(known)[:, -1].transpose(1, 2).flatten(1, 2)
            known = torch.cat([known, after.to(known.dtype)], dim=1)
        return known[:, z.shape[1] : z.shape[1] + target.shape[1]]


def build_causal_predictor(
    model: Model, *, encoder: nn.Module, grid: Grid, horizons: int
) -> CausalPredictor:
    """The causal predictor of a job's `model` for an encoder of width `encoder.dim`."""
    return CausalPredictor(
        encoder_dim=encoder_width(encoder),
        grid=grid,
        horizons=horizons,
        rope=model.rope,
        **model.predictor.model_dump(),
    )


def rebuild_predictor(
    config: ModelConfig, encoder: nn.Module, num_mask_tokens: int
) -> CausalPredictor:
    """The predictor of a saved model, freshly initialised; it has no mask tokens."""
    return build_causal_predictor(
        config.model,
        encoder=encoder,
        grid=config.token_grid_of(config.frames),
        horizons=config.job["objective"]["horizons"],
    )
