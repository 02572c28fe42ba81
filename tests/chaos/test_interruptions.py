"""Stops, other sizes, frozen ranks, drained nodes: the training goes on as it would have."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from orchestrator.bench.fault_injection import Arena, cluster_of_nodes
from orchestrator.training.audit import audit_run
from orchestrator.training.checkpoints.manager import complete_checkpoints, step_of
from tests.support.audit_objective import PACE
from tests.support.faults import make_arena


def newest(arena: Arena, name: str) -> int:
    """The newest committed step; 0 for none."""
    there = complete_checkpoints(arena.checkpoints(name))
    return step_of(there[-1]) if there else 0


def log(arena: Arena, name: str) -> str:
    return (arena.folder / f"{name}.log").read_text()


ROUNDED = 60
"""Steps within which rounding stays small. A run of `jobs/chaos/struck.yaml` whose weights differed
in their last bit was 1e-7 away at step 60, and 2e-5 at step 100; later steps are compared with such
a run (`Nudged`)."""


def apart(arena: Arena, name: str) -> list[float]:
    """Distance of every step's loss from the uninterrupted run's."""
    expected, found = arena.losses("calm"), arena.losses(name)
    assert [step for step, _ in found] == [step for step, _ in expected]
    return [abs(a - b) for (_, a), (_, b) in zip(expected, found, strict=True)]


@pytest.mark.nightly
def test_four_two_three_one_workers_at_stages_one_three_two_zero(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is stopped by SIGTERM, which saves; the same name goes on at another size."""
    name = "sizes"
    sizes, begins = [(4, 1), (2, 3), (3, 2), (1, 0)], []

    def start() -> subprocess.Popen[bytes]:
        workers, zero = sizes[len(begins)]
        begins.append(newest(arena, name))
        return arena.start(name, scale__workers=workers, scale__zero=zero, scale__cpus=0.2)

    with monkeypatch.context() as patch:
        patch.setitem(arena.env, PACE, "0.2")
        for _ in sizes[:-1]:
            process = start()
            arena.wait_for(
                process, name, lambda: newest(arena, name) >= begins[-1] + 5, every_s=0.002
            )
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 128 + signal.SIGTERM
            assert "stopped and saved after" in log(arena, name)
    arena.finish(start(), name)
    assert sorted(set(begins)) == begins, "every size trained some steps"
    assert begins[-1] < ROUNDED, "every size is compared before rounding grows"
    arena.finish(
        arena.start("nudged", objective__kind="tests.support.audit_objective:Nudged"), "nudged"
    )
    sizes_apart, bits_apart = apart(arena, name), apart(arena, "nudged")
    assert max(sizes_apart[:ROUNDED]) <= 1e-5
    assert max(sizes_apart) <= max(1e-5, 10 * max(bits_apart)), "rounding is all that parts them"
    assert audit_run(arena.storage, name).good
    files = sorted((arena.folder / "seen").glob(f"{name}.*"))
    assert len(files) >= sum(workers for workers, _ in sizes)


@pytest.mark.nightly
def test_a_frozen_rank_is_named_and_left_behind(arena: Arena) -> None:
    name = "frozen"
    process = arena.start(name, scale__timeout=30)
    arena.wait_for(process, name, lambda: newest(arena, name) >= 10 and arena.workers(name))
    frozen = arena.workers(name)["ranks"][1]
    os.kill(frozen["pid"], signal.SIGSTOP)
    arena.finish(process, name)
    told = log(arena, name)
    assert f"rank {frozen['rank']} (pid {frozen['pid']} on {frozen['node']}) was last heard" in told
    (report,) = arena.storage.files(f"runs/{name}/stalls")
    assert str(frozen["pid"]) in arena.storage.read_bytes(report.path).decode()
    assert max(apart(arena, name)) == 0.0
    assert audit_run(arena.storage, name).good


@pytest.mark.nightly
def test_nodes_leave_and_come(tmp_path: Path) -> None:
    """A notice gives a checkpoint, a lost node a smaller group, a new node a larger one."""
    elastic = "scale.workers={min: 1, max: 2, resize_s: 2}"
    arena, name = make_arena(tmp_path, elastic, "optim.steps=600", "checkpoint.every=50"), "elastic"
    with cluster_of_nodes(arena, spare=0) as nodes:
        process = arena.start(name)
        arena.wait_for(process, name, lambda: arena.workers(name))
        nodes.drain_one(deadline_s=60)
        arena.wait_for(process, name, lambda: "is taken away" in log(arena, name))
        arena.wait_for(process, name, lambda: newest(arena, name) % 50)
        saved = newest(arena, name)
        nodes.kill_one()
        arena.wait_for(process, name, lambda: "on 1 worker(s)" in log(arena, name))
        resumed = [line for line in log(arena, name).splitlines() if "on 1 worker(s)" in line]
        assert int(resumed[0].split()[3]) >= saved
        nodes.add()
        arena.wait_for(process, name, lambda: "on 2 worker(s)" in log(arena, name))
        arena.finish(process, name)
        parted = apart(arena, name)
    # The sizes changed within the first steps.
    assert max(parted[:ROUNDED]) <= 1e-5
    assert audit_run(arena.storage, name).good


@pytest.mark.nightly
def test_a_head_node_is_killed_and_the_run_goes_on_in_another_cluster(tmp_path: Path) -> None:
    arena, name = make_arena(tmp_path), "headless"
    with cluster_of_nodes(arena, spare=0) as nodes:
        arena.run_calm("calm-nodes")
        expected = arena.losses("calm-nodes")  # its server goes with this cluster
        process = arena.start(name)
        arena.wait_for(process, name, lambda: newest(arena, name) >= 40)
        nodes.kill_head()
        assert process.wait(300) == 1
    stood = newest(arena, name)
    said = log(arena, name)
    assert "the Ray cluster is gone" in said
    assert "Traceback" not in said
    with cluster_of_nodes(arena, spare=0):
        arena.finish(arena.start(name), name)
        (resumed,) = re.findall(r"resumed at step (\d+)", log(arena, name)[len(said) :])
        # Workers live on for some seconds, and may commit once more.
        assert int(resumed) >= stood
        assert arena.losses(name) == expected
        assert arena.weights(name) == arena.weights("calm-nodes")
    assert audit_run(arena.storage, name).good


@pytest.mark.integration
def test_an_error_that_no_restart_mends_is_one_line_and_the_end(arena: Arena) -> None:
    process = arena.start("capped", checkpoint__max_bytes=1000)
    assert process.wait(120) == 1
    said = log(arena, "capped")
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: checkpoint.max_bytes: a checkpoint takes")
    assert "Traceback" not in said
