"""`jobs diff`: compare a job file with the job that was last submitted or run under its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.cluster_profile import Profile
from orchestrator.clusters.adapt_job import adapt_job
from orchestrator.clusters.submit import backend_for
from orchestrator.errors import RequestError
from orchestrator.job import Job, build_job, differences, job_dict
from orchestrator.job.fingerprint import flatten
from orchestrator.storage import Storage


@dataclass(frozen=True)
class JobDiff:
    """Differences between a job and the last job of its name."""

    where: str
    """Where the other job was found, and its state."""

    changes: list[str]
    """Lines `key: there -> here`; empty if the jobs are equal."""


def diff_job(job: Job, profile: Profile | None) -> JobDiff:
    """Compare with the last one sent to a cluster, or, without a cluster, with the run in the
    job's storage.

    Raises:
        RequestError: nothing has that name there.
    """
    if profile is not None:
        job = adapt_job(job, profile, Path.cwd())
        row = backend_for(profile).status(job.name)
        if row.job is not None:
            where = f"{row.id} on cluster {row.cluster}, {row.state}"
            return JobDiff(where, _changes(job_dict(build_job(row.job)), job))
    folder = Storage(job.storage).subfolder("runs", job.name)
    if not folder.exists("run.json"):
        raise RequestError(
            f"no run '{job.name}'", where=folder.root, hint="name its storage=..., or --to CLUSTER"
        )
    old = dict(folder.read_json("run.json")["job"])
    # The driver makes its storage absolute, which is not a difference.
    job = job.model_copy(update={"storage": Storage(job.storage).root})
    return JobDiff(folder.root, _changes(old, job))


def _changes(old: dict[str, Any], job: Job) -> list[str]:
    return differences(flatten(old), flatten(job_dict(job)))
