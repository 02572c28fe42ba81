"""Check that a job fits on the cluster that a profile describes."""

from __future__ import annotations

from orchestrator.cluster_profile import Profile
from orchestrator.errors import RequestError
from orchestrator.estimate.placement import WorkerPlacement
from orchestrator.job import Job, PipelineJob, StudyJob, TrainJob, TuneJob


def require_capacity(job: Job, profile: Profile) -> None:
    """Refuse a training that is larger than the cluster at its largest.

    Raises:
        RequestError: it needs more workers than fit on all nodes of the profile.
    """
    if isinstance(job, PipelineJob):
        for stage in job.stages:
            require_capacity(stage.job, profile)
        return
    trained = job.train if isinstance(job, TuneJob) else job
    if not isinstance(trained, TrainJob | StudyJob):
        return
    place, workers = WorkerPlacement(profile, trained.scale), trained.scale.min_workers
    if place.max_workers >= workers:
        return
    within = "train." if isinstance(job, TuneJob) else ""
    each = f"{place.cpus:g} cores" + (" and a GPU" if place.on_gpus else "")
    fewer = (
        f"set {within}scale.workers={place.max_workers}, lower" if place.max_workers else "lower"
    )
    raise RequestError(
        f"{workers} workers of {each} each; '{profile.name}' has room for {place.max_workers},"
        " all its nodes being there",
        where=f"{job.name}: {within}scale.workers",
        hint=f"{fewer} {within}scale.cpus, or name a larger cluster (`max` of its groups)",
    )
