"""The keys of LeJEPA, and what it states about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from orchestrator.job.config.masks import VJEPA2_MASKS, AnyMask
from orchestrator.job.config.objective_base import (
    SIGREG_HINTS,
    BuiltInObjective,
    check_statistic_clips,
)

if TYPE_CHECKING:
    from orchestrator.job.config.train import TrainJob


class LeJEPA(BuiltInObjective):
    """LeJEPA for video: predict the same encoder's features, which SIGReg holds to N(0, I).

    arXiv 2511.08544, section 5. No teacher and no stop-gradient:
    (1 - weight) * prediction + weight * SIGReg.
    """

    title = "LeJEPA"
    objective_class = "orchestrator.jepa.objectives.lejepa.objective:LeJEPAObjective"
    cost_class = "orchestrator.jepa.objectives.lejepa.cost:LeJEPACost"
    predictor_builder = "orchestrator.jepa.predictors.masked:rebuild_predictor"
    predicts_masked_tokens = True
    huggingface_exportable = True
    features_start_collapsed = True
    collapse_hints = SIGREG_HINTS

    kind: Literal["lejepa"] = "lejepa"
    """The objective."""

    weight: float = Field(0.05, gt=0, lt=1)
    """Of SIGReg; the prediction has the rest."""

    slices: PositiveInt = 256
    """Random directions along which features are compared with a normal distribution."""

    statistic_clips: int | None = Field(None, ge=2)
    """Clips of the global batch that one statistic acts on, whatever a micro-batch holds; must
    divide `scale.global_batch`. Default: all of them."""

    masks: tuple[AnyMask, ...] = Field(VJEPA2_MASKS, min_length=1)
    """Masks of one step; all share one forward of the whole clip."""

    def check(self, job: TrainJob) -> None:
        """Sets of clips divide the global batch."""
        super().check(job)
        check_statistic_clips(job, self.statistic_clips)
