"""A frozen teacher: SALT's second stage (arXiv 2509.24317, section 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.errors import RequestError
from orchestrator.jepa.encoders.vision_transformer import build_encoder, encoder_width
from orchestrator.jepa.objectives.base import (
    Masks,
    Objective,
    ObjectiveOutput,
    gather_tokens,
    have_static_shapes,
    token_grid_of,
)
from orchestrator.jepa.objectives.frozen.config import FrozenTeacher
from orchestrator.jepa.predictors.masked import build_masked_predictor
from orchestrator.job import ConvEncoderConfig, TrainJob, ViTConfig
from orchestrator.job.config.objective_base import PretrainedTeacherObjective


class FrozenObjective(Objective):
    """L1 at the hidden tokens to a teacher's layer-normed features, as V-JEPA 2's loss.

    The teacher is no part of the module, since nothing of it is trained: `build_teacher` makes
    one of its shape, and whoever trains hands it to `targets`.
    """

    def __init__(self, config: FrozenTeacher, job: TrainJob) -> None:
        super().__init__()
        self.patch, self.tubelet = job.model.patch, job.model.tubelet
        self.fixed_shapes = have_static_shapes(config.masks)
        self.encoder = build_encoder(job.model, size=job.data.size, frames=job.data.frames)
        self.predictor = build_masked_predictor(
            job.model,
            encoder=self.encoder,
            grid=job.grid,
            mask_tokens=len(config.masks),
            output_dim=teacher_width(config, job),
        )

    @torch.no_grad()
    def targets(self, teacher: nn.Module, video: Tensor) -> Tensor:
        """Features of all tokens, normed per token without affine terms: float32 [B, N, dim]."""
        features = teacher(video, None).float()
        return F.layer_norm(features, features.shape[-1:])

    def forward(self, video: Tensor, masks: Masks, targets: Tensor | None) -> ObjectiveOutput:
        """Mean of |prediction - target| over target tokens and channels, then over masks.

        Args:
            video: normalised [B, 3, T, H, W].
            masks: per mask, context [B, n_c] and target [B, n_t] ids.
            targets: what `targets` gave for the same video, [B, N, dim of the teacher].
        """
        assert targets is not None
        losses, seen = [], []
        grid = token_grid_of(video, self.patch, self.tubelet)
        for i, (context, target) in enumerate(masks):
            z = self.encoder(video, context)
            predicted = self.predictor(z, context, target, i, grid)
            apart = F.l1_loss(predicted.float(), gather_tokens(targets, target), reduction="none")
            losses.append(apart.mean((1, 2)))
            seen.append(z)
        return ObjectiveOutput(torch.stack(losses).mean(0), seen[0].detach())


def randomly_initialized_teacher(job: TrainJob) -> nn.Module | None:
    """What costs as much as the job's frozen teacher and knows nothing; None: it has none."""
    config = job.objective_config
    if config.teacher_type == "fitted":
        return build_encoder(job.model, size=job.data.size, frames=job.data.frames)
    teacher = config.pretrained_teacher
    return None if teacher is None else build_teacher(teacher, job)


def build_teacher(config: PretrainedTeacherObjective, job: TrainJob) -> nn.Module:
    """An encoder of the teacher's shape, freshly initialised; its tokens are those of the job.

    Raises:
        RequestError: the shape is not known.
    """
    if config.encoder is None:
        raise RequestError(
            f"the shape of the teacher '{config.teacher}' is not known before it is read",
            where="objective.encoder",
            hint="write the teacher's encoder there, as its own job has it under model.encoder",
        )
    model = job.model.model_copy(update={"encoder": config.encoder})
    return build_encoder(model, size=job.data.size, frames=job.data.frames)


def teacher_width(config: PretrainedTeacherObjective, job: TrainJob) -> int:
    """The width of the teacher's tokens."""
    if isinstance(config.encoder, ViTConfig | ConvEncoderConfig):
        return config.encoder.dim
    return encoder_width(build_teacher(config, job))
