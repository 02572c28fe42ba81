"""LeWorldModel: the next moment's embedding from all before it (arXiv 2603.19312, section 3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from orchestrator.jepa.frames import build_frame_encoder, build_frame_predictor
from orchestrator.jepa.objectives.base import Masks, ObjectiveOutput
from orchestrator.jepa.objectives.pooled import GaussianObjective, Pool
from orchestrator.job import LeWM, TrainJob


class LeWMObjective(GaussianObjective):
    """MSE of the next embedding + weight * SIGReg of the embeddings, at every moment of its own.

    The wanted embedding is the same encoder's, and gradients flow into it: what keeps all of them
    from one point is SIGReg alone.
    """

    def __init__(self, config: LeWM, job: TrainJob) -> None:
        super().__init__()
        self.weight, self.slices = config.weight, config.slices
        self.statistic_clips = config.statistic_clips or job.scale.global_batch
        self.encoder = build_frame_encoder(
            job.model, size=job.data.size, frames=job.data.frames, hidden=config.hidden
        )
        self.predictor = build_frame_predictor(
            job.model, encoder=self.encoder, hidden=config.hidden
        )

    def gaussian(self, video: Tensor) -> Tensor:
        """The embedding of every moment: [B, moments, dim]."""
        features: Tensor = self.encoder(video)
        return features

    def forward(
        self, video: Tensor, masks: Masks, targets: Tensor | Pool | None
    ) -> ObjectiveOutput:
        """Prediction (a mean over moments and channels) and statistic of each clip.

        Args:
            video: normalised [B, 3, T, H, W].
            masks: none.
            targets: the clips' pool; None: they are one whole set.
        """
        pool = targets if isinstance(targets, Pool) else Pool.alone(video)
        z = self.encoder(video)
        predicted = self.predictor.next(z[:, :-1])
        apart = F.mse_loss(predicted.float(), z[:, 1:].float(), reduction="none")
        loss = apart.mean((1, 2)) + self.weight * self.sigreg(z, pool)
        return ObjectiveOutput(loss, z.detach())
