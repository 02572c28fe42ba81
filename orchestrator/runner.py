"""`run`: one job of any kind, on this machine, to its end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import RequestError
from orchestrator.job import Job
from orchestrator.kinds import RunContext, kind_named, run_job
from orchestrator.outcome import Outcome
from orchestrator.paths import require_writable
from orchestrator.progress import Progress, SilentProgress
from orchestrator.unexpected import (
    UnexpectedError,
    error_context,
    save_traceback,
    to_orchestrator_error,
)

if TYPE_CHECKING:
    from orchestrator.storage import Storage


def run(
    job: Job,
    *,
    fresh: bool = False,
    local: bool = False,
    profile: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Run a job on the Ray cluster that is there, or on this machine.

    `fresh` archives what stands under the job's name and begins again; `local` uses one process
    and no Ray; `profile` leaves a trace and the seconds of each part of a step.

    Raises:
        RequestError: the request was wrong, nothing was started.
        JobFailed: the job stopped; running it again continues.

    An unexpected error is raised as it is; its traceback is saved in the run's folder, or else in
    a temporary file.
    """
    context = RunContext(progress or SilentProgress(), local=local, fresh=fresh, profile=profile)
    try:
        with error_context(f"running the {job.kind} job '{job.name}'"):
            _require_writable_storage(job)
            return run_job(job, context)
    except Exception as error:
        described = to_orchestrator_error(error, job.name)
        save_traceback(described, _run_folder(job))
        if described is not error and not isinstance(described, UnexpectedError):
            raise described from error  # a Ray worker raised it
        raise


def _run_folder(job: Job) -> Storage | None:
    """The folder of the job's run; None where its kind has none."""
    from orchestrator.storage import Storage

    folder = kind_named(job.kind).folder
    return Storage(job.storage).subfolder(folder, job.name) if folder else None


def _require_writable_storage(job: Job) -> None:
    """Before anything is started: the job's storage can be written.

    Raises:
        RequestError: it is no folder, or cannot be reached or written.
    """
    from orchestrator.storage import Storage

    storage = Storage(job.storage)
    if not storage.is_remote:
        require_writable(Path(storage.root), where="storage")
        return
    try:
        storage.exists()
    except OSError as error:
        raise RequestError(
            f"{storage.root} cannot be reached: {str(error).splitlines()[0]}",
            where="storage",
            hint="check the bucket's name, the credentials and the endpoint (AWS_ENDPOINT_URL)",
        ) from None
