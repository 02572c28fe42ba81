"""The `pipeline` job: stages in a row, each starting from what a former one left."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema, model_validator

from orchestrator.errors import suggest
from orchestrator.job.config.base import NAME_PATTERN, Name, Section, field_error
from orchestrator.job.config.embed import EmbedJob
from orchestrator.job.config.evaluate import EvaluateJob
from orchestrator.job.config.former_names import FormerName
from orchestrator.job.config.pack import PackJob
from orchestrator.job.config.promote import PromoteJob
from orchestrator.job.config.stage_references import (
    INPUT_OF_KEY,
    OUTPUT_OF_KIND,
    STAGE_URI_PREFIX,
    Reference,
    find_references,
)
from orchestrator.job.config.study import StudyJob
from orchestrator.job.config.train import TrainJob
from orchestrator.job.config.tune import TuneJob

StageJob = PackJob | TrainJob | EmbedJob | EvaluateJob | StudyJob | TuneJob | PromoteJob

StageName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]
"""A name without dots, so that `stages.NAME.job.KEY` is a key and `stages:/NAME/model` a result."""

_StageJobOrPath = Annotated[
    Annotated[StageJob, Field(discriminator="kind")],
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object"}]}),
]


class PipelineTrack(Section):
    """Where the pipeline and all of its stages are remembered."""

    uri: str | None = None
    """MLflow server or database. Default: MLFLOW_TRACKING_URI, else a database in `storage`."""

    experiment: str = "default"
    """MLflow experiment: a parent run, and one for each stage beneath it."""


class Stage(Section):
    """One job of the row."""

    name: StageName
    """Its run is PIPELINE.STAGE; what it leaves is stages:/STAGE/model (of train and tune),
    stages:/STAGE/data (of pack) or stages:/STAGE/features (of embed)."""

    job: _StageJobOrPath
    """A job file of any kind but `pipeline`, its path from the working directory, or its keys in
    place (`orchestrator jobs schema KIND` lists them). Its `name`, `storage`, `track.uri` and
    `track.experiment` give way to the pipeline's."""

    overrides: Annotated[dict[str, Any], FormerName("set")] = Field({})
    """Keys of that job that are others here: `{model.from: stages:/pretrain/model,
    data.frames: 32}`."""

    @property
    def references(self) -> list[Reference]:
        """What of former stages it takes."""
        given = self.job.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return [found for found in find_references(given) if isinstance(found, Reference)]


class PipelineJob(Section):
    """Several jobs in a row, each from the results of former ones.

    A stage that is done is never run again; a pipeline that was stopped, killed or failed goes on
    at its first stage that is not. All of it is checked before the first stage starts.
    """

    kind: Literal["pipeline"]
    """The job's kind."""

    name: Name
    """An identity: the same name continues the same pipeline. Stages that have begun must stay as
    they are; later ones may be changed or added. --fresh begins anew."""

    storage: str = ".orchestrator"
    """Root of everything that all stages leave."""

    stages: tuple[Stage, ...] = Field(min_length=1)
    """What is done, in this order."""

    track: PipelineTrack = PipelineTrack()
    """Where the pipeline and its stages are remembered."""

    @model_validator(mode="after")
    def _check_stages(self) -> PipelineJob:
        names = [stage.name for stage in self.stages]
        for i, stage in enumerate(self.stages):
            if stage.name in names[:i]:
                raise field_error(
                    f"stages.{i}.name", f"'{stage.name}' is the name of a stage before it"
                )
            if not re.fullmatch(NAME_PATTERN, stage.job.name):
                text = f"the name of its run, '{stage.job.name}', is longer than 100 characters"
                raise field_error(f"stages.{i}.name", text)
        for i in range(len(self.stages)):
            self._check_references(i, names)
        for i, stage in enumerate(self.stages):
            if isinstance(stage.job, PromoteJob):
                self._check_promotion(i, stage.job)
        return self

    def _check_references(self, i: int, names: list[str]) -> None:
        stage = self.stages[i]
        given = stage.job.model_dump(mode="json", by_alias=True, exclude_unset=True)
        for found in find_references(given):
            if not isinstance(found, Reference):
                key, text = found
                raise field_error(
                    f"stages.{i}.job.{key}",
                    f"'{text}' names no result of a stage; write {STAGE_URI_PREFIX}STAGE/model,"
                    " /data or /features",
                )
            where = f"stages.{i}.job.{found.key}"
            said = f"stage '{stage.name}' refers to '{found.stage}'"
            if found.stage not in names:
                text = f"{said}, and no stage has that name; {suggest(found.stage, names)}"
                raise field_error(where, text)
            self._check_order(i, names.index(found.stage), where, said)
            self._check_output(found, self.stages[names.index(found.stage)], where, said)

    def _check_order(self, i: int, other: int, where: str, said: str) -> None:
        if other < i:
            return
        if other == i:
            raise field_error(where, f"{said}, itself")
        circle = self._reference_path(other, i)
        if circle:
            raise field_error(
                where, f"a circle of stages: {' -> '.join([self.stages[i].name, *circle])}"
            )
        raise field_error(where, f"{said}, which comes after it; put it before")

    def _reference_path(
        self, first: int, last: int, seen: frozenset[int] = frozenset()
    ) -> list[str]:
        """The stages by which `first` refers to `last`, both included; [] if it does not."""
        names = [stage.name for stage in self.stages]
        if first == last:
            return [names[first]]
        for found in self.stages[first].references:
            if found.stage in names and first not in seen:
                rest = self._reference_path(names.index(found.stage), last, seen | {first})
                if rest:
                    return [names[first], *rest]
        return []

    def _check_output(self, found: Reference, former: Stage, where: str, said: str) -> None:
        kind = former.job.kind
        left = OUTPUT_OF_KIND.get(kind)
        if found.output != left:
            gives = f"leaves {left}" if left else "leaves nothing that a stage can start from"
            raise field_error(
                where, f"{said} for its {found.output}; a stage of kind {kind} {gives}"
            )
        takes = INPUT_OF_KEY.get(found.key.rpartition(".")[2])
        if takes != left:
            what = f"takes {takes}" if takes else "takes no result of a stage"
            raise field_error(where, f"{said} for its {left}, where a key stands that {what}")
        if isinstance(former.job, PackJob) and former.job.source is None:
            raise field_error(
                where, f"{said}, which packs several sources into datasets of their own"
            )

    def _check_promotion(self, i: int, job: PromoteJob) -> None:
        where = f"stages.{i}.job.model"
        former = next(
            (s for s in self.stages if job.model == f"{STAGE_URI_PREFIX}{s.name}/model"), None
        )
        trained = former.job.train if former and isinstance(former.job, TuneJob) else None
        if former and isinstance(former.job, TrainJob):
            trained = former.job
        if former and trained and trained.track.register_as is None:
            text = f"stage '{former.name}' registers no model; give it track.register"
            raise field_error(where, text)
        judged = any(
            isinstance(before.job, EvaluateJob)
            and before.job.model == job.model
            and before.job.benchmark is None
            and before.job.probe is None
            for before in self.stages[:i]
        )
        if former and job.gated and not judged:
            text = f"no stage before it judges '{job.model}' by the physics suite"
            raise field_error(where, f"{text}; add one of kind evaluate, or write gate: false")
