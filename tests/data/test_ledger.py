"""The ledger tells what entered the forward, once, however often a run went back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from orchestrator.data.auditing.clip_ledger import ClipLedgerWriter, read_clip_ledger
from orchestrator.data.loader.batch import Batch, ClipFailure
from orchestrator.storage import Storage


def batch(positions: list[int], failed: dict[int, str] | None = None) -> Batch:
    failed = failed or {}
    return Batch(
        video=torch.zeros(len(positions), 1, 8, 8, 3, dtype=torch.uint8),
        weight=torch.tensor([float(p >= 0 and p not in failed) for p in positions]),
        position=np.array(positions),
        masks=[],
        keys=[f"clip-{p}" if p >= 0 else "" for p in positions],
        content_hashes=[f"{p:064x}" if p >= 0 else "" for p in positions],
        failures=[ClipFailure(p, f"clip-{p}", "a.tar", reason) for p, reason in failed.items()],
    )


def train(storage: Storage, attempt: str, steps: range, world: int, flush_every: int) -> None:
    """Four positions a step, dealt to `world` ranks; flushed as checkpoints are saved."""
    ledgers = [ClipLedgerWriter(storage, rank, attempt) for rank in range(world)]
    for step in steps:
        for rank, ledger in enumerate(ledgers):
            ledger.append(step, batch(list(range(4 * step + rank, 4 * step + 4, world))))
            if (step + 1) % flush_every == 0:
                ledger.flush()


def test_rows_say_what_was_trained_and_what_failed(tmp_path: Path) -> None:
    ledger = ClipLedgerWriter(Storage(str(tmp_path)), 3, "0001")
    ledger.append(7, batch([28, 29, -1], {29: "ends early"}))
    ledger.flush()
    ledger.flush()
    rows = read_clip_ledger(Storage(str(tmp_path))).to_pylist()
    assert [r["position"] for r in rows] == [28, 29]  # padding is nobody's clip
    assert [r["weight"] for r in rows] == [1.0, 0.0]
    assert [r["reason"] for r in rows] == [None, "ends early"]
    assert rows[0] == {
        "step": 7,
        "position": 28,
        "key": "clip-28",
        "sha256": f"{28:064x}",
        "weight": 1.0,
        "reason": None,
        "attempt": "0001",
        "rank": 3,
        "superseded": False,
    }


def test_a_restart_at_another_size_supersedes_what_it_repeats(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    # The parts of steps 4-7 were written, but their checkpoint was not: the run went back to 4.
    train(storage, "0001", range(8), world=2, flush_every=4)
    train(storage, "0002", range(4, 9), world=4, flush_every=4)  # step 8 never reached a flush
    train(storage, "0003", range(8, 12), world=1, flush_every=4)
    table = read_clip_ledger(storage)
    live = table.filter([not flag for flag in table["superseded"].to_pylist()])
    assert live["position"].to_pylist() == list(range(48))
    assert live["step"].to_pylist() == [p // 4 for p in range(48)]
    gone = table.filter(table["superseded"])
    assert set(gone["attempt"].to_pylist()) == {"0001"}
    assert gone["position"].to_pylist() == list(range(16, 32))


def test_a_later_attempt_that_goes_further_back_wins(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    train(storage, "0001", range(4), world=1, flush_every=2)
    train(storage, "0002", range(4, 8), world=1, flush_every=2)
    train(storage, "0003", range(2, 6), world=1, flush_every=2)
    table = read_clip_ledger(storage)
    kept = [
        (row["step"], row["attempt"])
        for row in table.to_pylist()
        if not row["superseded"] and row["position"] % 4 == 0
    ]
    assert kept == [(0, "0001"), (1, "0001"), (2, "0003"), (3, "0003"), (4, "0003"), (5, "0003")]


def test_a_run_without_ledger_has_no_rows(tmp_path: Path) -> None:
    assert read_clip_ledger(Storage(str(tmp_path / "none"))).num_rows == 0
