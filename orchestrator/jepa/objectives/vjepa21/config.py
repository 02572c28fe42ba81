"""The keys of V-JEPA 2.1, and what it states about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, model_validator

from orchestrator.job.config.base import field_error
from orchestrator.job.config.masks import VJEPA2_MASKS, AnyMask
from orchestrator.job.config.objective_base import EMA_HINTS, BuiltInObjective

if TYPE_CHECKING:
    from orchestrator.job.config.train import TrainJob


class VJEPA21(BuiltInObjective):
    """V-JEPA 2.1: L1 to the teacher's layer-normed levels, at hidden and at seen tokens.

    arXiv 2603.14482. The levels are those of `model.levels`. The error at a seen token counts
    `context_weight` / sqrt(its distance to the nearest hidden one, in tokens).
    """

    title = "V-JEPA 2.1"
    objective_class = "orchestrator.jepa.objectives.vjepa21.objective:VJEPA21Objective"
    cost_class = "orchestrator.jepa.objectives.vjepa21.cost:VJEPA21Cost"
    predicts_masked_tokens = True
    teacher_type = "ema"
    reads_feature_layers = True
    collapse_hints = EMA_HINTS

    kind: Literal["vjepa21"] = "vjepa21"
    """The objective."""

    ema: float = Field(0.99925, ge=0, le=1)
    """Momentum of the teacher: teacher = ema * teacher + (1 - ema) * student."""

    context_weight: NonNegativeFloat = 0.5
    """Of the loss on what is seen, once its ramp is over."""

    context_ramp: tuple[NonNegativeInt, NonNegativeInt] = (15_000, 30_000)
    """Steps between which that weight rises from 0, linearly."""

    masks: tuple[AnyMask, ...] = Field(VJEPA2_MASKS, min_length=1)
    """Masks of one step; all share one forward of the teacher."""

    @model_validator(mode="after")
    def _ramp_rises(self) -> VJEPA21:
        first, last = self.context_ramp
        if first > last:
            raise field_error("objective.context_ramp", f"{last} comes before {first}")
        return self

    def check(self, job: TrainJob) -> None:
        """The context's loss begins before the training ends."""
        super().check(job)
        first, steps = self.context_ramp[0], job.optim.steps
        if first >= steps and self.context_weight:
            text = f"begins at step {first}, and the training has {steps}"
            raise field_error(
                "objective.context_ramp", f"{text}; begin earlier, or context_weight: 0"
            )
