"""A hundred resumes in a row: the losses of a run that nothing happened to, and nothing grows."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from orchestrator.bench.fault_injection import RunHarness
from orchestrator.training.audit import audit_run
from orchestrator.training.checkpoints.manager import checkpoint_step, list_complete_checkpoints
from tests.support.faults import make_arena

RESUMES = 100


def measured(arena: RunHarness, name: str, driver: psutil.Process) -> dict[str, int]:
    """What could leak, in the driver and on the machine."""
    family = driver.children(recursive=True)
    return {
        "bytes in memory": driver.memory_info().rss,
        "open files": driver.num_fds(),
        "threads": driver.num_threads(),
        "processes": len([p for p in family if p.status() != psutil.STATUS_ZOMBIE]),
        "bytes of checkpoints": sum(f.size for f in arena.checkpoints(name).files()),
        "checkpoints": len(list_complete_checkpoints(arena.checkpoints(name))),
    }


@pytest.mark.nightly
def test_a_hundred_resumes(tmp_path: Path) -> None:
    """A rank is killed as soon as the run has gone on and saved, again and again."""
    arena = make_arena(tmp_path, "optim.steps=1500", "checkpoint.every=2")
    process, name = arena.start("often"), "often"
    driver, seen, killed = psutil.Process(process.pid), [], []
    for count in range(RESUMES):

        def ready(before: list[int] = killed) -> bool:
            ranks = arena.workers(name).get("ranks", [])
            there = list_complete_checkpoints(arena.checkpoints(name))
            pids = [rank["pid"] for rank in ranks]
            return bool(there) and bool(pids) and not set(pids) & set(before)

        arena.wait_for(process, name, ready, every_s=0.05)
        pids = [rank["pid"] for rank in arena.workers(name)["ranks"]]
        at = checkpoint_step(list_complete_checkpoints(arena.checkpoints(name))[-1])
        arena.wait_for(
            process,
            name,
            lambda at=at: (
                checkpoint_step(list_complete_checkpoints(arena.checkpoints(name))[-1]) > at
            ),
        )
        if count in (10, RESUMES - 1):
            seen.append(measured(arena, name, driver))
        os.kill(pids[count % len(pids)], signal.SIGKILL)
        killed += pids
    arena.finish(process, name)
    print(seen)
    early, late = seen
    assert late["open files"] <= early["open files"] + 5
    assert late["threads"] <= early["threads"] + 5
    assert late["processes"] <= early["processes"] + 2
    assert late["bytes in memory"] < early["bytes in memory"] + 100 * 2**20
    assert late["checkpoints"] <= early["checkpoints"] + 1
    assert late["bytes of checkpoints"] < 2 * early["bytes of checkpoints"]
    assert arena.losses(name) == arena.losses("calm")
    assert arena.weights_digest(name) == arena.weights_digest("calm")
    report = audit_run(arena.storage, name)
    assert report.good, report.wrong
    assert not [pid for pid in killed if psutil.pid_exists(pid) and _trains(pid, time.time())]


def _trains(pid: int, now: float) -> bool:
    """Whether a process is an old worker still (and not another of its number)."""
    try:
        process = psutil.Process(pid)
        return "RayTrainWorker" in " ".join(process.cmdline()) and process.create_time() < now
    except psutil.NoSuchProcess:
        return False
