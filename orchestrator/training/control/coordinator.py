"""What the workers and the driver tell each other: progress, a wish to stop, what is wrong.

A small Ray actor on the driver's node. It outlives the workers, so an error that no restart
can mend is known to the next attempt before it loads anything.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from orchestrator.errors import JobFailed, OrchestratorError

MAX_ATTEMPTS_WITHOUT_PROGRESS = 4
"""Attempts that may begin at the same step: a training that gets no further is not started again.
One that does may be interrupted any number of times."""


@dataclass(frozen=True)
class Heartbeat:
    """What a rank was doing when it was last heard of."""

    rank: int
    node: str
    pid: int
    step: int
    phase: str
    """`starting`, `data`, `step`, `saving`, `judging`."""

    seconds_in_phase: float
    """Seconds it had been doing that."""

    stack: str = ""
    """Where its main thread stood, innermost frame last; empty while nothing is slow."""


@dataclass
class RunStatus:
    """The state that the driver shows."""

    step: int = 0
    attempt: int = 0
    first_step_at: float | None = None
    """When the first step of the first attempt was done; seconds since 1970."""

    attempt_first_step_at: float | None = None
    """The same of the present attempt."""

    progress_facts: dict[str, float | str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    fatal_error: OrchestratorError | None = None
    outcome: dict[str, Any] = field(default_factory=dict)
    stop_requested: bool = False
    """The driver wants the training to be saved and ended."""

    stopped_at: int | None = None
    """The step at which that was done."""

    rollbacks: int = 0
    resume_step: int = -1
    attempts_without_progress: int = 0
    """Attempts in a row that began at that step."""

    attempts_without_start: int = 0
    """Attempts in a row that ended before they had gone on from any step."""

    last_worker_error: str = ""
    """What the last worker that raised said."""

    last_worker_traceback: str = ""
    """Its traceback."""

    heartbeats: dict[int, tuple[float, Heartbeat]] = field(default_factory=dict)
    """By rank, what was heard last; as read: with the seconds since then."""


class RunCoordinator(Protocol):
    """Where a worker posts."""

    def start_attempt(self) -> int: ...
    def report_progress(self, step: int, facts: dict[str, float | str]) -> None: ...
    def heartbeat(self, beat: Heartbeat) -> bool: ...
    def request_stop(self) -> None: ...
    def report_stopped(self, step: int) -> None: ...
    def request_rollback(self) -> bool: ...
    def report_resume_step(self, step: int) -> None: ...
    def report_worker_error(self, reason: str, details: str = "") -> None: ...
    def report_first_step(self, at: float) -> None: ...
    def notify(self, text: str) -> None: ...
    def report_fatal(self, error: OrchestratorError) -> None: ...
    def report_finished(self, outcome: dict[str, Any]) -> None: ...
    def read_status(self) -> RunStatus: ...


class LocalCoordinator:
    """The coordinator's state; used directly in a local run, inside an actor under Ray."""

    def __init__(self) -> None:
        self.status = RunStatus()
        # In a local run the trainer posts while another thread reads.
        self._lock = threading.Lock()

    def start_attempt(self) -> int:
        """A new start of the worker group: its number, from 1; 0 where none is wanted any more,
        because of an error that no start mends, or as none gets as far as a step."""
        with self._lock:
            if self.status.attempts_without_start >= MAX_ATTEMPTS_WITHOUT_PROGRESS:
                text = (
                    f"the workers died {MAX_ATTEMPTS_WITHOUT_PROGRESS} times before the first step"
                )
                self.status.fatal_error = self.status.fatal_error or self._no_progress_error(text)
            if self.status.fatal_error is not None:
                return 0
            self.status.attempt += 1
            self.status.attempts_without_start += 1
            self.status.heartbeats, self.status.attempt_first_step_at = {}, None
        return self.status.attempt

    def report_progress(self, step: int, facts: dict[str, float | str]) -> None:
        """Progress: `step` optimizer steps are done."""
        with self._lock:
            self.status.step, self.status.progress_facts = step, facts

    def heartbeat(self, beat: Heartbeat) -> bool:
        """A rank lives. Gives whether the training should stop."""
        with self._lock:
            self.status.heartbeats = {**self.status.heartbeats, beat.rank: (time.monotonic(), beat)}
        return self.status.stop_requested

    def request_stop(self) -> None:
        """Save and end the training, soon."""
        with self._lock:
            self.status.stop_requested = True

    def report_stopped(self, step: int) -> None:
        """It was saved after `step` steps and ended, as was asked."""
        with self._lock:
            self.status.stopped_at = step

    def report_resume_step(self, step: int) -> None:
        """The present attempt goes on from `step`.

        Raises:
            JobFailed: the attempts before it went on from there too, and got no further.
        """
        with self._lock:
            news, self.status.attempts_without_start = self.status, 0
            news.attempts_without_progress = (
                news.attempts_without_progress + 1 if step == news.resume_step else 1
            )
            news.resume_step = step
            if news.attempts_without_progress > MAX_ATTEMPTS_WITHOUT_PROGRESS:
                raise self._no_progress_error(
                    f"the workers died {MAX_ATTEMPTS_WITHOUT_PROGRESS} times without getting from"
                    f" step {step} to another checkpoint"
                )

    def _no_progress_error(self, text: str) -> JobFailed:
        news = self.status
        return JobFailed(
            f"{text}; the last: {news.last_worker_error}" if news.last_worker_error else text,
            hint="what is saved stands: the same command continues from it; --debug shows more",
            details=news.last_worker_traceback,
        )

    def report_worker_error(self, reason: str, details: str = "") -> None:
        """A worker ends with an error that a new start may mend; `details` is its traceback."""
        with self._lock:
            self.status.last_worker_error, self.status.last_worker_traceback = reason, details

    def request_rollback(self) -> bool:
        """May the training go back to its last checkpoint? Once in a launch it may."""
        with self._lock:
            self.status.rollbacks += 1
        return self.status.rollbacks == 1

    def report_first_step(self, at: float) -> None:
        """Wall-clock time (seconds) at which the first step ended."""
        with self._lock:
            self.status.first_step_at = self.status.first_step_at or at
            self.status.attempt_first_step_at = at

    def notify(self, text: str) -> None:
        """A line for the person at the terminal."""
        with self._lock:
            self.status.messages.append(text)

    def report_fatal(self, error: OrchestratorError) -> None:
        """An error that starting again cannot mend."""
        with self._lock:
            self.status.fatal_error = error

    def report_finished(self, outcome: dict[str, Any]) -> None:
        """The last step is done and saved."""
        with self._lock:
            self.status.outcome = outcome

    def read_status(self) -> RunStatus:
        """Everything so far; messages are handed over once."""
        with self._lock:
            news = self.status
            self.status = replace(news, messages=[])
            now = time.monotonic()
            ages = {rank: (now - at, beat) for rank, (at, beat) in news.heartbeats.items()}
        return replace(news, heartbeats=ages)


