"""The keys of LeWorldModel, and what it states about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from orchestrator.job.config.base import Section, field_error
from orchestrator.job.config.objective_base import (
    SIGREG_HINTS,
    BuiltInObjective,
    check_statistic_clips,
)

if TYPE_CHECKING:
    from orchestrator.job.config.train import TrainJob


class StateSupervision(Section):
    """That embeddings tell, by one linear map, the state which the data has beside each frame.

    A label from outside, and no part of LeWorldModel: for data whose states are known, where what
    matters is slow to be seen by prediction alone."""

    weight: PositiveFloat = 1.0
    """Of its mean square error, every number at its own scale."""

    angles: tuple[NonNegativeInt, ...] = ()
    """Which numbers of a state, from 0, are angles in radians: they are told as cosine and sine."""

    numbers: tuple[NonNegativeInt, ...] = ()
    """Which numbers are told. Default: all."""

    def non_angle_dims(self, width: int) -> list[int]:
        """The numbers of a state of `width` that are told as they are."""
        return [n for n in self.numbers or range(width) if n not in self.angles]


class LeWM(BuiltInObjective):
    """LeWorldModel: one embedding a moment, the next one predicted, SIGReg against collapse.

    arXiv 2603.19312. The mean error of the next embedding + weight * SIGReg, end to end: no
    teacher, no stop-gradient. Needs `model.encoder.attention: moment`; with `model.tubelet: 1`, as
    published, a moment is a frame. With `data.actions`, as published, the prediction knows what is
    done; without, the next embedding follows from those before it.
    """

    title = "LeWorldModel"
    objective_class = "orchestrator.jepa.objectives.lewm.objective:LeWMObjective"
    cost_class = "orchestrator.jepa.objectives.lewm.cost:LeWMCost"
    predictor_builder = "orchestrator.jepa.objectives.lewm.predictor:rebuild_predictor"
    plan_rollout = "orchestrator.jepa.objectives.lewm.branching:rollout_plans"
    encoder_builder = "orchestrator.jepa.objectives.lewm.predictor:rebuild_encoder"
    autoregressive = True
    reads_actions = True
    one_token_per_timestep = True
    single_clip_shape = True
    features_start_collapsed = True
    collapse_hints = SIGREG_HINTS

    kind: Literal["lewm"] = "lewm"
    """The objective."""

    weight: PositiveFloat = 0.1
    """Of SIGReg, the one hyperparameter of the loss; the prediction has weight 1."""

    slices: PositiveInt = 1024
    """Random directions along which embeddings are compared with a normal distribution."""

    statistic_clips: int | None = Field(None, ge=2)
    """Clips of the global batch that one statistic acts on, whatever a micro-batch holds; must
    divide `scale.global_batch`. Default: all of them."""

    hidden: PositiveInt = 2048
    """Width inside the two projections: behind the encoder and behind the predictor."""

    embed: PositiveInt | None = None
    """Numbers of an embedding. Default: the encoder's width. A world of few degrees of freedom
    wants few: SIGReg spreads features along all of them, and distances then mean less."""

    pool: Literal["mean", "places"] = "mean"
    """What is projected of a moment: the mean of its patches, or all of them side by side, so that
    where a small thing is is known."""

    inverse: NonNegativeFloat = 0.0
    """Weight of inverse dynamics (PLDM, arXiv 2502.14819): what was done between two moments, read
    linearly off both embeddings. Needs `data.actions`. 0: as published."""

    states: StateSupervision | None = None
    """Embeddings also predict the states of the data. Needs `data.actions`. Default: no."""

    rollout: PositiveInt = 1
    """Moments ahead that are predicted, all but the first from predictions; the loss is their
    mean. 1: as published."""

    @property
    def horizon_key(self) -> str:
        return "rollout"

    def check(self, job: TrainJob) -> None:
        """Actions and states are there where they are read, and lead from timestep to timestep."""
        super().check(job)
        if self.inverse and not job.data.actions:
            raise field_error(
                "objective.inverse", "needs the actions of data.actions; add it, or write 0"
            )
        if self.states and not job.data.actions:
            raise field_error(
                "objective.states", "needs the states of data.actions; add it, or leave it out"
            )
        if job.data.actions and job.model.tubelet != 1:
            text = f"actions lead from frame to frame, a moment has {job.model.tubelet}"
            raise field_error("model.tubelet", f"{text}; write 1 beside data.actions")
        check_statistic_clips(job, self.statistic_clips)
