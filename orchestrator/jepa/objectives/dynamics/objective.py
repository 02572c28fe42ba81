"""Dynamics in a space that stays as it is: the codes of the next moment, from all before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from orchestrator.jepa.objectives.base import Masks, Objective, ObjectiveOutput, have_static_shapes
from orchestrator.jepa.objectives.dynamics.config import LatentDynamics
from orchestrator.jepa.objectives.dynamics.predictor import build_recurrent_predictor
from orchestrator.job import TrainJob


class DynamicsObjective(Objective):
    """Mean square error of the next moment's codes (DINO-WM, arXiv 2411.04983, equation 2).

    Only the predictor is trained and part of the module: whoever trains finds the codes
    (`PCAPatchEncoder.fit`) and hands their encoder to `targets`.
    """

    def __init__(self, config: LatentDynamics, job: TrainJob) -> None:
        super().__init__()
        self.fixed_shapes = have_static_shapes(config.masks)
        self.predictor = build_recurrent_predictor(
            job.model, grid=job.grid, horizons=config.horizons
        )

    @torch.no_grad()
    def targets(self, teacher: nn.Module, video: Tensor) -> Tensor:
        """Codes of all tokens: float32 [B, N, codes]."""
        codes: Tensor = teacher(video, None).float()
        return codes

    def forward(self, video: Tensor, masks: Masks, targets: Tensor | None) -> ObjectiveOutput:
        """Mean over codes, places and moments, hidden ones and seen ones alike.

        Args:
            video: not looked at: `targets` has its codes.
            masks: one, whose targets are hidden, or none.
            targets: what `targets` gave, [B, N, codes].
        """
        assert targets is not None
        hidden = masks[0][1] if masks else None
        told, _ = self.predictor.predict_one_step(targets, hidden)
        area = self.predictor.grid[1] * self.predictor.grid[2]
        apart = (told[:, :-area] - targets[:, area:]).square()
        return ObjectiveOutput(apart.mean((1, 2)), told.detach())
