"""The keys of V-JEPA 2, and what it states about itself."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from orchestrator.job.config.masks import VJEPA2_MASKS, AnyMask
from orchestrator.job.config.objective_base import EMA_HINTS, BuiltInObjective


class VJEPA2(BuiltInObjective):
    """V-JEPA 2: L1 between predictions and the layer-normed features of an EMA teacher.

    arXiv 2506.09985, equation 1.
    """

    title = "V-JEPA 2"
    objective_class = "orchestrator.jepa.objectives.vjepa2.objective:VJEPA2Objective"
    cost_class = "orchestrator.estimate.objective_cost:ObjectiveCost"
    predictor_builder = "orchestrator.jepa.predictors.masked:rebuild_predictor"
    predicts_masked_tokens = True
    teacher_type = "ema"
    prediction_target = "normalized_features"
    huggingface_exportable = True
    collapse_hints = EMA_HINTS

    kind: Literal["vjepa2"] = "vjepa2"
    """The objective."""

    ema: float = Field(0.99925, ge=0, le=1)
    """Momentum of the teacher: teacher = ema * teacher + (1 - ema) * student."""

    masks: tuple[AnyMask, ...] = Field(VJEPA2_MASKS, min_length=1)
    """Masks of one step; all share one forward of the teacher."""
