"""What can be known before anything is sent: no process is started on the cluster."""

from __future__ import annotations

from orchestrator.cluster_profile import Profile
from orchestrator.clusters.capacity import require_capacity
from orchestrator.clusters.doctor.connectivity import check_job_server
from orchestrator.clusters.doctor.facts import CheckResult, CheckState
from orchestrator.clusters.mlflow_rest import server_error
from orchestrator.errors import RequestError
from orchestrator.job import Job


def preflight(profile: Profile, job: Job) -> None:
    """Refuse what cannot work there. `job` is as it would run there (`adapt_job.adapt_job`).

    Raises:
        RequestError: lists every failed check with its hint.
    """
    failed = [one for one in check_from_client(profile, job) if one.state == "fail"]
    if not failed:
        return
    lines = [f"{one.check}: {one.text}\n    {one.hint}" for one in failed]
    count = f"{len(failed)} check{'s' if len(failed) > 1 else ''} failed"
    raise RequestError(
        f"{count}, '{job.name}' was not sent\n  " + "\n  ".join(lines),
        where=f"cluster {profile.name}",
        hint="correct these, or submit anyway with --no-doctor",
    )


def check_from_client(profile: Profile, job: Job | None) -> list[CheckResult]:
    """Address, token, version; and with a job whether it has room, and its MLflow."""
    found = check_job_server(profile)
    if job is None:
        return found
    return [*found, _check_capacity(profile, job), _mlflow(profile, job)]


def _check_capacity(profile: Profile, job: Job) -> CheckResult:
    try:
        require_capacity(job, profile)
    except RequestError as error:
        return CheckResult("workers", "fail", error.what, error.hint)
    return CheckResult("workers", "ok", f"'{profile.name}' has room for them")


def _several(profile: Profile) -> bool:
    return sum(group.max_nodes for group in profile.nodes.values()) > 1


def _mlflow(profile: Profile, job: Job) -> CheckResult:
    track = getattr(job, "track", None)
    uri = (track.uri if track else None) or profile.mlflow or ""
    if (not uri and track is not None) or uri.startswith("sqlite"):
        if not _several(profile):
            return CheckResult("MLflow", "ok", uri or "sqlite in the storage: one node writes")
        text = f"several nodes cannot write one sqlite file ({uri or 'the default'})"
        hint = "start a server that all nodes reach and name it: `mlflow` in the profile"
        return CheckResult("MLflow", "fail", text, hint)
    why = server_error(uri)
    if not why:
        return CheckResult("MLflow", "ok", uri or "no run is tracked")
    hint = "start it, or correct `mlflow` in the profile or track.uri"
    # A name or a network of the cluster's own may be out of reach from here; a refusal is final.
    state: CheckState = "fail" if "refuse" in why else "warn"
    return CheckResult("MLflow", state, f"{uri}: {why}, from here", hint)
