"""The group of ranks that train together: under Ray Train, or one process alone."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from orchestrator.ray_local import loopback_environment


@dataclass(frozen=True)
class DistributedContext:
    """Who this process is among the ranks. torch.distributed is initialised."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: torch.device
    broadcast: Callable[[Any], Any] | None
    """Broadcast from rank 0 (every rank calls it); None when there is no Ray."""

    @property
    def is_main(self) -> bool:
        """Rank 0 logs, decides what is kept and writes the last marker."""
        return self.rank == 0

    @property
    def cores_per_rank(self) -> int:
        """CPU cores of this host for each of its ranks."""
        return max(1, len(os.sched_getaffinity(0)) // self.local_world_size)


def ray_context() -> DistributedContext:
    """The group that Ray Train made; called inside its workers."""
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    return DistributedContext(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        local_rank=context.get_local_rank(),
        local_world_size=context.get_local_world_size(),
        device=device,
        broadcast=lambda value: broadcast_object(value, device),
    )


def local_context(device: str) -> DistributedContext:
    """A group of one, in this process: no Ray, a debugger works.

    The process group stays for the process's life, since DeepSpeed remembers the first one.
    """
    use_gpu = device == "gpu" or (device == "auto" and torch.cuda.is_available())
    if not dist.is_initialized():
        os.environ.update(loopback_environment())
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
        atexit.register(dist.destroy_process_group)
    return DistributedContext(
        0, 1, 0, 1, torch.device("cuda:0" if use_gpu else "cpu"), broadcast=None
    )


def broadcast_object(value: Any, device: torch.device) -> Any:
    """`value` of rank 0 on every rank: a collective, for the main thread only."""
    box = [value]
    dist.broadcast_object_list(box, src=0, device=device)
    return box[0]
