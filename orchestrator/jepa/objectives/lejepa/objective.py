"""LeJEPA for video: one encoder, no teacher, SIGReg against collapse (arXiv 2511.08544)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from orchestrator.jepa.encoders.vision_transformer import build_encoder
from orchestrator.jepa.objectives.base import (
    Masks,
    ObjectiveOutput,
    gather_tokens,
    have_static_shapes,
    token_grid_of,
)
from orchestrator.jepa.objectives.batch_statistic import ClipSets, SIGRegObjective
from orchestrator.jepa.objectives.lejepa.config import LeJEPA
from orchestrator.jepa.predictors.masked import build_masked_predictor
from orchestrator.job import TrainJob


class LeJEPAObjective(SIGRegObjective):
    """(1 - weight) * MSE between predicted and encoded tokens + weight * SIGReg.

    The wanted tokens are the same encoder's, of the whole clip, and gradients flow into them. What
    the paper calls a view is here a position of the token grid: across clips, the features at
    every position are to be N(0, I).
    """

    def __init__(self, config: LeJEPA, job: TrainJob) -> None:
        super().__init__()
        self.patch, self.tubelet = job.model.patch, job.model.tubelet
        self.sigreg_weight, self.slices = config.weight, config.slices
        self.statistic_clips = config.statistic_clips or job.scale.global_batch
        self.fixed_shapes = have_static_shapes(config.masks)
        self.encoder = build_encoder(job.model, size=job.data.size, frames=job.data.frames)
        self.predictor = build_masked_predictor(
            job.model, encoder=self.encoder, grid=job.grid, mask_tokens=len(config.masks)
        )

    def sigreg_features(self, video: Tensor) -> Tensor:
        """Every token of the clip: [B, N, dim]."""
        features: Tensor = self.encoder(video, None)
        return features

    def forward(
        self, video: Tensor, masks: Masks, targets: Tensor | ClipSets | None
    ) -> ObjectiveOutput:
        """Prediction and statistic of each clip.

        Args:
            video: normalised [B, 3, T, H, W].
            masks: per mask, context [B, n_c] and target [B, n_t] ids.
            targets: the clips' pool; None: they are one whole set.
        """
        pool = targets if isinstance(targets, ClipSets) else ClipSets.single_set(video)
        latents = self.encoder(video, None)
        losses, seen = [], []
        grid = token_grid_of(video, self.patch, self.tubelet)
        for i, (context, target) in enumerate(masks):
            z = self.encoder(video, context)
            predicted = self.predictor(z, context, target, i, grid)
            wanted = gather_tokens(latents, target).float()
            apart = F.mse_loss(predicted.float(), wanted, reduction="none")
            losses.append(apart.mean((1, 2)))
            seen.append(z)
        statistic = self.sigreg_loss(latents, pool)
        prediction = torch.stack(losses).mean(0)
        loss = (1 - self.sigreg_weight) * prediction + self.sigreg_weight * statistic
        return ObjectiveOutput(loss, seen[0].detach())
