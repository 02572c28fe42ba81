"""V-JEPA 2-AC: what a frozen encoder will see after an action (arXiv 2506.09985, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from orchestrator.jepa.action_batch import ActionBatch
from orchestrator.jepa.objectives.base import Masks, Objective, ObjectiveOutput
from orchestrator.jepa.objectives.frozen.objective import teacher_width
from orchestrator.jepa.objectives.vjepa2ac.config import VJEPA2AC
from orchestrator.jepa.objectives.vjepa2ac.predictor import (
    build_action_conditioned_predictor,
    encode_frames_separately,
)
from orchestrator.job import TrainJob


class VJEPA2ACObjective(Objective):
    """L1 of the next frame's features, told those so far, + L1 of a rollout from the first frame.

    Only the predictor is trained and part of the module: `build_teacher` makes an encoder of the
    teacher's shape, and whoever trains hands it to `targets`.
    """

    def __init__(self, config: VJEPA2AC, job: TrainJob) -> None:
        super().__init__()
        assert job.data.actions is not None
        self.tubelet, self.rollout = job.model.tubelet, config.rollout
        self.predictor = build_action_conditioned_predictor(
            job.model,
            encoder_dim=teacher_width(config, job),
            side=job.grid[1],
            act=job.data.actions,
        )

    @torch.no_grad()
    def targets(self, teacher: nn.Module, video: Tensor) -> Tensor:
        """Layer-normed features of every frame by itself: float32 [B, T * area, dim]."""
        return encode_frames_separately(teacher, video, self.tubelet)

    def forward(
        self,
        video: Tensor,
        masks: Masks,
        targets: Tensor | None,
        motion: ActionBatch | None = None,
    ) -> ObjectiveOutput:
        """Mean of |prediction - target| with the teacher's own features as the past, plus the
        same over `rollout` frames whose past, but for the first frame, is predicted.

        Args:
            video: not looked at: `targets` has its features.
            masks: none.
            targets: what `targets` gave, [B, T * area, dim of the teacher].
            motion: what is done between the frames, and the states.
        """
        assert targets is not None
        assert motion is not None
        area, given = self.predictor.patches_per_frame, motion.actions
        states = motion.states if self.predictor.actions_are_state_deltas else None
        told = None if states is None else states[:, :-1]
        forced = self.predictor.predict_one_step(_cast_like(targets[:, :-area], video), given, told)
        loss = _l1_per_clip(forced, targets[:, area:])
        known = torch.cat([_cast_like(targets[:, :area], forced), forced[:, :area]], 1)
        for frames in range(2, self.rollout + 1):
            told = None if states is None else states[:, :frames]
            after = self.predictor.predict_one_step(known, given[:, :frames], told)[:, -area:]
            known = torch.cat([known, after], 1)
        if self.rollout > 1:
            loss = loss + _l1_per_clip(known[:, area:], targets[:, area : known.shape[1]])
        return ObjectiveOutput(loss, forced.detach())


def _l1_per_clip(predicted: Tensor, wanted: Tensor) -> Tensor:
    """[B, n, dim] each -> float32 [B]."""
    return (predicted.float() - wanted).abs().mean((1, 2))


def _cast_like(features: Tensor, other: Tensor) -> Tensor:
    """In the compute dtype."""
    return features.to(other.dtype)
