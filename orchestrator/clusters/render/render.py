"""`cluster render`: all files of a profile, in memory and on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from orchestrator.cluster_profile import load_profile
from orchestrator.cluster_profile.schema import Aws, Gcp, KubeRay, OnPrem, Profile, Slurm
from orchestrator.cluster_profile.secret_scan import SECRET_HINT, find_secrets
from orchestrator.clusters.capacity import require_capacity
from orchestrator.clusters.render.dockerfile import dockerfile
from orchestrator.clusters.render.kuberay import ray_cluster, ray_job
from orchestrator.clusters.render.mlflow_server import mlflow_server
from orchestrator.clusters.render.ray_launcher import launcher_file
from orchestrator.clusters.render.sbatch import job_script
from orchestrator.errors import RequestError
from orchestrator.job import Job, load_job

RenderedFiles = dict[str, str]


def render(profile: Profile, job: Job | None, command: str) -> RenderedFiles:
    """Render all files of a profile: file name to text.

    Args:
        profile: the cluster.
        job: the job, for clusters that start with a job.
        command: the command that the files' header comments name.

    Raises:
        RequestError: a required key is missing, the combination is not supported, or a secret would
            be written.
    """
    files = _render(profile, job, command)
    for name, text in files.items():
        if name.endswith(".yaml"):
            _refuse_secrets(name, text)
    if profile.image and job is None:
        files["Dockerfile"] = dockerfile()
    return files


def render_to(profile: str, job: str | None, overrides: list[str], out: Path) -> list[Path]:
    """Render a profile (and a job) into a folder.

    Args:
        profile: name or file of the profile.
        job: job file, for clusters that start with a job.
        overrides: `key=value` overrides of the job.
        out: the folder; made if needed.

    Returns:
        The written files.

    Raises:
        RequestError: the profile or the job is wrong (nothing is written), or the folder cannot be
            written.
    """
    loaded = load_profile(profile)
    loaded_job = load_job(job, overrides) if job else None
    command = ["orchestrator cluster render", profile, *([job] if job else []), *overrides]
    files = render(loaded, loaded_job, " ".join(command))
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (out / name).write_text(text)
    except OSError as error:
        raise RequestError(
            f"cannot be written: {error.strerror}", where=str(out), hint="name another --out"
        ) from None
    return [out / name for name in files]


def _render(profile: Profile, job: Job | None, command: str) -> RenderedFiles:
    if isinstance(profile, KubeRay):
        return _kuberay(profile, job, command)
    if isinstance(profile, Slurm):
        return _slurm(profile, job, command)
    if job is not None:
        raise RequestError(
            f"a job is not rendered for a cluster of kind {profile.kind}",
            where=f"profile '{profile.name}'",
            hint=f"bring the cluster up, then: orchestrator submit JOB --to {profile.name}",
        )
    if isinstance(profile, Aws | Gcp | OnPrem):
        return {"cluster.yaml": launcher_file(profile, command)}
    raise RequestError(
        "a local cluster has no files",
        where=f"profile '{profile.name}'",
        hint="start it by hand: RAY_AUTH_MODE=token ray start --head",
    )


def _kuberay(profile: KubeRay, job: Job | None, command: str) -> RenderedFiles:
    if job is not None:
        return {"job.yaml": ray_job(profile, job, command)}
    files = {"cluster.yaml": ray_cluster(profile, command)}
    if profile.mlflow_server:
        files["mlflow.yaml"] = mlflow_server(profile, str(profile.image), command)
    return files


def _slurm(profile: Slurm, job: Job | None, command: str) -> RenderedFiles:
    if job is None:
        raise RequestError(
            "Slurm brings Ray up for one job, so a job is needed",
            where=f"profile '{profile.name}'",
            hint=f"orchestrator cluster render {profile.name} JOB --out DIR",
        )
    require_capacity(job, profile)
    return {"job.sbatch": job_script(profile, job, command)}


def _refuse_secrets(name: str, text: str) -> None:
    found = [path for data in yaml.safe_load_all(text) for path in _secrets(data)]
    if found:
        raise RequestError(
            f"{found[0]} holds what looks like a secret; nothing was written",
            where=name,
            hint=SECRET_HINT,
        )


def _secrets(data: dict[str, Any]) -> Iterator[str]:
    """Secrets in a document, and in the job files that it carries."""
    if data.get("kind") != "ConfigMap":
        yield from find_secrets(data)
        return
    for name, text in data["data"].items():
        yield from find_secrets(yaml.safe_load(text) if name.endswith(".yaml") else text, name)
