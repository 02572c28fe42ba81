"""A user's own objectives: one states its capabilities, the other has plain keys."""

from __future__ import annotations

from pydantic import BaseModel

from orchestrator.jepa.objectives.frozen.objective import FrozenObjective
from orchestrator.jepa.objectives.vjepa2.objective import VJEPA2Objective
from orchestrator.job import VJEPA2, FrozenTeacher, ObjectiveConfig, TrainJob
from orchestrator.job.config.masks import VJEPA2_MASKS, AnyMask


class StatedObjective(VJEPA2Objective):
    """V-JEPA 2 under another name, with all that a built-in objective states."""

    class Config(ObjectiveConfig):
        title = "Mine"
        cost_class = "orchestrator.estimate.objective_cost:ObjectiveCost"
        predictor_builder = "orchestrator.jepa.predictors.masked:rebuild_predictor"
        predicts_masked_tokens = True
        single_clip_shape = False
        teacher_type = "ema"
        prediction_target = "normalized_features"
        collapse_hints = ("raise objective.ema", "ask its author")

        ema: float = 0.99
        masks: tuple[AnyMask, ...] = VJEPA2_MASKS

    def __init__(self, config: Config, job: TrainJob) -> None:
        super().__init__(VJEPA2(ema=config.ema, masks=config.masks), job)


class PlainObjective(VJEPA2Objective):
    """The same, whose keys state nothing."""

    class Config(BaseModel):
        ema: float = 0.99

    def __init__(self, config: Config, job: TrainJob) -> None:
        super().__init__(VJEPA2(ema=config.ema), job)


class OwnFrozenTeacher(FrozenObjective):
    """A frozen teacher as the built-in one has it."""

    class Config(FrozenTeacher):
        temperature: float = 1.0
