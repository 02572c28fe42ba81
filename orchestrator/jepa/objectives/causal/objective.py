"""Past to future: after every moment of a clip, the teacher's features of the next ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.jepa.encoders.vision_transformer import build_encoder
from orchestrator.jepa.objectives.base import Masks, Objective, ObjectiveOutput
from orchestrator.jepa.objectives.causal.config import CausalPrediction
from orchestrator.jepa.objectives.causal.predictor import build_causal_predictor
from orchestrator.job import TrainJob

SMOOTH_L1_BETA = 0.5
"""Where smooth L1 turns from square to linear, in standard deviations of a token's features."""


class CausalObjective(Objective):
    """Smooth L1 between what is predicted and the teacher's layer-normed features.

    Below `SMOOTH_L1_BETA` an error counts by its square: most of a picture is at rest and soon
    predicted nearly rightly, and under L1 its many small errors would weigh as much as what moves.
    """

    averaged = "encoder"

    def __init__(self, config: CausalPrediction, job: TrainJob) -> None:
        super().__init__()
        self.momentum, self.horizons = config.ema, config.horizons
        self.encoder = build_encoder(job.model, size=job.data.size, frames=job.data.frames)
        self.predictor = build_causal_predictor(
            job.model, encoder=self.encoder, grid=job.grid, horizons=config.horizons
        )

    @torch.no_grad()
    def targets(self, teacher: nn.Module, video: Tensor) -> Tensor:
        """Features of all tokens, normed per token without affine terms: float32 [B, N, dim]."""
        features = teacher(video, None).float()
        return F.layer_norm(features, features.shape[-1:])

    def forward(self, video: Tensor, masks: Masks, targets: Tensor | None) -> ObjectiveOutput:
        """Mean over channels, places and moments, then over horizons.

        Args:
            video: normalised [B, 3, T, H, W].
            masks: none.
            targets: what `targets` gave for the same video, [B, N, dim].
        """
        assert targets is not None
        z = self.encoder(video, None)
        predicted = self.predictor.predict_next(z).float()
        wanted = targets.view(*predicted.shape[:3], -1)
        losses = []
        for horizon in range(1, self.horizons + 1):
            guess, came = predicted[:, :-horizon, :, horizon - 1], wanted[:, horizon:]
            error = F.smooth_l1_loss(guess, came, reduction="none", beta=SMOOTH_L1_BETA)
            losses.append(error.mean((1, 2, 3)))
        return ObjectiveOutput(torch.stack(losses).mean(0), z.detach())
