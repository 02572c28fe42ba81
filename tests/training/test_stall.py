"""A stall is told with the rank that causes it, not with those that wait for it."""

from __future__ import annotations

import threading

import pytest

from orchestrator.training.control.coordinator import Heartbeat, LocalCoordinator
from orchestrator.training.control.heartbeat import HeartbeatThread
from orchestrator.training.control.stall import stall_report
from tests.support.waiting import wait_until

WAITS = '  File "/site-packages/torch/distributed/distributed_c10d.py", line 3, in all_reduce\n'
READS = '  File "/home/me/mylab/augment.py", line 9, in __call__\n    while True:\n'


def beat(rank: int, since: float = 90.0, stack: str = WAITS, doing: str = "step") -> Heartbeat:
    return Heartbeat(rank, f"node-{rank}", 100 + rank, 7, doing, since, stack)


def test_nothing_is_told_while_any_rank_moves() -> None:
    assert stall_report({}, 60) is None
    assert stall_report({0: (0.1, beat(0)), 1: (0.1, beat(1, since=3.0, stack=""))}, 60) is None


def test_the_rank_that_is_not_in_a_collective_is_named_with_its_stack() -> None:
    report = stall_report({0: (0.5, beat(0)), 1: (0.5, beat(1, stack=READS, doing="data"))}, 60)
    assert report is not None
    assert "rank 1 (pid 101 on node-1)" in report
    assert "mylab/augment.py" in report
    assert "rank 0" not in report


def test_a_frozen_rank_is_named_by_its_silence() -> None:
    report = stall_report({0: (0.5, beat(0)), 1: (80.0, beat(1, since=1.0, stack=""))}, 60)
    assert report is not None
    assert "rank 1 (pid 101 on node-1) was last heard 80 s ago" in report
    assert "rank 0" not in report


def test_where_all_wait_for_each_other_the_network_is_suspect() -> None:
    report = stall_report({0: (0.5, beat(0)), 1: (0.5, beat(1))}, 60)
    assert report is not None
    assert "network" in report
    assert "rank 0" in report
    assert "rank 1" in report


def test_a_heartbeat_tells_where_a_slow_rank_stands_and_hears_the_request_to_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orchestrator.training.control.heartbeat.HEARTBEAT_INTERVAL_S", 0.1)
    board, done = LocalCoordinator(), threading.Event()
    pulses: list[HeartbeatThread] = []

    def a_slow_place() -> None:
        pulses.append(HeartbeatThread(board, 3, stack_after_s=0.2))
        pulses[0].set_phase(12, "data")
        done.wait()

    thread = threading.Thread(target=a_slow_place)
    thread.start()
    wait_until(lambda: 3 in (heard := board.read_status().heartbeats) and heard[3][1].stack)
    told = board.read_status().heartbeats[3][1]
    assert (told.step, told.phase) == (12, "data")
    assert "a_slow_place" in told.stack
    assert not pulses[0].stop_requested
    board.request_stop()
    wait_until(lambda: pulses[0].stop_requested)
    done.set()
    pulses[0].close()
    thread.join()
