"""The audit finds what the ledger says and the order does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.data.auditing import audit
from orchestrator.data.auditing.audit import AuditReport, audit_ledger
from orchestrator.data.auditing.clip_ledger import ClipLedgerWriter
from orchestrator.data.loader.batch import Batch, ClipFailure
from orchestrator.data.loader.order import Order
from orchestrator.storage import Storage
from tests.support.clips import InMemoryIndex

STEPS, BATCH = 12, 4
INDEX = InMemoryIndex(
    "a", [[b"clip %d" % i for i in range(5)], [b"other %d" % i for i in range(8)]]
)
ORDER = Order([INDEX.clips_per_shard], [None], seed=3, shuffle_window=2)

Change = Callable[[int, dict[str, list[str] | np.ndarray]], None]


def trained(step: int, change: Change = lambda step, row: None) -> Batch:
    """The batch of a step as the order names it, then changed."""
    position = np.arange(step * BATCH, (step + 1) * BATCH)
    draws = ORDER.lookup(position)
    tables = [
        INDEX.shard_rows(int(s)).slice(int(r), 1).to_pylist()[0]
        for s, r in zip(draws.shard, draws.row, strict=True)
    ]
    row = {
        "position": position,
        "keys": [t["key"] for t in tables],
        "hashes": [t["sha256"] for t in tables],
    }
    change(step, row)
    return Batch(
        torch.zeros(BATCH, 1, 1, 1, 3),
        torch.ones(BATCH),
        row["position"],
        [],
        row["keys"],
        row["hashes"],
        [],
    )


def audited(folder: Path, change: Change = lambda step, row: None) -> AuditReport:
    """Twelve steps: a start that dies after eight, and one from the checkpoint at six."""
    storage = Storage(str(folder))
    for attempt, steps in (("0001-0001", range(8)), ("0001-0002", range(6, STEPS))):
        ledger = ClipLedgerWriter(storage, 0, attempt)
        for step in steps:
            ledger.append(step, trained(step, change))
            if step % 2:
                ledger.flush()
    return audit_ledger(storage, [INDEX], ORDER, STEPS, BATCH)


def test_a_run_that_died_and_went_on_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "STEPS_PER_CHUNK", 5)  # windows meet inside an attempt
    report = audited(tmp_path)
    assert report.good, report.wrong
    assert (report.trained, report.positions) == (48, 48)
    assert (report.superseded, report.starts) == (8, 2)


def swap(step: int, row: dict[str, list[str] | np.ndarray]) -> None:
    if step == 9:
        row["keys"][0] = "another"


def rot(step: int, row: dict[str, list[str] | np.ndarray]) -> None:
    if step == 9:
        row["hashes"][1] = "0" * 64


def twice(step: int, row: dict[str, list[str] | np.ndarray]) -> None:
    if step == 9:
        row["position"][2] = row["position"][1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (swap, ["position 36 trained on another"]),
        (rot, ["position 37", "other bytes"]),
        (twice, ["position 38 (step 9) was not trained", "position 37 was trained more than once"]),
    ],
)
def test_a_planted_fault_is_found(tmp_path: Path, change: Change, words: list[str]) -> None:
    report = audited(tmp_path, change)
    assert not report.good
    assert all(any(word in line for line in report.wrong) for word in words), report.wrong


def test_a_failed_clip_counts_with_its_reason_and_without_one_is_wrong(tmp_path: Path) -> None:
    batch = trained(0)
    batch.weight[1] = batch.weight[2] = 0
    batch.failures.append(ClipFailure(1, batch.keys[1], "shard", "ends early"))
    ledger = ClipLedgerWriter(Storage(str(tmp_path)), 0, "0001-0001")
    ledger.append(0, batch)
    ledger.flush()
    report = audit_ledger(Storage(str(tmp_path)), [INDEX], ORDER, 1, BATCH)
    assert (report.trained, report.failed) == (2, 1)
    assert report.wrong == ["position 2 has weight 0 and no reason"]
