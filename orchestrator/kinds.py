"""The kinds of job: where each is defined, and what each must offer.

The registry holds import paths, so that nothing is imported before a job of that kind is used and
every package can import this module. A new kind is a schema in `job/config`, a class here named,
and its entry in `orchestrator.job.loading.load.KINDS`.
"""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from orchestrator.errors import RequestError, suggest
from orchestrator.outcome import Outcome
from orchestrator.progress import Progress
from orchestrator.unexpected import error_context

if TYPE_CHECKING:
    from orchestrator.cluster_profile import Profile
    from orchestrator.estimate.kinds import Estimate, EstimateOptions
    from orchestrator.job import Job
    from orchestrator.storage import Storage

KIND_PATHS: dict[str, str] = {
    "pack": "orchestrator.data.packing.kind:PackKind",
    "train": "orchestrator.train_kind:TrainKind",
    "embed": "orchestrator.features.kind:EmbedKind",
    "evaluate": "orchestrator.evaluation.kind:EvaluateKind",
    "study": "orchestrator.study.kind:StudyKind",
    "tune": "orchestrator.tuning.kind:TuneKind",
    "pipeline": "orchestrator.pipeline.kind:PipelineKind",
    "promote": "orchestrator.evaluation.promote_kind:PromoteKind",
}

J = TypeVar("J", contravariant=True)


@dataclass(frozen=True)
class RunContext:
    """How a job is run, apart from what its file says."""

    progress: Progress
    local: bool = False
    """One process, no Ray."""

    fresh: bool = False
    """Archive what stands under the job's name and begin again."""

    profile: bool = False
    """Leave a trace and the seconds of each part of a step."""

    parent_run_id: str | None = None
    """MLflow run of the pipeline whose stage the job is."""


class Kind(Protocol[J]):
    """What the runner, `plan` and pipelines need of a kind of job."""

    folder: ClassVar[str] = ""
    """Folder of the storage in which each job has a subfolder of its name; "": none."""

    unsupported: ClassVar[Mapping[str, str]] = {}
    """Options of `run` that the kind refuses (`local`, `fresh`, `profile`), and why."""

    def check(self, job: J) -> None:
        """What needs more than the schema; nothing is started.

        Raises:
            RequestError: the job cannot be run.
        """

    def run(self, job: J, context: RunContext) -> Outcome:
        """Run the job to its end, or continue it.

        Raises:
            RequestError: nothing was started.
            JobFailed: the job stopped; running it again continues.
        """
        ...

    def estimate(
        self, job: J, profile: Profile | None, options: EstimateOptions
    ) -> Estimate | None:
        """What the job needs and costs, by arithmetic alone; None: nothing to speak of.

        Raises:
            RequestError: an option names what is not known.
        """
        return None

    def archive(self, job: J) -> list[str]:
        """Folders of the storage in which the job continues: what `--fresh` archives."""
        return []


def kind_named(name: str) -> Kind[Any]:
    """The kind of this name, imported on first use.

    Raises:
        RequestError: there is no such kind.
    """
    if name not in KIND_PATHS:
        raise RequestError(f"unknown job kind '{name}'", hint=suggest(name, list(KIND_PATHS)))
    module, attribute = KIND_PATHS[name].split(":")
    kind: Kind[Any] = getattr(importlib.import_module(module), attribute)()
    return kind


def run_job(job: Job, context: RunContext) -> Outcome:
    """Check and run one job; an unexpected error notes which job it was.

    Raises:
        RequestError: the job, or an option beside it, cannot be; nothing was started.
        JobFailed: the job stopped.
    """
    kind = kind_named(job.kind)
    with error_context(f"running the {job.kind} job '{job.name}'"):
        for option, reason in kind.unsupported.items():
            if getattr(context, option):
                raise RequestError(
                    f"--{option} is not for {job.kind} jobs: {reason}",
                    where=job.name,
                    hint="leave it out",
                )
        kind.check(job)
        return kind.run(job, context)


def archive_folders(storage: Storage, folders: Sequence[str], run_id: str = "") -> list[str]:
    """Move what is there of `folders` beside itself, as FOLDER.until-MARK; nothing is deleted.

    Args:
        run_id: the MLflow run that made them, whose first digits are the mark.
    """
    mark = (run_id or uuid.uuid4().hex)[:8]
    present = [folder for folder in folders if storage.exists(folder)]
    for folder in present:
        storage.move_tree(folder, f"{folder}.until-{mark}")
    return present
