"""What a node can do: the rate of a matrix product, and all-reduce with other nodes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import torch
import torch.distributed as dist

from orchestrator.clusters.doctor.facts import Gpu
from orchestrator.training.loopback_rendezvous import open_store

CPU_SIDE, GPU_SIDE = 1024, 8192
TIMES = 6
BYTES = {"gloo": 2**24, "nccl": 2**28}
MEETING_S = 60.0
"""Seconds that a node waits for the others."""


def cpu_flops(threads: int) -> float:
    """FLOP/s of a product of two square matrices in fp32: the best of several."""
    torch.set_num_threads(threads)
    a = torch.ones(CPU_SIDE, CPU_SIDE)
    return 2 * CPU_SIDE**3 / _best(lambda: a @ a)


def measured(gpu: Gpu, side: int = GPU_SIDE) -> Gpu:
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

        return replace(gpu, flops=2 * side**3 / _best(multiply))
    except (RuntimeError, AssertionError) as error:  # CUDA's, and that of a torch without CUDA
        return replace(gpu, error=str(error).strip().splitlines()[0])


def _best(call: Callable[[], object]) -> float:
    """Seconds of the fastest of several calls, after one that does not count."""
    call()
    seconds = []
    for _ in range(TIMES):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def all_reduce(rank: int, world: int, host: str, port: int, backend: str) -> float:
    """Bytes per second that each of `world` processes moves in an all-reduce.

    Counted as a ring moves them, 2 (n - 1) / n of the tensor, so that the figure is the
    network's and does not depend on the number of nodes. Every rank calls it.

    Raises:
        RuntimeError: the processes do not find each other.
    """
    patience = timedelta(seconds=MEETING_S)
    store = open_store(host, port, world, leads=rank == 0, timeout=patience)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=patience)
    try:
        device = torch.device("cuda", 0) if backend == "nccl" else torch.device("cpu")
        tensor = torch.zeros(BYTES[backend] // 4, device=device)

        def reduce() -> None:
            dist.all_reduce(tensor)
            if backend == "nccl":
                torch.cuda.synchronize(device)

        return 2 * (world - 1) / world * BYTES[backend] / _best(reduce)
    finally:
        # The store is rank 0's: nobody may leave before all are done.
        dist.barrier()
        dist.destroy_process_group()
