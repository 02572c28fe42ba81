"""V-JEPA 2.1's predictor: several levels of the encoder in, the same levels out, for every token.

arXiv 2603.14482. What is seen is predicted as well as what is hidden, each by its own projection.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from orchestrator.jepa.encoders.vision_transformer import encoder_width
from orchestrator.jepa.rope import Grid, rotary_for_tokens
from orchestrator.jepa.transformer import Transformer
from orchestrator.job import Model
from orchestrator.job.config.model import Rope


class DensePredictor(Transformer):
    """A narrow transformer over the context's tokens and one mask token per target."""

    def __init__(
        self,
        *,
        encoder_dim: int,
        num_feature_layers: int,
        grid: Grid,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        mask_tokens: int = 1,
        rope: Rope = "paired",
    ) -> None:
        super().__init__(dim, depth, heads, mlp_ratio)
        self.grid, self.rope = grid, rope
        width = num_feature_layers * encoder_dim
        self.embed: nn.Module = nn.Linear(encoder_dim, dim)
        if num_feature_layers > 1:
            self.embed = nn.Sequential(
                nn.Linear(width, encoder_dim), nn.GELU(), nn.Linear(encoder_dim, dim)
            )
        self.mask_tokens = nn.Parameter(torch.zeros(mask_tokens, dim))
        self.proj = nn.Linear(dim, width)
        self.proj_context = nn.Linear(dim, width)
        self.init_weights()

    def forward(
        self,
        z: Tensor,
        context: Tensor,
        target: Tensor,
        mask: int = 0,
        grid: Grid | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predict the levels at the hidden tokens, and at those that are seen.

        Args:
            z: the encoder's levels [B, n_c, levels * encoder_dim] at `context`.
            context: token ids int64 [B, n_c].
            target: token ids int64 [B, n_t].
            mask: which of the objective's masks it is; picks the mask token.
            grid: tokens along time, height and width, which the ids count; default: its own.

        Returns:
            [B, n_t, levels * encoder_dim] at `target`, and [B, n_c, ...] at `context`.
        """
        seen = self.embed(z)
        asked = self.mask_tokens[mask].to(seen.dtype).expand(*target.shape, -1)
        ids = torch.cat([context, target], dim=1)
        x = torch.cat([seen, asked], dim=1)
        x = self.norm(
            self.run_blocks(
                x, rotary_for_tokens(grid or self.grid, ids, self.head_dim, x, self.rope)
            )
        )
        shown, hidden = x.split([context.shape[1], target.shape[1]], dim=1)
        return self.proj(hidden), self.proj_context(shown)


def build_dense_predictor(
    model: Model, *, encoder: nn.Module, grid: Grid, mask_tokens: int
) -> DensePredictor:
    """The predictor of a job's `model` for the levels of its encoder."""
    return DensePredictor(
        encoder_dim=encoder_width(encoder),
        num_feature_layers=max(1, len(model.levels)),
        grid=grid,
        mask_tokens=mask_tokens,
        rope=model.rope,
        **model.predictor.model_dump(),
    )
