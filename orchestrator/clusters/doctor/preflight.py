"""What can be known before anything is sent: no process is started on the cluster."""

from __future__ import annotations

import os
from typing import TypeVar

from orchestrator.clusters.doctor.checks.room import place
from orchestrator.clusters.doctor.datasets import training_of
from orchestrator.clusters.doctor.door import look_at_door
from orchestrator.clusters.doctor.facts import Finding
from orchestrator.clusters.doctor.mlflow_server import ask
from orchestrator.errors import RequestError
from orchestrator.job import Job
from orchestrator.profile import Profile
from orchestrator.storage import is_remote
from orchestrator.training.placement import Room

AnyJob = TypeVar("AnyJob", bound=Job)


def preflight(profile: Profile, job: Job) -> None:
    """Refuse what cannot work there. `job` is as it would run there: `as_on` makes it so.

    Raises:
        RequestError: lists every check that failed, with what mends it.
    """
    failed = [one for one in look_from_here(profile, job) if one.state == "fail"]
    if not failed:
        return
    lines = [f"{one.check}: {one.text}\n    {one.mend}" for one in failed]
    count = f"{len(failed)} check{'s' if len(failed) > 1 else ''} failed"
    raise RequestError(
        f"{count}, '{job.name}' was not sent\n  " + "\n  ".join(lines),
        where=f"cluster {profile.name}",
        mend="mend these, or send it all the same with --no-doctor",
    )


def as_on(profile: Profile, job: AnyJob) -> AnyJob:
    """The job with the cluster's storage and MLflow, where it names none of its own."""
    update = {}
    if profile.storage and "storage" not in job.model_fields_set:
        update["storage"] = profile.storage
    track = getattr(job, "track", None)
    if profile.mlflow and track is not None and track.uri is None:
        update["track"] = track.model_copy(update={"uri": profile.mlflow})
    return job.model_copy(update=update)


def look_from_here(profile: Profile, job: Job | None) -> list[Finding]:
    """Address, token, version; and with a job its size, its storage and its MLflow."""
    found = look_at_door(profile)
    if job is None:
        return found
    training = training_of(job)
    if training is not None:
        found.append(_size(profile, place(training, _rooms(profile))))
    return [*found, _storage(profile, job), _mlflow(profile, job)]


def _rooms(profile: Profile) -> tuple[Room, ...]:
    """Of every node that the profile may have."""
    groups = profile.nodes.values()
    return tuple(Room(g.cpus, g.gpus) for g in groups for _ in range(g.most))


def _size(profile: Profile, found: Finding) -> Finding:
    if found.state != "fail":
        return found
    return Finding(found.check, "fail", f"{found.text} (profile {profile.name})", found.mend)


def _several(profile: Profile) -> bool:
    return sum(group.most for group in profile.nodes.values()) > 1


def _storage(profile: Profile, job: Job) -> Finding:
    if profile.kind != "local" and not is_remote(job.storage) and job.storage[:1] != "/":
        text = f"'{job.storage}' would be a folder of the job's own copy on one node"
        mend = "name one that all nodes reach: `storage` in the profile or the job"
        return Finding("storage", "fail", text, mend)
    return Finding("storage", "ok", job.storage)


def _mlflow(profile: Profile, job: Job) -> Finding:
    track = getattr(job, "track", None)
    uri = (track.uri if track else None) or os.environ.get("MLFLOW_TRACKING_URI") or ""
    if (not uri and track is not None) or uri.startswith("sqlite"):
        if not _several(profile):
            return Finding("MLflow", "ok", uri or "sqlite in the storage: one node writes")
        text = f"several nodes cannot write one sqlite file ({uri or 'the default'})"
        mend = "start a server that all nodes reach and name it: `mlflow` in the profile"
        return Finding("MLflow", "fail", text, mend)
    why = ask(uri)
    if not why:
        return Finding("MLflow", "ok", uri or "no run is tracked")
    mend = "start it, or correct `mlflow` in the profile, track.uri or MLFLOW_TRACKING_URI"
    # A name or a network of the cluster's own may be out of reach from here; a refusal is final.
    state = "fail" if "refuse" in why else "warn"
    return Finding("MLflow", state, f"{uri}: {why}, from here", mend)
