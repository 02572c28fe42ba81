"""LeJEPA for video: one encoder, no teacher, SIGReg against collapse (arXiv 2511.08544)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from orchestrator.jepa.encoder import build_encoder, encoder_width
from orchestrator.jepa.objectives.base import (
    Masks,
    ObjectiveOutput,
    at_tokens,
    shapes_are_fixed,
)
from orchestrator.jepa.objectives.pooled import Pool, PooledObjective
from orchestrator.jepa.predictor import build_predictor
from orchestrator.jepa.sigreg import characteristic_sums, clip_losses, unit_slices
from orchestrator.job import LeJEPA, TrainJob


class LeJEPAObjective(PooledObjective):
    """(1 - weight) * MSE between predicted and encoded tokens + weight * SIGReg.

    The wanted tokens are the same encoder's, of the whole clip, and gradients flow into them. What
    the paper calls a view is here a position of the token grid: across clips, the features at
    every position are to be N(0, I).
    """

    def __init__(self, config: LeJEPA, job: TrainJob) -> None:
        super().__init__()
        self.weight, self.slices = config.weight, config.slices
        self.statistic_clips = config.statistic_clips or job.scale.global_batch
        self.fixed_shapes = shapes_are_fixed(config.masks)
        self.encoder = build_encoder(job.model, size=job.data.size, frames=job.data.frames)
        self.predictor = build_predictor(
            job.model, encoder=self.encoder, grid=job.grid, mask_tokens=len(config.masks)
        )

    def sums(self, video: Tensor, pool: Pool) -> Tensor:
        """Of cos(t x) and sin(t x): float32 [knots, 2, sets, positions * slices]."""
        return characteristic_sums(self._projected(self.encoder(video, None), pool), pool.share)

    def forward(
        self, video: Tensor, masks: Masks, targets: Tensor | Pool | None
    ) -> ObjectiveOutput:
        """Prediction and statistic of each clip.

        Args:
            video: normalised [B, 3, T, H, W].
            masks: per mask, context [B, n_c] and target [B, n_t] ids.
            targets: the clips' pool; None: they are one whole set.
        """
        pool = targets if isinstance(targets, Pool) else Pool.alone(video)
        latents = self.encoder(video, None)
        losses, seen = [], []
        for i, (context, target) in enumerate(masks):
            z = self.encoder(video, context)
            predicted = self.predictor(z, context, target, i)
            wanted = at_tokens(latents, target).float()
            apart = F.mse_loss(predicted.float(), wanted, reduction="none")
            losses.append(apart.mean((1, 2)))
            seen.append(z)
        x = self._projected(latents, pool)
        means = self.means(characteristic_sums(x.detach(), pool.share), pool)
        statistic = clip_losses(x, means, pool.clips, pool.member)
        prediction = torch.stack(losses).mean(0)
        loss = (1 - self.weight) * prediction + self.weight * statistic
        return ObjectiveOutput(loss, seen[0].detach())

    def _projected(self, latents: Tensor, pool: Pool) -> Tensor:
        """[B, N, dim] -> float32 [B, N * slices], whatever autocast says."""
        slices = unit_slices(encoder_width(self.encoder), self.slices, pool.seed, latents.device)
        with torch.autocast(latents.device.type, enabled=False):
            return (latents.float() @ slices).flatten(1)
