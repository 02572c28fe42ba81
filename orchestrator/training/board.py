"""What the workers tell the driver while it waits: progress, and why a run must not go on.

A small Ray actor on the driver's node. It outlives the workers, so an error that no restart
can mend is known to the next attempt before it loads anything.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from orchestrator.errors import OrchestratorError


@dataclass
class News:
    """The state that the driver shows."""

    step: int = 0
    attempt: int = 0
    first_step_at: float | None = None
    facts: dict[str, float | str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    fatal: OrchestratorError | None = None
    outcome: dict[str, Any] = field(default_factory=dict)


class Board(Protocol):
    """Where a worker posts."""

    def begin_attempt(self) -> int: ...
    def post(self, step: int, facts: dict[str, float | str]) -> None: ...
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
        """A new start of the worker group: its number, from 1. Raises what ended the last."""
        if self.news.fatal is not None:
            raise self.news.fatal
        self.news.attempt += 1
        return self.news.attempt

    def post(self, step: int, facts: dict[str, float | str]) -> None:
        """Progress: `step` optimizer steps are done."""
        with self._lock:
            self.news.step, self.news.facts = step, facts

    def first_step(self, at: float) -> None:
        """Wall-clock time (seconds) at which the first step ended."""
        with self._lock:
            self.news.first_step_at = self.news.first_step_at or at

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
        return news


class RayBoard:
    """A handle on the board's actor, as workers hold it. Posting never waits."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    @classmethod
    def create(cls) -> RayBoard:
        """Start the actor; it dies with the driver."""
        import ray

        return cls(ray.remote(num_cpus=0)(LocalBoard).remote())

    def begin_attempt(self) -> int:
        import ray

        return int(ray.get(self.actor.begin_attempt.remote()))

    def post(self, step: int, facts: dict[str, float | str]) -> None:
        self.actor.post.remote(step, facts)

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
        import ray

        news: News = ray.get(self.actor.read.remote())
        return news
