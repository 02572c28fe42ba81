"""Whether a job has a place in a cluster, and the job as it runs there."""

from __future__ import annotations

from typing import Any

from orchestrator.errors import RequestError
from orchestrator.job import Job, StudyJob, TrainJob, TuneJob
from orchestrator.profile.schema import NodeGroup, Profile

LOCAL_STORAGE = ".orchestrator"
_PLACES = ("source", "uri", "folder")
"""Keys of a job that name where data lies."""


def groups_of_work(profile: Profile) -> dict[str, NodeGroup]:
    """The groups that jobs run on: all but the head, where there are others."""
    workers = {name: group for name, group in profile.nodes.items() if name != "head"}
    return workers or profile.nodes


def check_fits(job: Job, profile: Profile) -> None:
    """Refuse a training that the cluster's groups can never hold, all nodes being there.

    Raises:
        RequestError: too many workers for the GPUs or the cores of the cluster.
    """
    trained = job.train if isinstance(job, TuneJob) else job
    if not isinstance(trained, TrainJob | StudyJob):
        return
    groups = groups_of_work(profile).values()
    gpus = sum(group.most * group.gpus for group in groups)
    cores = sum(group.most * group.cpus for group in groups)
    scale, workers = trained.scale, trained.scale.least_workers
    if scale.device == "gpu" or (scale.device == "auto" and gpus):
        if workers > gpus:
            raise _too_large(job, profile, workers, f"{workers} GPUs", f"{gpus}", gpus)
        return
    share = scale.cpus or 1.0
    if workers * share > cores - 0.5:
        need = f"{workers * share:g} cores and half a one for data"
        raise _too_large(job, profile, workers, need, f"{cores}", int((cores - 0.5) / share))


def _too_large(
    job: Job, profile: Profile, workers: int, need: str, there: str, most: int
) -> RequestError:
    mend = f"set scale.workers={most}, or raise 'max' of its groups" if most else "add a group"
    return RequestError(
        f"{workers} workers need {need}, all groups of '{profile.name}' have {there}",
        where=f"{job.name}: scale.workers",
        mend=mend,
    )


def job_there(job: Job, profile: Profile) -> dict[str, Any]:
    """The job's keys as they were given, with storage that all nodes of the cluster reach.

    Raises:
        RequestError: neither the job nor the profile names such storage.
    """
    data: dict[str, Any] = job.model_dump(mode="json", by_alias=True, exclude_unset=True)
    data |= {"kind": job.kind, "name": job.name, "storage": job.storage}
    _refuse_local_paths(data, job.name)
    if job.storage == LOCAL_STORAGE:
        if profile.storage is None:
            raise RequestError(
                f"'{LOCAL_STORAGE}' is a folder of one node, and the others do not see it",
                where=f"{job.name}: storage",
                mend=f"give the profile '{profile.name}' a storage: s3://BUCKET/PREFIX",
            )
        data["storage"] = profile.storage
    return data


def _refuse_local_paths(data: dict[str, Any], name: str, path: str = "") -> None:
    """A folder of this machine is not there in a pod; what the image has is named absolutely."""
    for key, value in data.items():
        here = f"{path}{key}"
        if isinstance(value, dict):
            _refuse_local_paths(value, name, f"{here}.")
        elif isinstance(value, list):
            entries = {str(i): entry for i, entry in enumerate(value) if isinstance(entry, dict)}
            _refuse_local_paths(entries, name, f"{here}.")
        elif key in _PLACES and isinstance(value, str) and not _reached_there(value):
            raise RequestError(
                f"'{value}' is a folder of this machine, which the pods do not see",
                where=f"{name}: {here}",
                mend=f"name what they reach, such as {here}=s3://BUCKET/PREFIX",
            )


def _reached_there(place: str) -> bool:
    return ":" in place or place.startswith("/")
