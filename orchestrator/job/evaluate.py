"""The `evaluate` job: does a model expect what physics does, and wonder at what it does not?"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from orchestrator.job.base import Name, Section, at

Split = Literal["validation", "test", "ood"]


class Suite(Section):
    """Which quadruplets are shown: 2 contexts x 2 outcomes, possible where they match."""

    split: Split = "test"
    """What the model is scored on. `ood` has shapes, colours, speeds and gravity of its own."""

    choose: Split = "validation"
    """What context and aggregation are chosen on; never what is scored."""

    scenarios: tuple[str, ...] = ()
    """Names of scenarios. Default: all that no trivial rule can decide (`lever` is left out)."""

    quads: PositiveInt = 20
    """Quadruplets of each scenario that are scored. Every four balance each other: left and right,
    which context comes first."""

    choose_quads: PositiveInt = 4
    """Quadruplets of each scenario that are chosen on."""

    frames: PositiveInt = 24
    """Frames of a video, at the model's frames a second; the model looks through a window."""

    seed: NonNegativeInt = 0
    """Another seed, other quadruplets."""

    @model_validator(mode="after")
    def _chosen_elsewhere(self) -> Suite:
        if self.choose != "validation":
            text = f"'{self.choose}' is for scoring: choosing on it would flatter the model"
            raise at("suite.choose", f"{text}; write validation")
        if self.split == self.choose:
            raise at("suite.split", "'validation' is what is chosen on; score 'test' or 'ood'")
        return self


class Surprise(Section):
    """How surprise is measured: the distance of what comes from what was predicted."""

    contexts: tuple[PositiveInt, ...] = ()
    """Frames seen of a window, to choose from. Default: a quarter, a half and three quarters."""

    stride: PositiveInt = 8
    """Frames from one window to the next."""


class EvaluateTrack(Section):
    """Where the result is kept."""

    uri: str | None = None
    """MLflow server or database. Default: MLFLOW_TRACKING_URI, else a database in `storage`."""

    experiment: str = "evaluation"
    """MLflow experiment."""


class EvaluateJob(Section):
    """Judge a trained model by physics that is possible and physics that is not."""

    kind: Literal["evaluate"]
    """The job's kind."""

    name: Name
    """An identity: the same name writes the same report again."""

    storage: str = ".orchestrator"
    """Root of everything the job leaves."""

    model: str = Field(min_length=1)
    """models:/NAME@alias, models:/NAME/VERSION, runs:/ID/model or a model's folder."""

    suite: Suite = Suite()
    """What is shown."""

    surprise: Surprise = Surprise()
    """What is measured."""

    random: int = Field(10, ge=0)
    """Randomly initialised models of the same shape that are measured too: what is to be beaten."""

    random_quads: PositiveInt = 2
    """Quadruplets of each scenario that each of them sees, other ones than the one before."""

    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Of every interval (cluster bootstrap over quadruplets)."""

    track: EvaluateTrack = EvaluateTrack()
    """What MLflow remembers."""

    cpus: PositiveFloat = 1.0
    """CPU cores of a measuring task."""
