"""VICReg for video with actions (arXiv 2105.04906; with actions, PLDM, arXiv 2502.14819)."""

from __future__ import annotations

import torch
from torch import Tensor

from orchestrator.jepa.action_batch import ActionBatch
from orchestrator.jepa.objectives.base import Masks, ObjectiveOutput
from orchestrator.jepa.objectives.batch_statistic import BatchStatisticObjective, ClipSets
from orchestrator.jepa.objectives.lewm.predictor import build_lewm_encoder, build_lewm_predictor
from orchestrator.jepa.objectives.vicreg.config import VICReg
from orchestrator.jepa.objectives.vicreg.moments import TermWeights, moment_sums, per_clip_terms
from orchestrator.jepa.predictors.action_conditioning import InverseDynamicsHead
from orchestrator.job import TrainJob


class VICRegObjective(BatchStatisticObjective):
    """MSE of the next embeddings + variance * hinge on their standard deviation + covariance *
    squares off the diagonal of their covariance + similarity * the squared difference of
    consecutive embeddings + inverse * the error of actions read off consecutive embeddings.

    Variance and covariance are over a set of `statistic_clips` clips of the global batch (default:
    all of it), and over their timesteps together or at each. A set's sums are added up over ranks
    and micro-batches, so loss and gradient are the same at every world size and accumulation. All
    other terms are means over a clip. Gradients flow into predictions and targets alike.
    """

    def __init__(self, config: VICReg, job: TrainJob) -> None:
        super().__init__()
        self.rollout, self.similarity_weight = config.rollout, config.similarity
        self.together = config.statistic_timesteps == "together"
        self.statistic_clips = config.statistic_clips or job.scale.global_batch
        self.term_weights = TermWeights(
            config.variance, config.covariance, config.margin, config.epsilon
        )
        keys, act = config.lewm_keys(), job.data.actions
        self.encoder = build_lewm_encoder(
            job.model, keys, size=job.data.size, frames=job.data.frames
        )
        self.predictor = build_lewm_predictor(job.model, keys, encoder=self.encoder, actions=act)
        self.inverse_dynamics_weight = config.inverse
        self.done = InverseDynamicsHead(act, self.encoder.dim) if act and config.inverse else None

    def partial_sums(self, video: Tensor, pool: ClipSets) -> Tensor:
        """Of embeddings and their products: float64 [sets, groups, dim, dim + 1]."""
        return moment_sums(self._samples(self.encoder(video)), pool.mean_weight)

    def forward(
        self,
        video: Tensor,
        masks: Masks,
        targets: Tensor | ClipSets | None,
        motion: ActionBatch | None = None,
    ) -> ObjectiveOutput:
        """The loss of each clip, float32 [B], and its embeddings [B, timesteps, dim].

        Args:
            video: normalised [B, 3, T, H, W].
            masks: none.
            targets: the clips' pool; None: they are one whole set.
            motion: what is done between the timesteps, where the job has `data.actions`.
        """
        pool = targets if isinstance(targets, ClipSets) else ClipSets.single_set(video)
        z = self.encoder(video)
        loss = self.predictor.rollout_loss(
            z, None if motion is None else motion.actions, self.rollout
        )
        loss = loss + self.regularisation(z, pool)
        loss = loss + self.similarity_weight * temporal_difference(z)
        if self.done is not None and motion is not None:
            loss = loss + self.inverse_dynamics_weight * self.done(z, motion.actions)
        return ObjectiveOutput(loss, z.detach())

    def regularisation(self, z: Tensor, pool: ClipSets) -> Tensor:
        """The weighed variance and covariance terms of embeddings [B, timesteps, dim]: [B]."""
        with torch.autocast(z.device.type, enabled=False):
            x = self._samples(z)
            moments = self.global_means(moment_sums(x.detach(), pool.mean_weight), pool)
            return per_clip_terms(x, moments, pool.clips_per_set, pool.set_index, self.term_weights)

    def _samples(self, z: Tensor) -> Tensor:
        """[B, timesteps, dim] -> float32 [B, timesteps, 1, dim], or [B, 1, timesteps, dim]."""
        return z.float().unsqueeze(2 if self.together else 1)


def temporal_difference(z: Tensor) -> Tensor:
    """Mean squared difference of consecutive embeddings: [B, timesteps, dim] -> float32 [B]."""
    return z.float().diff(dim=1).square().mean((1, 2))
