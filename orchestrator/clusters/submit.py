"""`submit`: check a job against a cluster, pack it with its code, and send it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.cluster_profile import Profile, Slurm, load_profile
from orchestrator.clusters.adapt_job import environment, place
from orchestrator.clusters.backend import LIVE, Backend, Row, Submission
from orchestrator.clusters.capacity import require_room
from orchestrator.clusters.doctor import guarded, preflight
from orchestrator.clusters.links import links
from orchestrator.clusters.packaging.package import JOB_FILE, LIMIT_MIB, Package, make_package
from orchestrator.errors import RequestError
from orchestrator.job import Job, build_job, differences, fingerprint, given_dict, job_dict
from orchestrator.job.fingerprint import flatten

COMMAND: tuple[str, ...] = ("python", "-m", "orchestrator", "run", JOB_FILE)


@dataclass(frozen=True)
class Sent:
    """What `submit` came to."""

    row: Row
    attached: bool
    """The same job was there already and goes on: nothing new was sent."""

    notes: tuple[str, ...]
    """What a person should know about the code that went along."""

    bytes: int
    """Of the code, packed."""


def submit(
    job: Job,
    to: str | Path | Profile,
    *,
    doctor: bool = True,
    code_limit_mib: float = LIMIT_MIB,
) -> Sent:
    """Send `job` with the code of the current folder to a cluster; it runs there by itself.

    `to` is a profile, its name (`cluster/NAME.yaml`) or its file. A job that is there already and
    goes on is not sent again.

    Raises:
        RequestError: the request was wrong, or the cluster cannot take it; nothing was started.
    """
    profile = load_profile(to) if isinstance(to, str | Path) else to
    job = place(job, profile, Path.cwd())
    env = environment(profile)
    require_room(job, profile)
    backend = backend_of(profile)
    with tempfile.TemporaryDirectory() as folder:
        package = make_package(
            job, Path.cwd(), Path(folder) / "package.zip", limit_mib=code_limit_mib
        )
        live = _live(backend, job)
        if live is not None:
            row, notes = live, _about(live, package)
        else:
            command = COMMAND
            if doctor:
                preflight(profile, job)
                command = guarded(COMMAND, JOB_FILE)
            row = backend.submit(_submission(job, package, command, env))
            notes = package.notes
        size = package.path.stat().st_size
    return Sent(with_links(row, profile), live is not None, notes, size)


def backend_of(profile: Profile) -> Backend:
    """What speaks to a cluster.

    Raises:
        RequestError: its kind cannot be reached, or the profile lacks an address.
    """
    if isinstance(profile, Slurm):
        from orchestrator.clusters.slurm.backend import SlurmBackend

        return SlurmBackend(profile)
    from orchestrator.clusters.ray_jobs.backend import RayJobsBackend

    return RayJobsBackend(profile)


def with_links(row: Row, profile: Profile) -> Row:
    """The row with the pages where it is seen."""
    if row.job is None:
        return row
    return replace(row, links={**links(profile, row.job, row.id), **(row.links or {})})


def _submission(
    job: Job, package: Package, command: tuple[str, ...], env: dict[str, str]
) -> Submission:
    return Submission(
        job.name, given_dict(job), package.path, command, env, fingerprint(job), package.digest
    )


def _live(backend: Backend, job: Job) -> Row | None:
    """The live submission of the same job, if there is one.

    Raises:
        RequestError: another job goes on under the name.
    """
    row = next((row for row in backend.rows() if row.name == job.name), None)
    if row is None or row.state not in LIVE:
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
            mend=f"choose another name, or stop it: orchestrator jobs stop {job.name} --to"
            f" {row.cluster}",
        )
    return row


def _about(row: Row, package: Package) -> tuple[str, ...]:
    if row.code and row.code != package.digest:
        return ("the code here has changed since then; to run this one, stop it and submit again",)
    return ()
