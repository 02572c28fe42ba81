"""Parameters of a job, counted exactly from its shapes."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.estimate.objective_cost import objective_cost
from orchestrator.job import TrainJob


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters of each part. A teacher that follows the encoder has as many; one that is frozen
    its own number. It is never trained."""

    encoder: int
    predictor: int
    """What stands behind the encoder: the predictor, or a supervised head."""

    followed: bool = True
    """Whether a teacher follows the encoder."""

    fixed: int = 0
    """Of a frozen teacher."""

    untold: bool = False
    """Whether the weights that read an action's numbers are not counted: how many numbers there are
    only the data says."""

    @property
    def teacher(self) -> int:
        return self.encoder if self.followed else self.fixed

    @property
    def trained(self) -> int:
        return self.encoder + self.predictor


def count_parameters(job: TrainJob) -> ParameterCounts:
    """Parameters of a job whose parts are `countable`."""
    cost, act = objective_cost(job), job.data.actions
    teacher = cost.frozen_teacher
    return ParameterCounts(
        encoder=sum(cost.encoder_tensors()),
        predictor=sum(cost.predictor_tensors()),
        followed=cost.has_ema_teacher,
        fixed=sum(cost.teacher_patch_embed[:2]) + teacher.parameters if teacher else 0,
        untold=bool(cost.action_input_maps) and act is not None and act.action_dim is None,
    )
