"""The keys of latent dynamics, and what it states about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from orchestrator.job.config.base import field_error
from orchestrator.job.config.masks import AnyMask
from orchestrator.job.config.model import PCAEncoderConfig, PredictorConfig
from orchestrator.job.config.objective_base import BuiltInObjective

if TYPE_CHECKING:
    from orchestrator.job.config.train import TrainJob

CONV_NORM_GROUPS = 8
"""Groups of channels that norms of convolutions are over (`jepa/encoders/convolutional.py`)."""


class LatentDynamics(BuiltInObjective):
    """The next moment's codes, from all that was seen: only what is to come is learnt.

    As DINO-WM (arXiv 2411.04983) a mean square error in the space of an encoder that stays as it
    is, without actions; the encoder is `model.encoder: {kind: codes}`. The predictor is
    convolutional, with a memory, and predicts what changes. Where `masks` hide some of the past it
    has to remember and go on by itself. Of `model.predictor` it reads `depth` (memories) and `dim`.
    """

    title = "Dynamics of codes"
    objective_class = "orchestrator.jepa.objectives.dynamics.objective:DynamicsObjective"
    cost_class = "orchestrator.jepa.objectives.dynamics.cost:DynamicsCost"
    predictor_builder = "orchestrator.jepa.objectives.dynamics.predictor:rebuild_predictor"
    autoregressive = True
    teacher_type = "fitted"
    trains_encoder = False
    single_clip_shape = True

    kind: Literal["dynamics"] = "dynamics"
    """The objective."""

    masks: tuple[AnyMask, ...] = Field((), max_length=1)
    """Its targets are hidden from the predictor; its context says nothing here. All is predicted,
    hidden or not. Default: nothing is hidden."""

    horizons: PositiveInt = 1
    """Moments ahead that the trained model is asked for after every moment, beyond the next one
    from predictions. Training asks for the next one alone."""

    digest: str | None = None
    """The codes' weights, 16 hex digits. Default: those that are found when the training begins; a
    run that goes on refuses any others."""

    @property
    def horizon_key(self) -> str:
        return "horizons"

    @property
    def teacher_digest(self) -> str | None:
        return self.digest

    def describe_predictor(self, predictor: PredictorConfig) -> str:
        return f"{predictor.depth} memories of {predictor.dim} channels between convolutions"

    def check(self, job: TrainJob) -> None:
        """Codes are no longer than patches, channels divide into groups, nothing reads actions."""
        super().check(job)
        encoder, width = job.model.encoder, job.model.predictor.dim
        assert isinstance(encoder, PCAEncoderConfig)
        pixels = 3 * job.model.tubelet * job.model.patch**2
        if encoder.dim > pixels:
            text = f"{encoder.dim} numbers for a patch of {pixels}"
            raise field_error(
                "model.encoder.dim", f"{text}: a code is no longer than what it stands for"
            )
        if width % CONV_NORM_GROUPS:
            text = f"{width} channels in {CONV_NORM_GROUPS} groups"
            raise field_error(
                "model.predictor.dim", f"{text}: write a multiple of {CONV_NORM_GROUPS}"
            )
        if job.data.actions is not None:
            text = "dynamics is told no actions"
            raise field_error(
                "data.actions", f"{text}; leave it out, or write objective.kind: lewm"
            )
