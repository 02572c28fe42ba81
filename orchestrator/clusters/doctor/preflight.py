"""What can be known before anything is sent: no process is started on the cluster."""

from __future__ import annotations

from orchestrator.cluster_profile import Profile
from orchestrator.clusters.capacity import require_room
from orchestrator.clusters.doctor.connectivity import look_at_door
from orchestrator.clusters.doctor.facts import Finding, State
from orchestrator.clusters.mlflow_rest import ask
from orchestrator.errors import RequestError
from orchestrator.job import Job


def preflight(profile: Profile, job: Job) -> None:
    """Refuse what cannot work there. `job` is as it would run there (`placing.place`).

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


def look_from_here(profile: Profile, job: Job | None) -> list[Finding]:
    """Address, token, version; and with a job whether it has room, and its MLflow."""
    found = look_at_door(profile)
    if job is None:
        return found
    return [*found, _room(profile, job), _mlflow(profile, job)]


def _room(profile: Profile, job: Job) -> Finding:
    try:
        require_room(job, profile)
    except RequestError as error:
        return Finding("workers", "fail", error.what, error.mend)
    return Finding("workers", "ok", f"'{profile.name}' has room for them")


def _several(profile: Profile) -> bool:
    return sum(group.most for group in profile.nodes.values()) > 1


def _mlflow(profile: Profile, job: Job) -> Finding:
    track = getattr(job, "track", None)
    uri = (track.uri if track else None) or profile.mlflow or ""
    if (not uri and track is not None) or uri.startswith("sqlite"):
        if not _several(profile):
            return Finding("MLflow", "ok", uri or "sqlite in the storage: one node writes")
        text = f"several nodes cannot write one sqlite file ({uri or 'the default'})"
        mend = "start a server that all nodes reach and name it: `mlflow` in the profile"
        return Finding("MLflow", "fail", text, mend)
    why = ask(uri)
    if not why:
        return Finding("MLflow", "ok", uri or "no run is tracked")
    mend = "start it, or correct `mlflow` in the profile or track.uri"
    # A name or a network of the cluster's own may be out of reach from here; a refusal is final.
    state: State = "fail" if "refuse" in why else "warn"
    return Finding("MLflow", state, f"{uri}: {why}, from here", mend)
