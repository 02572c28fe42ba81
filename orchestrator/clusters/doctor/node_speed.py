"""What a node can do: the rate of a matrix product, and all-reduce with other nodes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import torch
import torch.distributed as dist

from orchestrator.clusters.doctor.facts import GpuFacts
from orchestrator.training.loopback_rendezvous import open_tcp_store

CPU_SIDE, GPU_SIDE = 1024, 8192
REPEATS = 6
BYTES = {"gloo": 2**24, "nccl": 2**28}
RENDEZVOUS_TIMEOUT_S = 60.0
"""Seconds that a node waits for the others."""


def cpu_flops(threads: int) -> float:
    """FLOP/s of a product of two square matrices in fp32: the best of several."""
    torch.set_num_threads(threads)
    a = torch.ones(CPU_SIDE, CPU_SIDE)
    return 2 * CPU_SIDE**3 / _fastest_s(lambda: a @ a)


def measure_gpu(gpu: GpuFacts, side: int = GPU_SIDE) -> GpuFacts:
    """The GPU with its rate in bf16, or with the reason why it computes nothing, or wrongly."""
    try:
        device = torch.device("cuda", gpu.index)
        # A power of two of ones adds up to a power of two, which bf16 holds exactly.
        a = torch.ones(side, side, device=device, dtype=torch.bfloat16)
        product = a @ a
        if not bool((product == side).all()):
            return replace(gpu, error="a product of two matrices of ones is wrong")

        def multiply() -> None:
            torch.mm(a, a, out=product)
            torch.cuda.synchronize(device)

        return replace(gpu, bf16_flops_per_s=2 * side**3 / _fastest_s(multiply))
    except (RuntimeError, AssertionError) as error:  # CUDA's, and that of a torch without CUDA
        return replace(gpu, error=str(error).strip().splitlines()[0])


def _fastest_s(call: Callable[[], object]) -> float:
    """Seconds of the fastest of several calls, after one that does not count."""
    call()
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def measure_all_reduce(rank: int, world_size: int, host: str, port: int, backend: str) -> float:
    """Bytes per second that each of `world_size` processes moves in an all-reduce.

    Counted as a ring moves them, 2 (n - 1) / n of the tensor, so that the figure is the
    network's and does not depend on the number of nodes. Every rank calls it.

    Raises:
        RuntimeError: the processes do not find each other.
    """
    patience = timedelta(seconds=RENDEZVOUS_TIMEOUT_S)
    store = open_tcp_store(host, port, world_size, is_main=rank == 0, timeout=patience)
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=world_size, timeout=patience
    )
    try:
        device = torch.device("cuda", 0) if backend == "nccl" else torch.device("cpu")
        tensor = torch.zeros(BYTES[backend] // 4, device=device)

        def reduce() -> None:
            dist.all_reduce(tensor)
            if backend == "nccl":
                torch.cuda.synchronize(device)

        return 2 * (world_size - 1) / world_size * BYTES[backend] / _fastest_s(reduce)
    finally:
        # The store is rank 0's: nobody may leave before all are done.
        dist.barrier()
        dist.destroy_process_group()
