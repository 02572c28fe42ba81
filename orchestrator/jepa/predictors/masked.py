"""The predictor: from the context's features to the targets' (arXiv 2506.09985, equation 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from orchestrator.jepa.encoders.vision_transformer import encoder_width
from orchestrator.jepa.rope import Grid, rotary_for_tokens
from orchestrator.jepa.transformer import Transformer
from orchestrator.job import Model
from orchestrator.job.config.model import Rope

if TYPE_CHECKING:
    from orchestrator.jepa.model_config import ModelConfig


class MaskedPredictor(Transformer):
    """A narrow transformer over the context's tokens and one mask token per target.

    Nothing is sorted by position: rotary attention reads positions from the token ids, so the
    order of the tokens makes no difference.
    """

    def __init__(
        self,
        *,
        encoder_dim: int,
        grid: Grid,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        mask_tokens: int = 1,
        out: int | None = None,
        rope: Rope = "tiled",
    ) -> None:
        super().__init__(dim, depth, heads, mlp_ratio)
        self.grid, self.heads, self.rope = grid, heads, rope
        self.embed = nn.Linear(encoder_dim, dim)
        self.num_mask_tokens = mask_tokens
        # Learned, one row per mask of the objective; they start at zero as published.
        self.mask_tokens = nn.Parameter(torch.zeros(mask_tokens, dim))
        self.proj = nn.Linear(dim, out or encoder_dim)
        self.init_weights()

    def forward(
        self, z: Tensor, context: Tensor, target: Tensor, mask: int = 0, grid: Grid | None = None
    ) -> Tensor:
        """Predict the features of the tokens `target` from those of the tokens `context`.

        Args:
            z: the encoder's output [B, n_c, encoder_dim] at `context`.
            context: token ids int64 [B, n_c].
            target: token ids int64 [B, n_t].
            mask: which of the objective's masks it is; picks the mask token.
            grid: tokens along time, height and width, which the ids count; default: its own.

        Returns:
            [B, n_t, out], or [B, n_t, encoder_dim] where features are predicted.
        """
        seen = self.embed(z)
        asked = self.mask_tokens[mask].to(seen.dtype).expand(*target.shape, -1)
        x = torch.cat([seen, asked], dim=1)
        ids = torch.cat([context, target], dim=1)
        x = self.run_blocks(
            x, rotary_for_tokens(grid or self.grid, ids, self.head_dim, x, self.rope)
        )
        out: Tensor = self.proj(self.norm(x[:, context.shape[1] :]))
        return out


def build_masked_predictor(
    model: Model, *, encoder: nn.Module, grid: Grid, mask_tokens: int, output_dim: int | None = None
) -> MaskedPredictor:
    """The predictor of a job's `model` for an encoder of width `encoder.dim`.

    `out` is the width of what it predicts, where that is not the encoder's features.
    """
    return MaskedPredictor(
        encoder_dim=encoder_width(encoder),
        grid=grid,
        mask_tokens=mask_tokens,
        out=output_dim,
        rope=model.rope,
        **model.predictor.model_dump(),
    )


def rebuild_predictor(
    config: ModelConfig, encoder: nn.Module, num_mask_tokens: int
) -> MaskedPredictor:
    """The predictor of a saved model, freshly initialised."""
    return build_masked_predictor(
        config.model,
        encoder=encoder,
        grid=config.token_grid_of(config.frames),
        mask_tokens=num_mask_tokens,
    )
