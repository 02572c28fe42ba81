"""Room for a sweep's trials: which may train now, how far each is, and whether all shall end.

A small Ray actor beside the driver. A trial asks for room before its workers start and gives it
back when they have ended: while it is scored, and while its process starts, the workers of another
trial that is ready stand in its place. Room is counted anew from the cluster's nodes, so a sweep
follows nodes that come and go. Nobody holds some workers while it waits for others, so no two
trials can wait for each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from orchestrator.estimate.worker_capacity import NodeResources
from orchestrator.job import Scale
from orchestrator.training.control.coordinator import ClusterLost
from orchestrator.training.control.signals import Stopped
from orchestrator.training.placement import available_nodes, cluster_nodes
from orchestrator.tuning.capacity import SweepCapacity, concurrent_trials

SlotDecision = Literal["wait", "train", "stop"]

SLOT_POLL_INTERVAL_S = 0.2
NODE_REFRESH_INTERVAL_S = 1.0
"""Seconds between two looks at the nodes."""

STALE_REQUEST_S = 10.0
"""A trial that has not asked for so long is not waiting any more: its process died."""

SWEEP_ENDING = "the sweep ends before this trial trains on"


@dataclass
class SlotRequest:
    """A trial that waits for room or has it; times in seconds since 1970, by the broker's clock."""

    requested_at: float
    last_polled_at: float
    granted_at: float | None = None


@dataclass(frozen=True)
class SlotBrokerStatus:
    """What the driver shows and counts."""

    trial_phases: dict[int, tuple[str, int]] = field(default_factory=dict)
    """By trial: what it does, and after how many steps."""

    concurrent_trials: int = 0
    """Trials at once on the nodes of now."""

    worker_s: float = 0.0
    """Seconds that workers have held room, added up."""

    rooms: list[tuple[float, int]] = field(default_factory=list)
    """When `concurrent_trials` changed, and to what."""


class SlotBroker:
    """The broker's state; inside an actor under Ray."""

    def __init__(
        self, room: SweepCapacity, list_nodes: Callable[[], Sequence[NodeResources]] = cluster_nodes
    ) -> None:
        self._room, self._look = room, list_nodes
        self._places: dict[int, SlotRequest] = {}
        self._doing: dict[int, tuple[str, int]] = {}
        self._stop = False
        self._worker_s = 0.0
        self._looked = time.monotonic()
        self._rooms = [(time.time(), room.max_concurrent_trials)]

    def acquire(self, number: int) -> SlotDecision:
        """Asked again and again until the answer is not `wait`. The lowest number goes first."""
        if self._stop:
            self._places.pop(number, None)
            return "stop"
        now = time.time()
        place = self._places.setdefault(number, SlotRequest(now, now))
        place.last_polled_at = now
        if place.granted_at is not None:  # its process died and was started again
            return "train"
        there = self._trials_at_once()
        ready = {n: p for n, p in self._places.items() if now - p.last_polled_at < STALE_REQUEST_S}
        training = sum(place.granted_at is not None for place in self._places.values())
        first = min(n for n, place in ready.items() if place.granted_at is None)
        if training < there and number == first:
            place.granted_at = now
            return "train"
        return "wait"

    def leaves(self, number: int) -> dict[str, float]:
        """Its workers have ended: when it asked for room, had it and gave it back."""
        place = self._places.pop(number, None)
        if place is None or place.granted_at is None:
            return {}
        now = time.time()
        self._worker_s += (now - place.granted_at) * self._room.workers_per_trial
        return {"asked": place.requested_at, "granted": place.granted_at, "released": now}

    def report(self, number: int, doing: str, step: int) -> bool:
        """What a trial does now, after so many steps. Gives whether all shall end."""
        self._doing[number] = (doing, step)
        return self._stop

    def request_stop(self) -> None:
        """No workers start any more, and those that run are saved and end."""
        self._stop = True

    def status(self) -> SlotBrokerStatus:
        """Everything so far."""
        now = time.time()
        held = [now - p.granted_at for p in self._places.values() if p.granted_at is not None]
        worker_s = self._worker_s + sum(held) * self._room.workers_per_trial
        return SlotBrokerStatus(
            dict(self._doing), self._trials_at_once(), worker_s, list(self._rooms)
        )

    def _trials_at_once(self) -> int:
        if time.monotonic() - self._looked > NODE_REFRESH_INTERVAL_S:
            self._looked = time.monotonic()
            there = concurrent_trials(self._look(), self._room)
            if there != self._rooms[-1][1]:
                self._rooms.append((time.time(), there))
        return self._rooms[-1][1]


def start_slot_broker(room: SweepCapacity, scale: Scale) -> Any:
    """Start the actor beside the driver; it dies with the driver, and with no other node.

    Nodes that the cluster starts when asked (`scale.nodes`) count as there.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(SlotBroker).remote(
        room, partial(available_nodes, scale)
    )


class TrialSlot:
    """The gate of one trial's training: it asks the broker, and tells it how far it is."""

    def __init__(self, broker: Any, number: int) -> None:
        self._desk, self._number = broker, number
        self.span_times: dict[str, float] = {}
        """Of the last training: when it asked for room, had it and gave it back."""

        self.step = 0

    def wait_for_nodes(self) -> None:
        """Wait while the cluster is too small for a single trial: nodes went, and may come.

        Raises:
            Stopped: the sweep ends.
            ClusterLost: the broker is gone.
        """
        while self._ask("status").concurrent_trials == 0:
            if self.report_phase("waits for nodes"):
                raise Stopped(SWEEP_ENDING)
            time.sleep(NODE_REFRESH_INTERVAL_S)

    @contextmanager
    def acquired(self) -> Iterator[None]:
        """Wait for room, and give it back.

        Raises:
            Stopped: the sweep ends.
            ClusterLost: the broker is gone.
        """
        self.report_phase("waits")
        while (answer := self._ask("acquire", self._number)) == "wait":
            time.sleep(SLOT_POLL_INTERVAL_S)
        if answer == "stop":
            raise Stopped(SWEEP_ENDING)
        self.report_phase("starts")
        try:
            yield
        finally:
            self.span_times = self._ask("leaves", self._number)

    def should_stop(self) -> bool:
        """Whether the sweep ends."""
        return self.report_phase("trains" if self.step else "starts")

    def report_phase(self, doing: str) -> bool:
        """What the trial does now; gives whether the sweep ends."""
        return bool(self._ask("report", self._number, doing, self.step))

    # As a progress: how far the training is.

    def update(
        self, phase: str, done: float, total: float, facts: dict[str, float | str] | None = None
    ) -> None:
        """Steps are done."""
        if phase == "train":
            self.step = max(self.step, int(done))

    def message(self, text: str) -> None:
        """A trial's own words are on its run; the table has no room for them."""

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A training shows none."""

    def _ask(self, name: str, *args: Any) -> Any:
        import ray

        try:
            return ray.get(getattr(self._desk, name).remote(*args))
        except ray.exceptions.RayError as error:
            raise ClusterLost.from_ray_error(error) from None
