"""What waits to be sent: plain data, stamped when it happened, so that sending it twice is safe."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """The metrics of one step. `timestamp` in ms since 1970."""

    step: int
    timestamp: int
    values: dict[str, float]

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return 200 * len(self.values)


@dataclass(frozen=True)
class Sample:
    """System metrics of one node at one time."""

    timestamp: int
    values: dict[str, float]

    @property
    def size(self) -> int:
        return 200 * len(self.values)


@dataclass(frozen=True)
class Picture:
    """One encoded picture of a step; `suffix` is png or gif."""

    step: int
    name: str
    suffix: str
    data: bytes = field(repr=False)

    @property
    def size(self) -> int:
        return len(self.data)


@dataclass(frozen=True)
class Kept:
    """A checkpoint that is complete, where it is, and what it scored."""

    step: int
    timestamp: int
    uri: str
    metrics: dict[str, float]
    size: int = 0


@dataclass(frozen=True)
class Dropped:
    """A checkpoint that is no longer there."""

    step: int
    size: int = 0


@dataclass(frozen=True)
class Standing:
    """All checkpoints that there are at a start, by step: an earlier start may have died after it
    dropped others and before it told of that."""

    steps: tuple[int, ...]
    size: int = 0


LogEntry = Row | Sample | Picture | Kept | Dropped | Standing


class LogQueue:
    """Entries in order, in memory, bounded: when it is full the oldest rows and pictures go.

    What is read with `peek` stays until `acknowledge` says that it has arrived.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.lost_entries: list[LogEntry] = []
        self._entries: deque[LogEntry] = deque()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: LogEntry) -> None:
        """Append; may drop what is oldest (see `lost_entries`)."""
        with self._lock:
            self._entries.append(entry)
            self._bytes += entry.size
            while self._bytes > self.max_bytes and len(self._entries) > 1:
                self._drop_oldest()

    def _drop_oldest(self) -> None:
        # Checkpoints weigh nothing and are few: they are never what must go.
        victim = next(entry for entry in self._entries if entry.size)
        self._entries.remove(victim)
        self._bytes -= victim.size
        self.lost_entries.append(_without_payload(victim))

    def peek(self, count: int) -> list[LogEntry]:
        """Up to `count` of the oldest entries."""
        with self._lock:
            return [self._entries[i] for i in range(min(count, len(self._entries)))]

    def pending(self) -> list[LogEntry]:
        """All entries, oldest first."""
        with self._lock:
            return list(self._entries)

    def acknowledge(self, entries: list[LogEntry]) -> None:
        """These have arrived (or were refused for good)."""
        with self._lock:
            for entry in entries:
                # An entry that was dropped meanwhile has arrived all the same.
                if self._entries and self._entries[0] is entry:
                    self._entries.popleft()
                    self._bytes -= entry.size

    def discard_all(self) -> None:
        """Count everything that is left as lost."""
        with self._lock:
            self.lost_entries.extend(_without_payload(entry) for entry in self._entries)
            self._entries.clear()
            self._bytes = 0


def _without_payload(entry: LogEntry) -> LogEntry:
    """The entry without its payload: enough to say what was lost."""
    if isinstance(entry, Row):
        return Row(entry.step, entry.timestamp, {})
    if isinstance(entry, Sample):
        return Sample(entry.timestamp, {})
    if isinstance(entry, Picture):
        return Picture(entry.step, entry.name, entry.suffix, b"")
    return entry


def describe_entries(entries: list[LogEntry]) -> str:
    """One phrase: '12 rows of metrics (steps 10 to 120), 1 picture'."""
    rows = [entry.step for entry in entries if isinstance(entry, Row)]
    parts = [f"{len(rows)} rows of metrics (steps {min(rows)} to {max(rows)})"] if rows else []
    for kind, name in ((Sample, "system samples"), (Picture, "pictures"), (Kept, "checkpoints")):
        count = sum(isinstance(entry, kind) for entry in entries)
        if count:
            parts.append(f"{count} {name}")
    return ", ".join(parts) or "nothing"
