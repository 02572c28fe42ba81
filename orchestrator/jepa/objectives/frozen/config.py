"""The keys of a frozen teacher, and what it states about itself."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from orchestrator.job.config.masks import VJEPA2_MASKS, AnyMask
from orchestrator.job.config.objective_base import PretrainedTeacherObjective


class FrozenTeacher(PretrainedTeacherObjective):
    """A frozen teacher (SALT's second stage): L1 to the features of an encoder that stays as it is.

    arXiv 2509.24317. The teacher was trained before, by pixel prediction as published, and may be
    smaller than the student. No moving average: the loss can be compared between runs.
    """

    title = "SALT, a frozen teacher"
    objective_class = "orchestrator.jepa.objectives.frozen.objective:FrozenObjective"
    cost_class = "orchestrator.estimate.objective_cost:ObjectiveCost"
    predicts_masked_tokens = True

    kind: Literal["frozen"] = "frozen"
    """The objective."""

    masks: tuple[AnyMask, ...] = Field(VJEPA2_MASKS, min_length=1)
    """Masks of one step; all share one forward of the teacher."""