class ClusterLost(JobFailed):
    """The driver's cluster no longer answers."""

    @classmethod
    def from_ray_error(cls, error: Exception) -> ClusterLost:
        """What Ray raised, for a person."""
        return cls(
            f"the Ray cluster is gone: {str(error).splitlines()[0]}",
            hint="when it is back, the same command continues from the last checkpoint",
        )


class RayCoordinator:
    """A handle on the coordinator's actor, as workers hold it. Reporting progress never waits."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    @classmethod
    def create(cls) -> RayCoordinator:
        """Start the actor beside the driver; it dies with the driver, and with no other node."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(num_cpus=0, scheduling_strategy=here)(LocalCoordinator)
        return cls(actor.remote())

    def start_attempt(self) -> int:
        import ray

        return int(ray.get(self.actor.start_attempt.remote()))

    def report_progress(self, step: int, facts: dict[str, float | str]) -> None:
        self.actor.report_progress.remote(step, facts)

    def heartbeat(self, beat: Heartbeat) -> bool:
        """Waits for the answer, so it is for a thread of its own."""
        import ray

        return bool(ray.get(self.actor.heartbeat.remote(beat)))

    def request_stop(self) -> None:
        self.actor.request_stop.remote()

    def report_stopped(self, step: int) -> None:
        import ray

        ray.get(self.actor.report_stopped.remote(step))

    def report_resume_step(self, step: int) -> None:
        import ray

        try:
            ray.get(self.actor.report_resume_step.remote(step))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None

    def report_worker_error(self, reason: str, details: str = "") -> None:
        self.actor.report_worker_error.remote(reason, details)

    def request_rollback(self) -> bool:
        import ray

        return bool(ray.get(self.actor.request_rollback.remote()))

    def report_first_step(self, at: float) -> None:
        self.actor.report_first_step.remote(at)

    def notify(self, text: str) -> None:
        self.actor.notify.remote(text)

    def report_fatal(self, error: OrchestratorError) -> None:
        import ray

        ray.get(self.actor.report_fatal.remote(error))

    def report_finished(self, outcome: dict[str, Any]) -> None:
        import ray

        ray.get(self.actor.report_finished.remote(outcome))

    def read_status(self) -> RunStatus:
        """For the driver.

        Raises:
            ClusterLost: the head node is gone, and the coordinator with it.
        """
        import ray

        try:
            news: RunStatus = ray.get(self.actor.read_status.remote())
        except ray.exceptions.RayError as error:
            raise ClusterLost.from_ray_error(error) from None
        return news
