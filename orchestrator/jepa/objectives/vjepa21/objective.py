"""V-JEPA 2.1: predict several levels of a teacher, at hidden and at seen tokens (2603.14482)."""

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
from orchestrator.jepa.objectives.vjepa21.config import VJEPA21
from orchestrator.jepa.objectives.vjepa21.predictor import build_dense_predictor
from orchestrator.jepa.rope import Grid
from orchestrator.job import TrainJob


class VJEPA21Objective(Objective):
    """L1 to the teacher's normed levels: at the targets, and, weighted, at the context."""

    averaged = "encoder"

    def __init__(self, config: VJEPA21, job: TrainJob) -> None:
        super().__init__()
        self.config, self.patch, self.tubelet = config, job.model.patch, job.model.tubelet
        self.momentum = config.ema
        self.fixed_shapes = have_static_shapes(config.masks)
        self.num_feature_layers = max(1, len(job.model.levels))
        self.encoder = build_encoder(job.model, size=job.data.size, frames=job.data.frames)
        self.predictor = build_dense_predictor(
            job.model, encoder=self.encoder, grid=job.grid, mask_tokens=len(config.masks)
        )
        self.at_step(0)

    def at_step(self, step: int) -> None:
        """The context's weight: 0 up to the ramp's first step, whole from its last one on."""
        first, last = self.config.context_ramp
        share = (step - first) / (last - first) if last > first else float(step >= first)
        self.context_weight = self.config.context_weight * min(1.0, max(0.0, share))

    @torch.no_grad()
    def targets(self, teacher: nn.Module, video: Tensor) -> Tensor:
        """Levels of all tokens, each normed without affine terms: float32 [B, N, levels * dim]."""
        features = teacher(video, None, levels=True).float()
        apart = features.unflatten(-1, (self.num_feature_layers, -1))
        return F.layer_norm(apart, apart.shape[-1:]).flatten(-2)

    def forward(self, video: Tensor, masks: Masks, targets: Tensor | None) -> ObjectiveOutput:
        """Of each mask: mean over targets + weight * mean over context of what is near its targets.

        Args:
            video: normalised [B, 3, T, H, W].
            masks: per mask, context [B, n_c] and target [B, n_t] ids.
            targets: what `targets` gave for the same video, [B, N, levels * dim].
        """
        assert targets is not None
        losses, seen = [], []
        grid = token_grid_of(video, self.patch, self.tubelet)
        for i, (context, target) in enumerate(masks):
            z = self.encoder(video, context, levels=True)
            hidden, shown = self.predictor(z, context, target, i, grid)
            far = F.l1_loss(hidden.float(), gather_tokens(targets, target), reduction="none")
            near = F.l1_loss(shown.float(), gather_tokens(targets, context), reduction="none")
            weight = distance_to_nearest_target(context, target, grid).rsqrt()
            dense = (near.mean(2) * weight).mean(1)
            losses.append(far.mean((1, 2)) + self.context_weight * dense)
            seen.append(z.chunk(self.num_feature_layers, dim=-1)[-1])
        return ObjectiveOutput(torch.stack(losses).mean(0), seen[0].detach())


def distance_to_nearest_target(context: Tensor, target: Tensor, grid: Grid) -> Tensor:
    """Distance of each context token to the nearest target, in tokens: float32 [B, n_c]."""
    apart = torch.cdist(
        token_coordinates(context, grid),
        token_coordinates(target, grid),
        compute_mode="donot_use_mm_for_euclid_dist",
    )
    return apart.amin(2)


def token_coordinates(ids: Tensor, grid: Grid) -> Tensor:
    """Where tokens lie in time, height and width: ids [B, n] -> float32 [B, n, 3]."""
    _, height, width = grid
    axes = (ids // (height * width), ids // width % height, ids % width)
    return torch.stack(axes, dim=-1).float()
