"""LeWorldModel: the next moment's embedding from all before it (arXiv 2603.19312, section 3)."""

from __future__ import annotations

from torch import Tensor

from orchestrator.jepa.action_batch import ActionBatch
from orchestrator.jepa.objectives.base import Masks, ObjectiveOutput
from orchestrator.jepa.objectives.batch_statistic import ClipSets, SIGRegObjective
from orchestrator.jepa.objectives.lewm.config import LeWM
from orchestrator.jepa.objectives.lewm.predictor import build_lewm_encoder, build_lewm_predictor
from orchestrator.jepa.predictors.action_conditioning import InverseDynamicsHead, StateHead
from orchestrator.job import TrainJob


class LeWMObjective(SIGRegObjective):
    """MSE of the next embedding + weight * SIGReg of the embeddings, at every moment of its own,
    and, if asked for, inverse * the error of what was done as embeddings tell it, and the error of
    the state that the data has.

    The wanted embedding is the same encoder's, and gradients flow into it: what keeps all of them
    from one point is SIGReg alone.
    """

    def __init__(self, config: LeWM, job: TrainJob) -> None:
        super().__init__()
        self.sigreg_weight, self.slices = config.weight, config.slices
        self.rollout = config.rollout
        self.statistic_clips = config.statistic_clips or job.scale.global_batch
        self.encoder = build_lewm_encoder(
            job.model, config, size=job.data.size, frames=job.data.frames
        )
        self.predictor = build_lewm_predictor(
            job.model, config, encoder=self.encoder, actions=job.data.actions
        )
        self.inverse_dynamics_weight = config.inverse
        act = job.data.actions
        self.done = InverseDynamicsHead(act, self.encoder.dim) if act and config.inverse else None
        told = config.states
        self.state_weight = told.weight if told else 0.0
        self.told = StateHead(act, told, self.encoder.dim) if act and told else None

    def sigreg_features(self, video: Tensor) -> Tensor:
        """The embedding of every moment: [B, moments, dim]."""
        features: Tensor = self.encoder(video)
        return features

    def forward(
        self,
        video: Tensor,
        masks: Masks,
        targets: Tensor | ClipSets | None,
        motion: ActionBatch | None = None,
    ) -> ObjectiveOutput:
        """Prediction (a mean over moments and channels, then over the rollout's steps) and
        statistic of each clip.

        Args:
            video: normalised [B, 3, T, H, W].
            masks: none.
            targets: the clips' pool; None: they are one whole set.
            motion: what is done between the moments, where the job has `data.actions`.
        """
        pool = targets if isinstance(targets, ClipSets) else ClipSets.single_set(video)
        z = self.encoder(video)
        done = None if motion is None else motion.actions
        loss = self.predictor.rollout_loss(z, done, self.rollout)
        loss = loss + self.sigreg_weight * self.sigreg_loss(z, pool)
        if self.done is not None and motion is not None:
            loss = loss + self.inverse_dynamics_weight * self.done(z, motion.actions)
        if self.told is not None and motion is not None:
            loss = loss + self.state_weight * self.told(z, motion.states)
        return ObjectiveOutput(loss, z.detach())
