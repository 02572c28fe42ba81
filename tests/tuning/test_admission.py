"""How many trials a cluster holds at once."""

from __future__ import annotations

import pytest

from orchestrator.errors import RequestError
from orchestrator.estimate.worker_capacity import CPUS_FOR_DATA, NodeResources
from orchestrator.job import Scale
from orchestrator.tuning.capacity import SweepCapacity, concurrent_trials, sweep_capacity


@pytest.mark.parametrize(
    ("workers", "nodes", "trials", "cpus"),
    [
        (1, [NodeResources(2)], 1, 1.0),
        (2, [NodeResources(2)], 1, 0.49),
        (1, [NodeResources(4)], 3, 1.0),
        (2, [NodeResources(8)], 3, 1.0),
        (2, [NodeResources(4), NodeResources(4)], 3, 1.0),
        (8, [NodeResources(4), NodeResources(4)], 1, 0.87),
    ],
)
def test_trials_at_once_leave_a_core_for_data(
    workers: int, nodes: list[NodeResources], trials: int, cpus: float
) -> None:
    found = sweep_capacity(Scale(workers=workers), nodes)
    assert found == SweepCapacity(trials, cpus, workers, on_gpus=False)
    assert concurrent_trials(nodes, found) == trials
    reserved = found.max_concurrent_trials * workers * found.cpus_per_worker
    assert reserved <= sum(node.cpus for node in nodes) - CPUS_FOR_DATA


def test_beside_gpus_the_gpus_are_what_is_shared() -> None:
    found = sweep_capacity(Scale(workers=2), [NodeResources(16, 4), NodeResources(16, 4)])
    assert (found.max_concurrent_trials, found.cpus_per_worker) == (4, 3.87)
    assert (
        sweep_capacity(Scale(workers=2, device="cpu"), [NodeResources(16, 4)]).max_concurrent_trials
        == 7
    )


def test_a_worker_cannot_span_nodes() -> None:
    # Nine cores in all, but no two of three cores on a node of four.
    assert (
        sweep_capacity(
            Scale(workers=2, cpus=3.0), [NodeResources(4), NodeResources(4), NodeResources(4)]
        ).max_concurrent_trials
        == 1
    )


def test_room_follows_nodes_that_come_and_go() -> None:
    room = sweep_capacity(Scale(workers=2), [NodeResources(5)])
    assert room.max_concurrent_trials == 2
    assert [concurrent_trials([NodeResources(5)] * n, room) for n in (0, 1, 2, 3)] == [0, 2, 4, 7]
    assert concurrent_trials([NodeResources(1)], room) == 0


@pytest.mark.parametrize(
    ("scale", "nodes", "said"),
    [
        (Scale(workers=4, cpus=3.0), [NodeResources(4), NodeResources(4)], "holds 2 such workers"),
        (Scale(workers=3), [NodeResources(16, 2)], "holds 2 such workers"),
        (Scale(workers=1, cpus=8.0), [NodeResources(4), NodeResources(4)], "holds 0 such workers"),
        (Scale(workers=1, device="gpu"), [NodeResources(8)], "holds 0 such workers"),
    ],
)
def test_a_trial_that_no_cluster_of_this_size_holds_is_refused(
    scale: Scale, nodes: list[NodeResources], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        sweep_capacity(scale, nodes)
