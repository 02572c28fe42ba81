"""`pipelines/NAME/stages/STAGE.json`: what each stage was, and what it left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from orchestrator.errors import RequestError
from orchestrator.job import PipelineJob, Stage, differences, identity, present_names
from orchestrator.kinds import archive_folders, kind_named
from orchestrator.outcome import Outcome
from orchestrator.storage import Storage
from orchestrator.tracking.results.studies import noted_run


@dataclass(frozen=True)
class StageOutputs:
    """What a stage that is done has left."""

    seconds: float
    run_id: str = ""
    """Its MLflow run; "": its kind makes none."""

    model: str = ""
    """URI of a model; likewise `data` of a dataset and `features` of features."""

    data: str = ""
    features: str = ""
    report: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    """One line for a person."""

    @classmethod
    def from_outcome(cls, outcome: Outcome) -> StageOutputs:
        """What later stages, and the pipeline's own page, need of a job that has ended."""
        return cls(
            seconds=outcome.seconds,
            run_id=outcome.run_id,
            model=outcome.outputs.model,
            data=outcome.outputs.data,
            features=outcome.outputs.features,
            report=outcome.report,
            metrics=outcome.metrics,
            note=outcome.note,
        )

    def output(self, name: str) -> str:
        """What `stages:/STAGE/NAME` stands for."""
        return {"model": self.model, "data": self.data, "features": self.features}[name]


@dataclass(frozen=True)
class StageRecord:
    """A stage that has begun."""

    kind: str
    state: Literal["begun", "done"]
    identity: dict[str, Any]
    left: StageOutputs | None


class StageStore:
    """What is known of a pipeline's stages. An entry is written before its stage starts."""

    def __init__(self, folder: Storage) -> None:
        self.folder = folder

    def read(self, stage: Stage) -> StageRecord | None:
        """What is known of a stage; None: it has not begun."""
        path = _path(stage)
        if not self.folder.exists(path):
            return None
        found = self.folder.read_json(path)
        left = StageOutputs(**found["left"]) if found["left"] else None
        return StageRecord(found["kind"], found["state"], found["identity"], left)

    def mark_started(self, stage: Stage) -> None:
        """Note a stage that is about to start."""
        self._write(stage, StageRecord(stage.job.kind, "begun", _plain(stage), None))

    def mark_done(self, stage: Stage, left: StageOutputs) -> None:
        """Note what a stage has left: it is never run again."""
        self._write(stage, StageRecord(stage.job.kind, "done", _plain(stage), left))

    def forget(self, stage: Stage) -> None:
        """Forget a stage whose request was wrong: nothing of it was started."""
        self.folder.delete(_path(stage))

    def check_unchanged(self, job: PipelineJob) -> None:
        """Stages that have begun must be what they were.

        Raises:
            RequestError: one differs; says in what.
        """
        for stage in job.stages:
            entry = self.read(stage)
            names = present_names(stage.job)
            changes = differences(entry.identity, _plain(stage), names) if entry else []
            if entry and changes:
                raise RequestError(
                    f"stage '{stage.name}' is {entry.state} with other values; it differs in:\n    "
                    + "\n    ".join(changes),
                    where=self.folder.root,
                    hint="undo the change, give the stage (or the pipeline) another name, or begin"
                    " the whole pipeline anew with --fresh",
                )

    def _write(self, stage: Stage, entry: StageRecord) -> None:
        self.folder.write_json(_path(stage), asdict(entry))


def archive_stages(job: PipelineJob, storage: Storage) -> None:
    """Move what the stages continue in, and then what is known of them, to FOLDER.until-MARK."""
    noted = noted_run(storage.subfolder("pipelines", job.name))
    archive_folders(storage, kind_named(job.kind).archive(job), noted)


def _path(stage: Stage) -> str:
    return f"stages/{stage.name}.json"


def _plain(stage: Stage) -> dict[str, Any]:
    """The stage's identity, as it comes back from a file."""
    plain: dict[str, Any] = json.loads(json.dumps(identity(stage.job)))
    return plain
