"""V-JEPA 2: predict a teacher's features of hidden tokens (arXiv 2506.09985, equation 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.jepa.encoders.vision_transformer import build_encoder
from orchestrator.jepa.objectives.base import (
    Masks,
    Objective,
    ObjectiveOutput,
    gather_tokens,
    have_static_shapes,
    token_grid_of,
)
from orchestrator.jepa.objectives.vjepa2.config import VJEPA2
from orchestrator.jepa.predictors.masked import build_masked_predictor
from orchestrator.job import TrainJob


class VJEPA2Objective(Objective):
    """L1 between predicted features and the teacher's layer-normed ones, at the target tokens."""

    averaged = "encoder"

    def __init__(self, config: VJEPA2, job: TrainJob) -> None:
        super().__init__()
        self.patch, self.tubelet = job.model.patch, job.model.tubelet
        self.momentum = config.ema
        self.fixed_shapes = have_static_shapes(config.masks)
        self.encoder = build_encoder(job.model, size=job.data.size, frames=job.data.frames)
        self.predictor = build_masked_predictor(
            job.model, encoder=self.encoder, grid=job.grid, mask_tokens=len(config.masks)
        )

    @torch.no_grad()
    def targets(self, teacher: nn.Module, video: Tensor) -> Tensor:
        """Features of all tokens, normed per token without affine terms: float32 [B, N, dim].

        All masks of a step share this one forward.
        """
        features = teacher(video, None).float()
        return F.layer_norm(features, features.shape[-1:])

    def forward(self, video: Tensor, masks: Masks, targets: Tensor | None) -> ObjectiveOutput:
        """Mean of |prediction - target| over target tokens and channels, then over masks.

        Args:
            video: normalised [B, 3, T, H, W].
            masks: per mask, context [B, n_c] and target [B, n_t] ids.
            targets: what `targets` gave for the same video, [B, N, dim].
        """
        assert targets is not None
        losses, seen = [], []
        grid = token_grid_of(video, self.patch, self.tubelet)
        for i, (context, target) in enumerate(masks):
            z = self.encoder(video, context)
            predicted = self.predictor(z, context, target, i, grid)
            wanted = gather_tokens(targets, target)
            losses.append(F.l1_loss(predicted.float(), wanted, reduction="none").mean((1, 2)))
            seen.append(z)
        return ObjectiveOutput(torch.stack(losses).mean(0), seen[0].detach())
