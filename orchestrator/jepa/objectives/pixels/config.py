"""The keys of pixel prediction, and what it states about itself."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from orchestrator.job.config.masks import VJEPA2_MASKS, AnyMask
from orchestrator.job.config.objective_base import BuiltInObjective


class PixelPrediction(BuiltInObjective):
    """Pixel prediction as in VideoMAE: hidden patches, each normalised by its own mean and spread.

    arXiv 2203.12602, section 3. Encoder, masks and predictor are those of the latent objectives.
    """

    title = "Pixel prediction"
    objective_class = "orchestrator.jepa.objectives.pixels.objective:PixelsObjective"
    cost_class = "orchestrator.jepa.objectives.pixels.cost:PixelsCost"
    predictor_builder = "orchestrator.jepa.objectives.pixels.objective:rebuild_predictor"
    predicts_masked_tokens = True
    prediction_target = "pixels"

    kind: Literal["pixels"] = "pixels"
    """The objective."""

    masks: tuple[AnyMask, ...] = Field(VJEPA2_MASKS, min_length=1)
    """Masks of one step."""
