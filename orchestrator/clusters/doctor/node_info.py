"""What a node says of itself: versions, GPUs, memory, limits. Runs inside a Ray worker there."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shutil
import subprocess
from pathlib import Path

from orchestrator.clusters.doctor.facts import GpuFacts

PACKAGES = ("ray", "torch", "deepspeed", "mlflow", "pyarrow", "av")
SHM = Path("/dev/shm")

_ASKED = "index,name,driver_version,memory.total,memory.used,ecc.errors.uncorrected.volatile.total"
_MIB = 2**20


def versions() -> dict[str, str]:
    """Of python, the packages that ranks must agree on, and, with GPUs, driver and NCCL."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    import torch

    found["torch"] = torch.__version__  # the metadata do not name the build: +cpu, +cu130
    if torch.version.cuda:
        found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
    driver = {row[2] for row in _nvidia_smi()}
    if driver:
        found["driver"] = ", ".join(sorted(driver))
    return found


def gpu_facts() -> tuple[GpuFacts, ...]:
    """The GPUs that the driver shows."""
    return tuple(
        GpuFacts(
            index=int(index),
            name=name,
            memory=_number(total) * _MIB,
            used=_number(used) * _MIB,
            uncorrected_ecc_errors=_number(uncorrected),
        )
        for index, name, _, total, used, uncorrected in _nvidia_smi()
    )


def _nvidia_smi() -> list[list[str]]:
    """A row for each GPU; none where there is no driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", f"--query-gpu={_ASKED}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return parse_nvidia_smi(done.stdout) if done.returncode == 0 else []


def parse_nvidia_smi(text: str) -> list[list[str]]:
    """The rows of its CSV. A name may hold a comma, so fields are counted from both ends."""
    rows = []
    for line in text.strip().splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) >= 6:
            rows.append([parts[0], ", ".join(parts[1:-4]), *parts[-4:]])
    return rows


def _number(text: str) -> int:
    """0 for what a GPU does not count: `[N/A]`."""
    return int(text) if text.isdigit() else 0


def shm_bytes() -> int:
    """Size of /dev/shm."""
    return shutil.disk_usage(SHM).total if SHM.is_dir() else 0


def open_files() -> int:
    """Files that this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def requires_token() -> bool:
    """Whether Ray's processes here ask for a token."""
    return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"


def free_bytes(path: str) -> int:
    """Free bytes of the disk that `path` is on, or would be."""
    folder = Path(path)
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
