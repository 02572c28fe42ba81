"""The `promote` job: a model becomes champion, if it beats the present one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from orchestrator.job.config.base import JobSection, Name, Section


class PromoteTrack(Section):
    """Where the model is registered."""

    uri: str | None = None
    """MLflow server or database. Default: MLFLOW_TRACKING_URI, else a database in `storage`."""

    experiment: str = "default"
    """MLflow experiment of the pipeline that this is a stage of."""


class PromoteJob(JobSection):
    """Point an alias of a registered model at a version."""

    kind: Literal["promote"]
    """The job's kind."""

    name: Name
    """What the job is called; nothing else hangs on it."""

    storage: str = ".orchestrator"
    """Root of what jobs leave; the registry is looked up there where no server is named."""

    model: str = Field(pattern=r"^(models:/|stages:/)")
    """models:/NAME/VERSION or models:/NAME@alias; in a pipeline, stages:/STAGE/model."""

    alias: str = Field("champion", min_length=1)
    """What will point at it."""

    gate: bool = True
    """As champion only a version that was judged by the physics suite, and has more quadruplets
    right than the present champion by more than chance explains. Other aliases have no gate."""

    track: PromoteTrack = PromoteTrack()
    """Where the model is registered."""

    @property
    def gated(self) -> bool:
        """Whether evaluations decide."""
        return self.gate and self.alias == "champion"
