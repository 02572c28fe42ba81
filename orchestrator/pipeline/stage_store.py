"""`pipelines/NAME/stages/STAGE.json`: what each stage was, and what it left."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from orchestrator.errors import RequestError
from orchestrator.job import PipelineJob, Stage, StudyJob, TuneJob, differences, identity
from orchestrator.job.loading.search_space import trial_name
from orchestrator.storage import Storage
from orchestrator.tracking.results.studies import RUN_REF_FILE


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
            changes = differences(entry.identity, _plain(stage)) if entry else []
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
    """--fresh loses nothing: what the stages left moves beside, and then what is known of them."""
    noted = storage.subfolder("pipelines", job.name)
    run = (
        noted.read_json(RUN_REF_FILE)["run_id"] if noted.exists(RUN_REF_FILE) else uuid.uuid4().hex
    )
    traces = [path for stage in job.stages for path in _resume_folders(stage)]
    for path in [*traces, f"pipelines/{job.name}"]:
        if storage.exists(path):
            storage.move_tree(path, f"{path}.until-{run[:8]}")


def _resume_folders(stage: Stage) -> list[str]:
    """Folders under which a stage is continued. Datasets are named by content: they stay."""
    job, name = stage.job, stage.job.name
    if isinstance(job, TuneJob):
        runs = [f"runs/{trial_name(job, number)}" for number in range(job.trials)]
        return [f"sweeps/{name}", *runs]
    if isinstance(job, StudyJob):
        return [f"studies/{name}", *(f"runs/{cell.key}" for cell in job.cells())]
    room = {"train": "runs", "embed": "features", "evaluate": "evaluations"}.get(job.kind)
    return [f"{room}/{name}"] if room else []


def _path(stage: Stage) -> str:
    return f"stages/{stage.name}.json"


def _plain(stage: Stage) -> dict[str, Any]:
    """The stage's identity, as it comes back from a file."""
    plain: dict[str, Any] = json.loads(json.dumps(identity(stage.job)))
    return plain
