"""Check that a job fits on the cluster that a profile describes."""

from __future__ import annotations

from orchestrator.cluster_profile import Profile
from orchestrator.errors import RequestError
from orchestrator.estimate.placement import WorkerPlacement
from orchestrator.job import Job, Scale


def require_capacity(job: Job, profile: Profile) -> None:
    """Refuse a training that is larger than the cluster at its largest.

    Raises:
        RequestError: it needs more workers than fit on all nodes of the profile.
    """
    for name, key, scale in job.scales():
        _require_workers(name, key, scale, profile)


def _require_workers(name: str, key: str, scale: Scale, profile: Profile) -> None:
    placement, workers = WorkerPlacement(profile, scale), scale.min_workers
    most = placement.max_workers
    if most >= workers:
        return
    each = f"{placement.cpus:g} cores" + (" and a GPU" if placement.on_gpus else "")
    fewer = f"set {key}.workers={most}, lower" if most else "lower"
    raise RequestError(
        f"{workers} workers of {each} each; '{profile.name}' has room for {most},"
        " all its nodes being there",
        where=f"{name}: {key}.workers",
        hint=f"{fewer} {key}.cpus, or name a larger cluster (`max` of its groups)",
    )
