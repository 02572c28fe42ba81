"""Start ranks without Ray, with the environment that torchrun sets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import torch
import torch.distributed as dist

from orchestrator.errors import JobFailed
from orchestrator.job import Scale
from orchestrator.ray_local import loopback_environment
from orchestrator.training.loopback_rendezvous import bind_rendezvous_to_loopback

PATIENCE_S = 1800.0


def run_ranks(world_size: int, module: str, *arguments: str) -> list[str]:
    """`python -m module *arguments` in `world` processes; the last line that each has printed.

    Raises:
        JobFailed: one of them failed; the message has its last words.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world_size)}
    common |= loopback_environment()
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]
    said = [process.communicate(timeout=PATIENCE_S) for process in ranks]
    for process, (_, error) in zip(ranks, said, strict=True):
        if process.returncode:
            raise JobFailed(f"a rank of {module} failed: {error.strip()[-500:]}")
    return [out.splitlines()[-1] for out, _ in said]


def join_process_group(scale: Scale) -> tuple[int, int, torch.device]:
    """In such a process: join the others. Gives rank, world and device; threads are shared."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(scale.threads(max(1, len(os.sched_getaffinity(0)) // world)))
    use_gpu = scale.device != "cpu" and torch.cuda.is_available()
    bind_rendezvous_to_loopback()
    dist.init_process_group("nccl" if use_gpu else "gloo")
    return rank, world, torch.device(f"cuda:{rank}" if use_gpu else "cpu")
