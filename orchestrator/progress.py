"""What long work tells the person who waits. The terminal's side is `orchestrator.cli.terminal`."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives progress; an implementation draws bars, prints lines, or says nothing."""

    def update(
        self, stage: str, done: float, total: float, facts: dict[str, float | str] | None = None
    ) -> None:
        """`done` of `total` of a stage ('pack', 'train'); `facts` are shown beside the bar."""

    def message(self, text: str) -> None:
        """One line that stays on the screen."""


class Silent:
    """Says nothing."""

    def update(
        self, stage: str, done: float, total: float, facts: dict[str, float | str] | None = None
    ) -> None:
        """Nothing is shown."""

    def message(self, text: str) -> None:
        """Nothing is shown."""
