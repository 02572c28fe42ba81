"""What a run ran on: versions, hardware, and the commit of the user's folder."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

from orchestrator.tracking.code_version import packaged_git_tags

PACKAGES = ("torch", "ray", "deepspeed", "mlflow", "av", "pyarrow", "numpy", "safetensors")


def runtime_info() -> dict[str, Any]:
    """Versions and hardware of this machine, as plain data."""
    from orchestrator.version import __version__

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "orchestrator": __version__,
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in PACKAGES},
        "cuda": torch.version.cuda,
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": gpus[0] if gpus else None,
        "gpus": len(gpus),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git_tags(folder: Path) -> dict[str, str]:
    """MLflow's tags for the commit that `folder` is at; empty where it is no git checkout, nor
    unpacked from one by `submit`."""
    packed = packaged_git_tags(folder)
    if packed:
        return packed
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {}
    branch = _git(folder, "rev-parse", "--abbrev-ref", "HEAD")
    return {
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.branch": branch or "",
        "mlflow.source.git.dirty": "true" if _git(folder, "status", "--porcelain") else "false",
    }


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
