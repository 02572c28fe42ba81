"""Pixel prediction as in VideoMAE (arXiv 2203.12602): the measure of latent prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.jepa.encoders.patch_embed import patchify
from orchestrator.jepa.encoders.vision_transformer import build_encoder
from orchestrator.jepa.objectives.base import (
    Masks,
    Objective,
    ObjectiveOutput,
    gather_tokens,
    have_static_shapes,
    token_grid_of,
)
from orchestrator.jepa.objectives.pixels.config import PixelPrediction
from orchestrator.jepa.predictors.masked import MaskedPredictor, build_masked_predictor
from orchestrator.job import TrainJob

if TYPE_CHECKING:
    from orchestrator.jepa.model_config import ModelConfig

EPSILON = 1e-6


class PixelsObjective(Objective):
    """MSE between predicted and true pixels of the target tokens' patches."""

    def __init__(self, config: PixelPrediction, job: TrainJob) -> None:
        super().__init__()
        self.patch, self.tubelet = job.model.patch, job.model.tubelet
        self.fixed_shapes = have_static_shapes(config.masks)
        self.encoder = build_encoder(job.model, size=job.data.size, frames=job.data.frames)
        self.predictor = build_masked_predictor(
            job.model,
            encoder=self.encoder,
            grid=job.grid,
            mask_tokens=len(config.masks),
            output_dim=3 * self.tubelet * self.patch**2,
        )

    def forward(self, video: Tensor, masks: Masks, targets: Any) -> ObjectiveOutput:
        """Mean of (prediction - target)^2 over target tokens and pixels, then over masks.

        Args:
            video: normalised [B, 3, T, H, W].
            masks: per mask, context [B, n_c] and target [B, n_t] ids.
            targets: not used: the video is its own target.
        """
        patches = normalize_patches(video, self.patch, self.tubelet)
        losses, seen = [], []
        grid = token_grid_of(video, self.patch, self.tubelet)
        for i, (context, target) in enumerate(masks):
            z = self.encoder(video, context)
            predicted = self.predictor(z, context, target, i, grid)
            wanted = gather_tokens(patches, target)
            apart = F.mse_loss(predicted.float(), wanted, reduction="none")
            losses.append(apart.mean((1, 2)))
            seen.append(z)
        return ObjectiveOutput(torch.stack(losses).mean(0), seen[0].detach())


def normalize_patches(video: Tensor, patch: int, tubelet: int) -> Tensor:
    """Every token's pixels, each channel less its mean and over its standard deviation.

    Mean and deviation are those of the patch (section 3.2: normalised cubes), so that a plain
    patch is all zeros. [B, 3, T, H, W] -> float32 [B, N, 3 * tubelet * patch^2].
    """
    channels = patchify(video.float(), patch, tubelet).flatten(1, 3).flatten(3)
    channels = channels - channels[..., :1]  # exact: a plain patch must not become rounding noise
    mean, spread = channels.mean(-1, keepdim=True), channels.std(-1, keepdim=True)
    return ((channels - mean) / (spread + EPSILON)).flatten(2)


def rebuild_predictor(
    config: ModelConfig, encoder: nn.Module, num_mask_tokens: int
) -> MaskedPredictor:
    """The predictor of a saved model, freshly initialised."""
    return build_masked_predictor(
        config.model,
        encoder=encoder,
        grid=config.token_grid_of(config.frames),
        mask_tokens=num_mask_tokens,
        output_dim=3 * config.model.tubelet * config.model.patch**2,
    )
