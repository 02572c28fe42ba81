"""What long work tells the person who waits. The terminal's side is `cli/progress_display.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Progress(Protocol):
    """Receives progress; an implementation draws bars, prints lines, or says nothing."""

    def update(
        self, phase: str, done: float, total: float, facts: dict[str, float | str] | None = None
    ) -> None:
        """`done` of `total` of a stage ('pack', 'train'); `facts` are shown beside the bar."""

    def message(self, text: str) -> None:
        """One line that stays on the screen."""

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table that is shown anew in place of the one before; its last column is a state."""


class SilentProgress:
    """Says nothing."""

    def update(
        self, phase: str, done: float, total: float, facts: dict[str, float | str] | None = None
    ) -> None:
        """Nothing is shown."""

    def message(self, text: str) -> None:
        """Nothing is shown."""

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Nothing is shown."""
