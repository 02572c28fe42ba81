"""Adapt a job to a cluster: storage, paths, tracking, node limits and environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from orchestrator.cluster_profile import Local, Profile
from orchestrator.errors import RequestError
from orchestrator.job import Job, Scale, build_job, explicit_job_dict
from orchestrator.job.loading.load import KINDS
from orchestrator.storage import is_remote

# Keys that always name a file or folder, and keys that may name one if it exists here.
_PATHS = ("source", "uri", "folder")
_OPTIONAL_PATH_KEYS = ("from", "model", "features", "teacher")
_SQLITE = "sqlite:///"


def adapt_job(job: Job, profile: Profile, working_dir: Path) -> Job:
    """The job with the cluster's storage and node limits, and with paths that are valid there.

    The job's own storage has precedence. On a local cluster relative paths become absolute, because
    the job runs in an unpacked copy of `working_dir`.

    Args:
        job: the job as it was loaded.
        profile: the cluster.
        working_dir: the folder that relative paths start from.

    Raises:
        RequestError: a path exists on this machine only, or an address contains a password.
    """
    first = {"kind": job.kind, "name": job.name, "storage": job.storage}
    data = {**first, **explicit_job_dict(job)}
    if "storage" not in job.model_fields_set and profile.storage is not None:
        data["storage"] = profile.storage
    _refuse_password(data["storage"], "storage")
    if not is_remote(data["storage"]):
        data["storage"] = _cluster_path(data["storage"], "storage", profile, working_dir)
    track = data.get("track", {})
    uri = track.get("uri")
    if uri is not None:
        _refuse_password(uri, "track.uri")
        if uri.startswith(_SQLITE):
            file = _cluster_path(uri.removeprefix(_SQLITE), "track.uri", profile, working_dir)
            track["uri"] = _SQLITE + file
    _absolute_paths(data, "", profile, working_dir)
    _add_node_limits(data, profile)
    return build_job(data, source="the job on the cluster")


def _add_node_limits(data: dict[str, Any], profile: Profile) -> None:
    """Write the maximum number of nodes into training jobs if nodes start on demand: the nodes that
    are up when the job starts do not show it."""
    groups = [
        {"count": group.max_nodes, "cpus": group.cpus, "gpus": group.gpus}
        for group in profile.worker_groups.values()
        if group.max_nodes
    ]
    for training in _training_jobs(data) if profile.autoscales else ():
        training["scale"] = {"nodes": groups, **training.get("scale", {})}


def _training_jobs(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All training sections of a job: its own, a sweep's, and those of pipeline stages."""
    fields = KINDS[data["kind"]].model_fields
    if "stages" in fields:
        for stage in data["stages"]:
            yield from _training_jobs(stage["job"])
    elif "train" in fields:
        yield data["train"]
    elif "scale" in fields and fields["scale"].annotation is Scale:
        yield data


def job_environment(profile: Profile) -> dict[str, str]:
    """Environment variables of every process of a job on this cluster.

    Raises:
        RequestError: MLflow's address contains a password.
    """
    env = dict(profile.env)
    if profile.mlflow is not None:
        _refuse_password(profile.mlflow, f"mlflow of cluster {profile.name}")
        env["MLFLOW_TRACKING_URI"] = profile.mlflow
    return env


def _absolute_paths(value: Any, path: str, profile: Profile, here: Path) -> None:
    """Make relative paths absolute, in place."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        name = f"{path}.{key}" if path else str(key)
        if isinstance(item, (dict, list)):
            _absolute_paths(item, name, profile, here)
        elif isinstance(item, str) and _is_path(item, str(key), profile, here):
            value[key] = _cluster_path(item, name, profile, here)


def _is_path(text: str, key: str, profile: Profile, here: Path) -> bool:
    """Whether the value is a relative path; with a colon it is an address or an import path."""
    if ":" in text or Path(text).is_absolute():
        return False
    if key in _PATHS:
        return not isinstance(profile, Local) or (here / text).exists()
    # A model or features may have the same name as a folder, so a separator is required.
    return key in _OPTIONAL_PATH_KEYS and os.sep in text and (here / text).exists()


def _cluster_path(text: str, key: str, profile: Profile, here: Path) -> str:
    """A local path in a form that is valid on the cluster's nodes."""
    if Path(text).is_absolute():
        return text
    if isinstance(profile, Local):
        return str((here / text).absolute())
    hint = f"name what every node reaches, such as {key}=s3://bucket/prefix or a shared /folder"
    if key == "storage":
        hint += f"; or give the cluster a storage of its own in the profile '{profile.name}'"
    raise RequestError(
        f"'{text}' is a folder of this machine, the nodes of cluster '{profile.name}' have others",
        where=key,
        hint=hint,
    )


def _refuse_password(uri: str, where: str) -> None:
    if urlsplit(uri).password:
        raise RequestError(
            "the address carries a password, which would be read in logs and on pages",
            where=where,
            hint="leave it out; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on the"
            " cluster's nodes",
        )
