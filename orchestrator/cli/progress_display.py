"""Progress on the terminal: bars with the time left, or plain lines where there is none."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from orchestrator.cli.output import console
from orchestrator.progress import Progress, SilentProgress
from orchestrator.text import format_duration

if TYPE_CHECKING:
    from rich.progress import TaskID

Facts = dict[str, float | str]

_LINE_EVERY_S = 5.0


def open_progress(*, quiet: bool, json: bool) -> AbstractContextManager[Progress]:
    """The progress that suits the terminal. JSON has stdout for itself, so bars go to stderr."""
    if quiet:
        return _Quiet()
    stream = sys.stderr if json else sys.stdout
    return ProgressBars(stderr=json) if stream.isatty() else ProgressLines(stream)


class _Quiet(SilentProgress):
    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing was opened."""


class ProgressBars:
    """One bar per stage, with the time left and the facts beside it."""

    def __init__(self, *, stderr: bool = False) -> None:
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._bars = _bars_above_a_table()(
            TextColumn("{task.description:<8}"),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[facts]}"),
            console=console(stderr=stderr),
        )
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def update(self, phase: str, done: float, total: float, facts: Facts | None = None) -> None:
        """Move the bar of `phase`; the first call makes it."""
        with self._lock:
            if phase not in self._tasks:
                # Begun at `done`: what an earlier run did must not count as this one's speed.
                self._tasks[phase] = self._bars.add_task(
                    phase, total=None, completed=int(done), count="", facts=""
                )
            self._bars.update(
                self._tasks[phase],
                completed=done,
                total=total if total > 0 else None,
                count=_count(done, total),
                facts=_facts(facts),
            )

    def message(self, text: str) -> None:
        """One line above the bars."""
        self._bars.console.print(text, markup=False)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """The table beneath the bars; what the terminal is too low for is left out."""
        from rich.markup import escape
        from rich.table import Table

        shown = Table(box=None, pad_edge=False, header_style="dim")
        for i, name in enumerate(head):
            shown.add_column(escape(name), overflow="ellipsis", no_wrap=i + 1 < len(head))
        for row in rows:
            shown.add_row(*map(escape, row))
        with self._lock:
            self._bars.below = shown


def _bars_above_a_table() -> Any:
    """Rich's bars, which redraw a table beneath them as they redraw themselves."""
    from rich.progress import Progress as RichProgress

    class BarsAboveTable(RichProgress):
        below: Any = None

        def get_renderables(self) -> Iterator[Any]:
            yield self.make_tasks_table(self.tasks)
            if self.below is not None:
                yield self.below

    return BarsAboveTable


class ProgressLines:
    """A plain line per stage every few seconds, rarer as the work grows long."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._gone = stream, False
        self._began: dict[str, tuple[float, float]] = {}
        self._shown: dict[str, tuple[float, float]] = {}
        self._states: dict[str, tuple[str, ...]] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing was opened."""

    def update(self, phase: str, done: float, total: float, facts: Facts | None = None) -> None:
        """A line if the stage began or ended, or if the last line is old."""
        now = time.monotonic()
        with self._lock:
            began, first = self._began.setdefault(phase, (now, done))
            shown_at, shown = self._shown.get(phase, (float("-inf"), -1.0))
            ended = done >= total > 0
            if done == shown or (
                not ended and now - shown_at < max(_LINE_EVERY_S, 0.02 * (now - began))
            ):
                return
            self._shown[phase] = (now, done)
        parts = [f"{phase:<8} {_count(done, total)}"]
        if total > 0:
            parts.append(f"{100 * done / total:3.0f}%")
        if total > done > first:
            left = (now - began) * (total - done) / (done - first)
            parts.append(f"{format_duration(left)} left")
        self._print("  ".join([*parts, _facts(facts)]).rstrip())

    def message(self, text: str) -> None:
        """One line."""
        self._print(text)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A line for each row whose last two columns changed: what else changes is no news."""
        with self._lock:
            news = [row for row in rows if self._states.get(row[0]) != tuple(row[-2:])]
            self._states |= {row[0]: tuple(row[-2:]) for row in news}
        for row in news:
            cells = [f"{name} {cell}" for name, cell in zip(head, row, strict=True) if cell]
            self._print("  ".join(cells))

    def _print(self, text: str) -> None:
        if self._gone:
            return
        try:
            print(text, file=self._stream, flush=True)
        except OSError:  # a job does not end because nobody reads how far it is
            self._gone = True


def _count(done: float, total: float) -> str:
    return f"{done:,.0f}/{total:,.0f}" if total > 0 else f"{done:,.0f}"


def _facts(facts: Facts | None) -> str:
    return "  ".join(
        f"{name} {value}" if isinstance(value, str) else f"{name} {value:.4g}"
        for name, value in (facts or {}).items()
    )
