"""The job as it will run on a cluster: storage, paths, tracking and environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from orchestrator.clusters.screening import is_secret_variable
from orchestrator.errors import RequestError
from orchestrator.job import Job, build_job, job_dict
from orchestrator.profile import Local, Profile
from orchestrator.storage import is_remote

# Keys that may name a file or folder of this machine, where such a one is there.
_PATH_KEYS = ("source", "uri", "folder", "from", "model", "features")
_SQLITE = "sqlite:///"


def place(job: Job, profile: Profile, here: Path) -> Job:
    """`job` with the cluster's storage, and with paths that mean the same there.

    The job's own storage wins where it was given. On a cluster of this machine relative paths
    are made absolute, since the job runs in an unpacked copy of `here`.

    Raises:
        RequestError: a path that only this machine knows, or an address that carries a password.
    """
    data = job_dict(job)
    if "storage" not in job.model_fields_set and profile.storage is not None:
        data["storage"] = profile.storage
    if not is_remote(data["storage"]):
        data["storage"] = _reached(data["storage"], "storage", profile, here)
    track = data.get("track", {})
    uri = track.get("uri")
    if uri is not None:
        _refuse_password(uri, "track.uri")
        if uri.startswith(_SQLITE):
            file = _reached(uri.removeprefix(_SQLITE), "track.uri", profile, here)
            track["uri"] = _SQLITE + file
    _absolute_paths(data, "", profile, here)
    return build_job(data, where="the job on the cluster")


def environment(profile: Profile) -> dict[str, str]:
    """Variables of every process of a job on this cluster.

    Raises:
        RequestError: one of them is a secret, or MLflow's address carries a password.
    """
    for name in profile.env:
        if is_secret_variable(name):
            raise RequestError(
                f"'{name}' looks secret, and a profile is read by everyone",
                where=f"env of cluster {profile.name}",
                mend="set it on the cluster: a Kubernetes Secret, the nodes' own environment",
            )
    env = dict(profile.env)
    if profile.mlflow is not None:
        _refuse_password(profile.mlflow, f"mlflow of cluster {profile.name}")
        env["MLFLOW_TRACKING_URI"] = profile.mlflow
    return env


def _absolute_paths(value: Any, path: str, profile: Profile, here: Path) -> None:
    """Make relative paths that are there absolute, in place."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        name = f"{path}.{key}" if path else str(key)
        if isinstance(item, (dict, list)):
            _absolute_paths(item, name, profile, here)
        elif key in _PATH_KEYS and isinstance(item, str) and _is_here(item, key, here):
            value[key] = _reached(item, name, profile, here)


def _is_here(text: str, key: str, here: Path) -> bool:
    if "://" in text or Path(text).is_absolute():
        return False
    # A model or features can be called by a name that a folder happens to have.
    if key in ("model", "features") and os.sep not in text:
        return False
    return (here / text).exists()


def _reached(text: str, key: str, profile: Profile, here: Path) -> str:
    """A local path as the cluster's nodes can use it."""
    if Path(text).is_absolute():
        return text
    if isinstance(profile, Local):
        return str((here / text).absolute())
    mend = f"name what every node reaches, such as {key}=s3://bucket/prefix or a shared /folder"
    if key == "storage":
        mend += f"; or give the cluster a storage of its own in the profile '{profile.name}'"
    raise RequestError(
        f"'{text}' is a folder of this machine, the nodes of cluster '{profile.name}' have others",
        where=key,
        mend=mend,
    )


def _refuse_password(uri: str, where: str) -> None:
    if urlsplit(uri).password:
        raise RequestError(
            "the address carries a password, which would be read in logs and on pages",
            where=where,
            mend="leave it out; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on the"
            " cluster's nodes",
        )
