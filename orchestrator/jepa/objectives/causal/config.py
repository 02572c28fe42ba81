"""The keys of causal prediction, and what it states about itself."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from orchestrator.job.config.objective_base import EMA_HINTS, BuiltInObjective


class CausalPrediction(BuiltInObjective):
    """Past to future: after every moment, an EMA teacher's layer-normed features of the next ones.

    DINO-WM (arXiv 2411.04983) and V-JEPA 2-AC (arXiv 2506.09985, section 3) predict so, with
    actions and a frozen encoder; here the encoder learns too. One pass over a clip predicts after
    each of its moments. Needs `model.encoder.attention: moment`.
    """

    title = "Causal"
    objective_class = "orchestrator.jepa.objectives.causal.objective:CausalObjective"
    cost_class = "orchestrator.jepa.objectives.causal.cost:CausalCost"
    predictor_builder = "orchestrator.jepa.objectives.causal.predictor:rebuild_predictor"
    autoregressive = True
    teacher_type = "ema"
    single_clip_shape = True
    prediction_target = "normalized_features"
    collapse_hints = EMA_HINTS

    kind: Literal["causal"] = "causal"
    """The objective."""

    ema: float = Field(0.998, ge=0, le=1)
    """Momentum of the teacher: teacher = ema * teacher + (1 - ema) * student."""

    horizons: PositiveInt = 3
    """Moments (tubelets) ahead that are predicted at once; what lies beyond is predicted from
    predictions."""

    @property
    def horizon_key(self) -> str:
        return "horizons"
