"""Who may train: room in turn, followed as nodes come and go, and given back."""

from __future__ import annotations

import pytest

from orchestrator.estimate.worker_capacity import NodeResources
from orchestrator.tuning import slot_broker as desks
from orchestrator.tuning.capacity import SweepCapacity
from orchestrator.tuning.slot_broker import SlotBroker


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    monotonic = time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(desks, "time", clock)
    return clock


class Cluster:
    """Nodes of four worker slots and a core for data; trials of two workers."""

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes

    def __call__(self) -> list[NodeResources]:
        return [NodeResources(5)] * self.nodes

    def desk(self) -> SlotBroker:
        return SlotBroker(SweepCapacity(2 * self.nodes, 1.0, 2, on_gpus=False), self)


def asked(desk: SlotBroker, *numbers: int) -> list[str]:
    return [desk.acquire(number) for number in numbers]


def test_room_is_given_in_turn_and_given_back(clock: Clock) -> None:
    desk = Cluster(1).desk()
    assert asked(desk, 5, 3, 7, 4) == ["train", "train", "wait", "wait"]
    assert asked(desk, 5) == ["train"], "its process died and asks again: the room is its own"
    clock.now += 6
    found = desk.leaves(5)
    assert found == {"asked": 1000.0, "granted": 1000.0, "released": 1006.0}
    assert asked(desk, 7, 4, 7) == ["wait", "train", "wait"], "the lower number goes first"
    clock.now += 4
    assert desk.status().worker_s == 2 * (6 + 10 + 4)
    assert desk.leaves(9) == {}, "one that never had room"


def test_who_no_longer_asks_keeps_nobody_waiting(clock: Clock) -> None:
    desk = Cluster(1).desk()
    asked(desk, 0, 1, 2, 3)
    desk.leaves(0)
    clock.now += desks.STALE_REQUEST_S + 1
    assert asked(desk, 3) == ["train"], "the process of 2 has died"


def test_room_follows_the_nodes(clock: Clock) -> None:
    cluster = Cluster(1)
    desk = cluster.desk()
    assert asked(desk, 0, 1, 2, 3, 4) == ["train", "train", "wait", "wait", "wait"]
    cluster.nodes = 2
    clock.now += 2
    assert asked(desk, 2, 3, 4) == ["train", "train", "wait"]
    cluster.nodes = 1
    clock.now += 2
    desk.leaves(0)
    desk.leaves(1)
    assert asked(desk, 4) == ["wait"], "two of the four still train"
    desk.leaves(2)
    assert asked(desk, 4) == ["train"]
    cluster.nodes = 0
    clock.now += 2
    desk.leaves(3)
    desk.leaves(4)
    assert asked(desk, 5) == ["wait"]
    assert [room for _, room in desk.status().rooms] == [2, 4, 2, 0]


def test_at_the_end_nobody_starts_and_all_hear_of_it(clock: Clock) -> None:
    desk = Cluster(1).desk()
    assert asked(desk, 0, 1, 2) == ["train", "train", "wait"]
    assert not desk.report(0, "trains", 7)
    desk.request_stop()
    assert desk.report(0, "trains", 8)
    assert asked(desk, 2, 3) == ["stop", "stop"]
    assert desk.status().trial_phases == {0: ("trains", 8)}
