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

MOST_IN_VAIN = 4
"""Attempts that may begin at the same step: a training that gets no further is not started again.
One that does may be interrupted any number of times."""


@dataclass(frozen=True)
class Beat:
    """What a rank was doing when it was last heard of."""

    rank: int
    node: str
    pid: int
    step: int
    doing: str
    """`starting`, `data`, `step`, `saving`, `judging`."""

    since_s: float
    """Seconds it had been doing that."""

    stack: str = ""
    """Where its main thread stood, innermost frame last; empty while nothing is slow."""


@dataclass
class News:
    """The state that the driver shows."""

    step: int = 0
    attempt: int = 0
    first_step_at: float | None = None
    """When the first step of the first attempt was done; seconds since 1970."""

    stepped_at: float | None = None
    """The same of the present attempt."""

    facts: dict[str, float | str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    fatal: OrchestratorError | None = None
    outcome: dict[str, Any] = field(default_factory=dict)
    stop: bool = False
    """The driver wants the training to be saved and ended."""

    stopped_at: int | None = None
    """The step at which that was done."""

    rollbacks: int = 0
    began_at: int = -1
    in_vain: int = 0
    """Attempts in a row that began at that step."""

    unbegun: int = 0
    """Attempts in a row that ended before they had gone on from any step."""

    death: str = ""
    """What the last worker that raised said."""

    death_details: str = ""
    """Its traceback."""

    beats: dict[int, tuple[float, Beat]] = field(default_factory=dict)
    """By rank, what was heard last; as read: with the seconds since then."""


class Board(Protocol):
    """Where a worker posts."""

    def begin_attempt(self) -> int: ...
    def post(self, step: int, facts: dict[str, float | str]) -> None: ...
    def beat(self, beat: Beat) -> bool: ...
    def ask_stop(self) -> None: ...
    def stopped(self, step: int) -> None: ...
    def roll_back(self) -> bool: ...
    def begins_at(self, step: int) -> None: ...
    def died(self, reason: str, details: str = "") -> None: ...
    def first_step(self, at: float) -> None: ...
    def message(self, text: str) -> None: ...
    def fail(self, error: OrchestratorError) -> None: ...
    def finish(self, outcome: dict[str, Any]) -> None: ...
    def read(self) -> News: ...


class LocalBoard:
    """The board's state; used directly in a local run, inside an actor under Ray."""

    def __init__(self) -> None:
        self.news = News()
        # In a local run the trainer posts while another thread reads.
        self._lock = threading.Lock()

    def begin_attempt(self) -> int:
        """A new start of the worker group: its number, from 1; 0 where none is wanted any more,
        because of an error that no start mends, or as none gets as far as a step."""
        with self._lock:
            if self.news.unbegun >= MOST_IN_VAIN:
                text = f"the workers died {MOST_IN_VAIN} times before the first step"
                self.news.fatal = self.news.fatal or self._in_vain(text)
            if self.news.fatal is not None:
                return 0
            self.news.attempt += 1
            self.news.unbegun += 1
            self.news.beats, self.news.stepped_at = {}, None
        return self.news.attempt

    def post(self, step: int, facts: dict[str, float | str]) -> None:
        """Progress: `step` optimizer steps are done."""
        with self._lock:
            self.news.step, self.news.facts = step, facts

    def beat(self, beat: Beat) -> bool:
        """A rank lives. Gives whether the training should stop."""
        with self._lock:
            self.news.beats = {**self.news.beats, beat.rank: (time.monotonic(), beat)}
        return self.news.stop

    def ask_stop(self) -> None:
        """Save and end the training, soon."""
        with self._lock:
            self.news.stop = True

    def stopped(self, step: int) -> None:
        """It was saved after `step` steps and ended, as was asked."""
        with self._lock:
            self.news.stopped_at = step

    def begins_at(self, step: int) -> None:
        """The present attempt goes on from `step`.

        Raises:
            JobFailed: the attempts before it went on from there too, and got no further.
        """
        with self._lock:
            news, self.news.unbegun = self.news, 0
            news.in_vain = news.in_vain + 1 if step == news.began_at else 1
            news.began_at = step
            if news.in_vain > MOST_IN_VAIN:
                raise self._in_vain(
                    f"the workers died {MOST_IN_VAIN} times without getting from step {step} to"
                    " another checkpoint"
                )

    def _in_vain(self, text: str) -> JobFailed:
        news = self.news
        return JobFailed(
            f"{text}; the last: {news.death}" if news.death else text,
            mend="what is saved stands: the same command continues from it; --debug shows more",
            details=news.death_details,
        )

    def died(self, reason: str, details: str = "") -> None:
        """A worker ends with an error that a new start may mend; `details` is its traceback."""
        with self._lock:
            self.news.death, self.news.death_details = reason, details

    def roll_back(self) -> bool:
        """May the training go back to its last checkpoint? Once in a launch it may."""
        with self._lock:
            self.news.rollbacks += 1
        return self.news.rollbacks == 1

    def first_step(self, at: float) -> None:
        """Wall-clock time (seconds) at which the first step ended."""
        with self._lock:
            self.news.first_step_at = self.news.first_step_at or at
            self.news.stepped_at = at

    def message(self, text: str) -> None:
        """A line for the person at the terminal."""
        with self._lock:
            self.news.messages.append(text)

    def fail(self, error: OrchestratorError) -> None:
        """An error that starting again cannot mend."""
        with self._lock:
            self.news.fatal = error

    def finish(self, outcome: dict[str, Any]) -> None:
        """The last step is done and saved."""
        with self._lock:
            self.news.outcome = outcome

    def read(self) -> News:
        """Everything so far; messages are handed over once."""
        with self._lock:
            news = self.news
            self.news = replace(news, messages=[])
            now = time.monotonic()
            ages = {rank: (now - at, beat) for rank, (at, beat) in news.beats.items()}
        return replace(news, beats=ages)


class ClusterLost(JobFailed):
    """The driver's cluster no longer answers."""

    @classmethod
    def by(cls, error: Exception) -> ClusterLost:
        """What Ray raised, for a person."""
        return cls(
            f"the Ray cluster is gone: {str(error).splitlines()[0]}",
            mend="when it is back, the same command continues from the last checkpoint",
        )


class RayBoard:
    """A handle on the board's actor, as workers hold it. Posting progress never waits."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    @classmethod
    def create(cls) -> RayBoard:
        """Start the actor beside the driver; it dies with the driver, and with no other node."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(num_cpus=0, scheduling_strategy=here)(LocalBoard)
        return cls(actor.remote())

    def begin_attempt(self) -> int:
        import ray

        return int(ray.get(self.actor.begin_attempt.remote()))

    def post(self, step: int, facts: dict[str, float | str]) -> None:
        self.actor.post.remote(step, facts)

    def beat(self, beat: Beat) -> bool:
        """Waits for the answer, so it is for a thread of its own."""
        import ray

        return bool(ray.get(self.actor.beat.remote(beat)))

    def ask_stop(self) -> None:
        self.actor.ask_stop.remote()

    def stopped(self, step: int) -> None:
        import ray

        ray.get(self.actor.stopped.remote(step))

    def begins_at(self, step: int) -> None:
        import ray

        try:
            ray.get(self.actor.begins_at.remote(step))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None

    def died(self, reason: str, details: str = "") -> None:
        self.actor.died.remote(reason, details)

    def roll_back(self) -> bool:
        import ray

        return bool(ray.get(self.actor.roll_back.remote()))

    def first_step(self, at: float) -> None:
        self.actor.first_step.remote(at)

    def message(self, text: str) -> None:
        self.actor.message.remote(text)

    def fail(self, error: OrchestratorError) -> None:
        import ray

        ray.get(self.actor.fail.remote(error))

    def finish(self, outcome: dict[str, Any]) -> None:
        import ray

        ray.get(self.actor.finish.remote(outcome))

    def read(self) -> News:
        """For the driver.

        Raises:
            ClusterLost: the head node is gone, and the board with it.
        """
        import ray

        try:
            news: News = ray.get(self.actor.read.remote())
        except ray.exceptions.RayError as error:
            raise ClusterLost.by(error) from None
        return news
