"""How many trials a cluster holds at once."""

from __future__ import annotations

import pytest

from orchestrator.errors import RequestError
from orchestrator.estimate.worker_capacity import FOR_DATA, Node
from orchestrator.job import Scale
from orchestrator.tuning.capacity import Room, admit, room_on


@pytest.mark.parametrize(
    ("workers", "nodes", "trials", "cpus"),
    [
        (1, [Node(2)], 1, 1.0),
        (2, [Node(2)], 1, 0.49),
        (1, [Node(4)], 3, 1.0),
        (2, [Node(8)], 3, 1.0),
        (2, [Node(4), Node(4)], 3, 1.0),
        (8, [Node(4), Node(4)], 1, 0.87),
    ],
)
def test_trials_at_once_leave_a_core_for_data(
    workers: int, nodes: list[Node], trials: int, cpus: float
) -> None:
    found = admit(Scale(workers=workers), nodes)
    assert found == Room(trials, cpus, workers, on_gpus=False)
    assert room_on(nodes, found) == trials
    reserved = found.trials * workers * found.cpus
    assert reserved <= sum(node.cpus for node in nodes) - FOR_DATA


def test_beside_gpus_the_gpus_are_what_is_shared() -> None:
    found = admit(Scale(workers=2), [Node(16, 4), Node(16, 4)])
    assert (found.trials, found.cpus) == (4, 3.87)
    assert admit(Scale(workers=2, device="cpu"), [Node(16, 4)]).trials == 7


def test_a_worker_cannot_span_nodes() -> None:
    # Nine cores in all, but no two of three cores on a node of four.
    assert admit(Scale(workers=2, cpus=3.0), [Node(4), Node(4), Node(4)]).trials == 1


def test_room_follows_nodes_that_come_and_go() -> None:
    room = admit(Scale(workers=2), [Node(5)])
    assert room.trials == 2
    assert [room_on([Node(5)] * n, room) for n in (0, 1, 2, 3)] == [0, 2, 4, 7]
    assert room_on([Node(1)], room) == 0


@pytest.mark.parametrize(
    ("scale", "nodes", "said"),
    [
        (Scale(workers=4, cpus=3.0), [Node(4), Node(4)], "holds 2 such workers"),
        (Scale(workers=3), [Node(16, 2)], "holds 2 such workers"),
        (Scale(workers=1, cpus=8.0), [Node(4), Node(4)], "holds 0 such workers"),
        (Scale(workers=1, device="gpu"), [Node(8)], "holds 0 such workers"),
    ],
)
def test_a_trial_that_no_cluster_of_this_size_holds_is_refused(
    scale: Scale, nodes: list[Node], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        admit(scale, nodes)
