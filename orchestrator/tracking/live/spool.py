"""What MLflow has not yet been told, in the run's storage: nothing of it dies with a process.

A process writes what waits to be sent whenever a checkpoint is saved, before that checkpoint
counts. Steps after a checkpoint are trained and logged again after a crash, so with the spool
every row up to it arrives. The next start's rank 0 takes over what earlier ones left.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from orchestrator.storage import Storage, with_retries
from orchestrator.tracking.live.queue import Dropped, Kept, LogEntry, Picture, Row, Sample, Standing

_KINDS: dict[str, type[LogEntry]] = {
    kind.__name__: kind for kind in (Row, Sample, Picture, Kept, Dropped, Standing)
}


class Spool:
    """One process's file in the run's `spool` folder; `name` sorts behind earlier starts'."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._file = storage, f"{name}.jsonl"
        self._written = False

    def write(self, entries: Sequence[LogEntry]) -> None:
        """Keep these, in place of what was kept before; no entries, no file.

        Raises:
            OSError: the storage failed for minutes.
        """
        if entries:
            text = "".join(f"{_encode(entry)}\n" for entry in entries)
            with_retries(self._storage.write_bytes, self._file, text.encode())
        elif self._written:
            with_retries(self._storage.delete, self._file)
        self._written = bool(entries)

    def collect_earlier(self) -> list[LogEntry]:
        """What earlier starts left, oldest first. It is this process's now: call it on one rank."""
        files = [entry.path for entry in self._storage.files() if entry.path < self._file]
        entries = [entry for file in files for entry in read_spool(self._storage, file)]
        self.write(entries)
        for file in files:
            self._storage.delete(file)
        return entries


def read_spool(storage: Storage, file: str) -> list[LogEntry]:
    """What waits in a file of a `spool` folder, oldest first."""
    return [_decode(line) for line in storage.read_bytes(file).decode().splitlines()]


def _encode(entry: LogEntry) -> str:
    values: dict[str, Any] = dict(vars(entry))
    if isinstance(entry, Picture):
        values["data"] = base64.b64encode(entry.data).decode()
    return json.dumps({"kind": type(entry).__name__, **values})


def _decode(line: str) -> LogEntry:
    values = json.loads(line)
    kind = _KINDS[values.pop("kind")]
    if kind is Picture:
        values["data"] = base64.b64decode(values["data"])
    elif kind is Standing:
        values["steps"] = tuple(values["steps"])
    return kind(**values)
