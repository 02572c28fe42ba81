"""What an accelerator can do at best: dense bf16 peaks and memory, from NVIDIA's data sheets."""

from __future__ import annotations

import re
from dataclasses import dataclass

from orchestrator.errors import RequestError, suggest

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU. `peak` in dense bf16 FLOP/s, `memory` in bytes as the driver shows it."""

    name: str
    peak: float | None
    memory: float


# Dense bf16 tensor-core peaks. NVIDIA prints the figure with 2:4 sparsity, which is twice as
# much: A100 data sheet (624), H100 data sheet (1,979 SXM; 1,513 PCIe; 1,671 NVL), H200 data
# sheet (1,979 SXM; 1,671 NVL), DGX B200 data sheet (36 PFLOPS for 8 GPUs, sparse).
# The patterns are tried in this order against a device's name; the first that is found counts.
_GPUS_BY_PATTERN: tuple[tuple[str, Gpu], ...] = (
    (r"a100.*40\s*gb", Gpu("a100-40gb", 312e12, 40 * GIB)),
    (r"a100", Gpu("a100", 312e12, 80 * GIB)),
    (r"h100.*nvl", Gpu("h100-nvl", 835.5e12, 93 * GIB)),
    (r"h100.*pcie", Gpu("h100-pcie", 756.5e12, 79 * GIB)),
    (r"h100", Gpu("h100", 989.5e12, 79 * GIB)),
    (r"h200.*nvl", Gpu("h200-nvl", 835.5e12, 139 * GIB)),
    # A Grace Hopper's GPU is the same chip, but its name ends in 200: it must not pass for one.
    (r"(?<!g)h200", Gpu("h200", 989.5e12, 139 * GIB)),
    (r"(?<!g)b200", Gpu("b200", 2250e12, 178 * GIB)),
)

GPUS: dict[str, Gpu] = {gpu.name: gpu for _, gpu in _GPUS_BY_PATTERN}


def peak_flops(device_name: str) -> float | None:
    """Dense bf16 FLOP/s of a device as torch names it; None where no peak is known."""
    gpu = _by_device_name(device_name)
    return gpu.peak if gpu else None


def gpu_by_name(text: str) -> Gpu | None:
    """The GPU that a profile, Kubernetes or Slurm means: `h200`, `nvidia-h100-80gb-hbm3`; None
    where nothing is known of it."""
    return GPUS.get(text.lower()) or _by_device_name(text)


def find_gpu(text: str) -> Gpu:
    """A GPU by its name (`h200`), or an unnamed one by its memory in GiB (`24`).

    Raises:
        RequestError: neither a known name nor a number of GiB.
    """
    if re.fullmatch(r"\d+(\.\d+)?", text) and float(text) > 0:
        return Gpu("a GPU", None, float(text) * GIB)
    gpu = gpu_by_name(text)
    if gpu is None:
        raise RequestError(
            f"unknown GPU '{text}'",
            where="--gpu",
            hint=f"{suggest(text.lower(), list(GPUS))}; or give its memory in GiB: --gpu 24",
        )
    return gpu


def _by_device_name(name: str) -> Gpu | None:
    for pattern, gpu in _GPUS_BY_PATTERN:
        if re.search(pattern, name, re.IGNORECASE):
            return gpu
    return None
