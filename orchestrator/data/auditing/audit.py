"""`data audit`: compares the clips that a run trained on, by its ledger, with the order.

The ranks write the ledger from the batches that they trained on: keys from the rows, hashes of the
bytes that were decoded. The order and the indexes are an independent source for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.auditing.clip_ledger import read_clip_ledger
from orchestrator.data.loader.clip_reader import ClipIndex
from orchestrator.data.loader.order import Order
from orchestrator.data.store.sidecar_arrays import expected_content_hash
from orchestrator.storage import Storage

STEPS_PER_CHUNK = 1000
"""Steps that are read at a time, which bounds the memory."""

MAX_LISTED_VIOLATIONS = 20


@dataclass
class AuditReport:
    """The result of auditing the steps before `steps`. Its fields are the keys of `--json`."""

    steps: int
    positions: int
    """Positions of these steps: steps x global batch."""

    trained: int = 0
    """Positions whose clip was trained on, each exactly once."""

    failed: int = 0
    """Positions whose clip could not be used: weight 0, with a reason."""

    superseded: int = 0
    """Rows of steps that were repeated from an earlier checkpoint."""

    starts: int = 0
    """Starts of the worker group that wrote rows."""

    passes: float = 0.0
    """Passes over all clips."""

    wrong: list[str] = field(default_factory=list)
    """Violations, at most `MAX_LISTED_VIOLATIONS`."""

    wrongs: int = 0
    """Number of all violations."""

    @property
    def good(self) -> bool:
        """Whether every position was trained on once, with the order's clip and indexed bytes."""
        return self.wrongs == 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for `--json`."""
        return asdict(self) | {"good": self.good}

    def add_violation(self, text: str) -> None:
        """Record one violation."""
        self.wrongs += 1
        if len(self.wrong) < MAX_LISTED_VIOLATIONS:
            self.wrong.append(text)


def audit_ledger(
    ledger: Storage,
    indexes: list[ClipIndex],
    order: Order,
    steps: int,
    global_batch: int,
    first_step: int = 0,
    arrays: Sequence[str] = (),
) -> AuditReport:
    """Compare the ledger's rows of steps `first_step` to `steps` - 1 with the order.

    Args:
        ledger: the run's `ledger` folder.
        indexes: one per source.
        arrays: file names of the arrays that the job reads; the ledger's hashes cover them.
    """
    report = AuditReport(steps, (steps - first_step) * global_batch)
    report.passes = report.positions / sum(index.num_clips for index in indexes)
    attempts: set[str] = set()
    for first in range(first_step, steps, STEPS_PER_CHUNK):
        window = range(first, min(first + STEPS_PER_CHUNK, steps))
        table = read_clip_ledger(ledger, window)
        attempts |= set(pc.unique(table["attempt"]).to_pylist())
        report.superseded += int(pc.sum(table["superseded"]).as_py() or 0)
        _audit_steps(
            report,
            table.filter(pc.invert(table["superseded"])),
            indexes,
            order,
            window,
            global_batch,
            arrays,
        )
    report.starts = len(attempts)
    return report


def _audit_steps(
    report: AuditReport,
    rows: pa.Table,
    indexes: list[ClipIndex],
    order: Order,
    window: range,
    global_batch: int,
    arrays: Sequence[str],
) -> None:
    positions = rows["position"].to_numpy()
    expected = np.arange(window.start * global_batch, window.stop * global_batch)
    distinct, counts = np.unique(positions, return_counts=True)
    for position in np.setdiff1d(expected, distinct):
        report.add_violation(
            f"position {position} (step {position // global_batch}) was not trained"
        )
    for position in distinct[counts > 1]:
        report.add_violation(f"position {position} was trained more than once")
    steps = rows["step"].to_numpy()
    for position in positions[steps != positions // global_batch]:
        report.add_violation(f"position {position} was trained in another step than its own")
    draws = order.lookup(positions)
    clips = _ExpectedClips(indexes, arrays)
    for row, source, shard, shard_row in zip(
        rows.to_pylist(), draws.source, draws.shard, draws.row, strict=True
    ):
        _audit_row(report, row, clips.lookup(int(source), int(shard), int(shard_row)))


def _audit_row(report: AuditReport, row: dict[str, Any], clip: tuple[str, str]) -> None:
    key, sha256 = clip
    position, failed = row["position"], row["weight"] == 0
    if failed and not row["reason"]:
        report.add_violation(f"position {position} has weight 0 and no reason")
    elif row["key"] != key and not failed:
        report.add_violation(f"position {position} trained on {row['key']}, the order names {key}")
    elif row["sha256"] != sha256 and not failed:
        report.add_violation(f"position {position}: {key} had other bytes than were indexed")
    elif failed:
        report.failed += 1
    else:
        report.trained += 1


class _ExpectedClips:
    """Keys and content hashes of clips, read from the indexes one shard at a time."""

    def __init__(self, indexes: list[ClipIndex], arrays: Sequence[str]) -> None:
        self._indexes, self._arrays = indexes, arrays
        self._tables: dict[tuple[int, int], tuple[list[str], list[str]]] = {}

    def lookup(self, source: int, shard: int, row: int) -> tuple[str, str]:
        if (source, shard) not in self._tables:
            index, extra_columns = self._indexes[source], ["extras"] if self._arrays else []
            table = index.shard_rows(shard).select(["key", "sha256", *extra_columns])
            hashes = [
                expected_content_hash(
                    clip, self._arrays, lambda e: index.read_bytes(shard, e["offset"], e["bytes"])
                )
                for clip in table.to_pylist()
            ]
            self._tables[source, shard] = table["key"].to_pylist(), hashes
        keys, hashes = self._tables[source, shard]
        return keys[row], hashes[row]
