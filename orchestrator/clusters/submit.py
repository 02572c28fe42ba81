"""`submit`: check a job against a cluster, package it with its code, and submit it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.cluster_profile import Profile, Slurm, load_profile
from orchestrator.clusters.adapt_job import adapt_job, job_environment
from orchestrator.clusters.backend import LIVE_STATES, Backend, Submission, SubmissionStatus
from orchestrator.clusters.capacity import require_capacity
from orchestrator.clusters.doctor import preflight, with_doctor_check
from orchestrator.clusters.links import page_links
from orchestrator.clusters.packaging.package import (
    MAX_CODE_MIB,
    PACKAGED_JOB_FILE,
    Package,
    make_package,
)
from orchestrator.errors import RequestError
from orchestrator.job import Job, build_job, differences, explicit_job_dict, fingerprint, job_dict
from orchestrator.job.fingerprint import flatten

RUN_COMMAND: tuple[str, ...] = ("python", "-m", "orchestrator", "run", PACKAGED_JOB_FILE)


@dataclass(frozen=True)
class SubmitResult:
    """Result of `submit`."""

    row: SubmissionStatus
    attached: bool
    """The same job is queued or running already, so nothing was submitted."""

    notes: tuple[str, ...]
    """Notes about the packaged code, for people."""

    code_bytes: int
    """Size of the package in bytes."""


def submit(
    job: Job,
    to: str | Path | Profile,
    *,
    doctor: bool = True,
    code_limit_mib: float = MAX_CODE_MIB,
) -> SubmitResult:
    """Submit a job to a cluster, with the code of the current folder.

    A job that is queued or running there already is not submitted again.

    Args:
        job: the job.
        to: a profile, its name (`cluster/NAME.yaml`) or its file.
        doctor: check the cluster first, from here and, before the job, on its nodes.
        code_limit_mib: largest size of the packaged code.

    Raises:
        RequestError: the job is wrong, or the cluster cannot run it; nothing was submitted.
    """
    profile = load_profile(to) if isinstance(to, str | Path) else to
    job = adapt_job(job, profile, Path.cwd())
    env = job_environment(profile)
    require_capacity(job, profile)
    backend = backend_for(profile)
    with tempfile.TemporaryDirectory() as folder:
        package = make_package(
            job, Path.cwd(), Path(folder) / "package.zip", limit_mib=code_limit_mib
        )
        live = _live(backend, job)
        if live is not None:
            row, notes = live, _stale_code_notes(live, package)
        else:
            command = RUN_COMMAND
            if doctor:
                preflight(profile, job)
                command = with_doctor_check(RUN_COMMAND, PACKAGED_JOB_FILE)
            row = backend.submit(_submission(job, package, command, env))
            notes = package.notes
        size = package.path.stat().st_size
    return SubmitResult(with_links(row, profile), live is not None, notes, size)


def backend_for(profile: Profile) -> Backend:
    """The backend of a cluster.

    Raises:
        RequestError: the profile lacks an address.
    """
    if isinstance(profile, Slurm):
        from orchestrator.clusters.slurm.backend import SlurmBackend

        return SlurmBackend(profile)
    from orchestrator.clusters.ray_jobs.backend import RayJobsBackend

    return RayJobsBackend(profile)


def with_links(row: SubmissionStatus, profile: Profile) -> SubmissionStatus:
    """The row with links to its pages added."""
    if row.job is None:
        return row
    return replace(row, links={**page_links(profile, row.job, row.id), **(row.links or {})})


def _submission(
    job: Job, package: Package, command: tuple[str, ...], env: dict[str, str]
) -> Submission:
    return Submission(
        job.name,
        explicit_job_dict(job),
        package.path,
        command,
        env,
        fingerprint(job),
        package.digest,
    )


def _live(backend: Backend, job: Job) -> SubmissionStatus | None:
    """The live submission of the same job, if there is one.

    Raises:
        RequestError: another job of this name is live.
    """
    row = next((row for row in backend.list_submissions() if row.name == job.name), None)
    if row is None or row.state not in LIVE_STATES:
        return None
    changes = (
        ["it was sent by something else"]
        if row.job is None
        else differences(flatten(job_dict(build_job(row.job))), flatten(job_dict(job)))
    )
    if changes:
        raise RequestError(
            f"another job '{job.name}' is {row.state} there ({row.id}); it differs in:\n    "
            + "\n    ".join(changes),
            where=f"cluster {row.cluster}",
            hint=f"choose another name, or stop it: orchestrator jobs stop {job.name} --to"
            f" {row.cluster}",
        )
    return row


def _stale_code_notes(row: SubmissionStatus, package: Package) -> tuple[str, ...]:
    if row.code and row.code != package.digest:
        return ("the code here has changed since then; to run this one, stop it and submit again",)
    return ()
