"""Whether a job can ever fit into what a profile says is there."""

from __future__ import annotations

from orchestrator.errors import RequestError
from orchestrator.job import Job, TrainJob, TuneJob
from orchestrator.profile import Profile


def require_room(job: Job, profile: Profile) -> None:
    """Refuse a training that is larger than the cluster at its largest.

    Raises:
        RequestError: too few GPUs or cores, on all nodes together or on the largest one.
    """
    if isinstance(job, TuneJob):
        job = job.train
    if not isinstance(job, TrainJob):
        return
    groups = [group for group in profile.nodes.values() if group.most]
    workers, scale = job.scale.least_workers, job.scale
    gpus = sum(group.most * group.gpus for group in groups)
    if scale.device == "gpu" or (scale.device == "auto" and gpus):
        if workers > gpus:
            raise _too_large(job, profile, f"{workers} GPUs, one each", f"{gpus}")
        groups = [group for group in groups if group.gpus]
    if scale.cpus is None:
        return
    largest = max((group.cpus for group in groups), default=0)
    if scale.cpus > largest:
        raise _too_large(job, profile, f"{scale.cpus:g} cores each", f"{largest} on a node")
    slots = sum(group.most * int(group.cpus // scale.cpus) for group in groups)
    if workers > slots:
        raise _too_large(job, profile, f"{scale.cpus:g} cores each", f"room for {slots} of them")


def _too_large(job: TrainJob, profile: Profile, needed: str, there: str) -> RequestError:
    workers = job.scale.least_workers
    return RequestError(
        f"{workers} workers need {needed}; cluster '{profile.name}' has {there} at most",
        where="scale.workers",
        mend="lower scale.workers or scale.cpus, or name a larger cluster",
    )
