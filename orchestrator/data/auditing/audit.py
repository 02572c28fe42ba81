"""`data audit`: what entered the forward, by a run's ledger, against what the order names.

The ledger is written by the ranks from the batches that they trained on: keys as they came
with the rows, hashes of the bytes that were decoded. The order and the indexes say what should
have been there. Neither is made from the other.
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
"""Steps that are looked at together: what bounds the memory."""

MAX_LISTED_VIOLATIONS = 20


@dataclass
class AuditReport:
    """What a ledger says of the first `steps` steps."""

    steps: int
    positions: int
    """Positions that those steps hold: steps x global batch."""

    trained: int = 0
    """Positions whose clip counted, each exactly once."""

    failed: int = 0
    """Positions whose clip could not be used: weight 0, with a reason."""

    superseded: int = 0
    """Rows of steps that were trained again from an earlier checkpoint."""

    starts: int = 0
    """Starts of the worker group that left rows."""

    passes: float = 0.0
    """Passes over all clips."""

    wrong: list[str] = field(default_factory=list)
    """What does not hold; the first twenty."""

    wrongs: int = 0

    @property
    def good(self) -> bool:
        """Every position once, with the order's clip and its indexed bytes."""
        return self.wrongs == 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for `--json`."""
        return asdict(self) | {"good": self.good}

    def add_violation(self, text: str) -> None:
        """Note one thing that does not hold."""
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
    """Compare the ledger's rows of steps `first_step` .. `steps` - 1 with the order.

    `arrays`: what the job read beside each clip; the ledger's hashes cover it.
    """
    report = AuditReport(steps, (steps - first_step) * global_batch)
    report.passes = report.positions / sum(index.num_clips for index in indexes)
    names: set[str] = set()
    for first in range(first_step, steps, STEPS_PER_CHUNK):
        window = range(first, min(first + STEPS_PER_CHUNK, steps))
        table = read_clip_ledger(ledger, window)
        names |= set(pc.unique(table["attempt"]).to_pylist())
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
    report.starts = len(names)
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
    wanted = np.arange(window.start * global_batch, window.stop * global_batch)
    found, counts = np.unique(positions, return_counts=True)
    for position in np.setdiff1d(wanted, found):
        report.add_violation(
            f"position {position} (step {position // global_batch}) was not trained"
        )
    for position in found[counts > 1]:
        report.add_violation(f"position {position} was trained more than once")
    steps = rows["step"].to_numpy()
    for position in positions[steps != positions // global_batch]:
        report.add_violation(f"position {position} stood in another step than its own")
    draws = order.lookup(positions)
    clips = _ExpectedClips(indexes, arrays)
    for row, source, shard, place in zip(
        rows.to_pylist(), draws.source, draws.shard, draws.row, strict=True
    ):
        _audit_row(report, row, clips.lookup(int(source), int(shard), int(place)))


def _audit_row(report: AuditReport, row: dict[str, Any], clip: tuple[str, str]) -> None:
    key, sha256 = clip
    position, failed = row["position"], row["weight"] == 0
    if failed and not row["reason"]:
        report.add_violation(f"position {position} has weight 0 and no reason")
    elif row["key"] != key and not failed:
        report.add_violation(f"position {position} trained on {row['key']}, the order names {key}")
    elif row["sha256"] != sha256 and not failed:
        report.add_violation(f"position {position}: {key} had other bytes than the index has")
    elif failed:
        report.failed += 1
    else:
        report.trained += 1


class _ExpectedClips:
    """Keys and hashes by place, a shard at a time."""

    def __init__(self, indexes: list[ClipIndex], arrays: Sequence[str]) -> None:
        self._indexes, self._arrays = indexes, arrays
        self._tables: dict[tuple[int, int], tuple[list[str], list[str]]] = {}

    def lookup(self, source: int, shard: int, row: int) -> tuple[str, str]:
        if (source, shard) not in self._tables:
            index, beside = self._indexes[source], ["extras"] if self._arrays else []
            table = index.shard_rows(shard).select(["key", "sha256", *beside])
            hashes = [
                expected_content_hash(
                    clip, self._arrays, lambda e: index.read_bytes(shard, e["offset"], e["bytes"])
                )
                for clip in table.to_pylist()
            ]
            self._tables[source, shard] = table["key"].to_pylist(), hashes
        keys, hashes = self._tables[source, shard]
        return keys[row], hashes[row]
