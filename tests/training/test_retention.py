"""Which checkpoints stay."""

from __future__ import annotations

from typing import Any

from orchestrator.job.config.train import Checkpoint as Policy
from orchestrator.training.checkpoints.retention import CheckpointEntry, checkpoints_to_delete


def there(
    *steps: int, size: int = 10, scores: dict[int, float] | None = None
) -> list[CheckpointEntry]:
    return [CheckpointEntry(f"step-{s:08d}", s, size, (scores or {}).get(s)) for s in steps]


def dropped(items: list[CheckpointEntry], **policy: Any) -> list[int]:
    return [int(name[5:]) for name in checkpoints_to_delete(items, Policy(**policy))]


def test_the_newest_the_best_and_every_nth_stay() -> None:
    items = there(100, 200, 300, 400, 500, scores={100: 9.0, 300: 7.0, 500: 1.0})
    assert dropped(items, keep_last=1) == [100, 200, 300, 400]
    assert dropped(items, keep_last=2, keep_best=1) == [200, 300]
    assert dropped(items, keep_last=1, keep_best=1, mode="min") == [100, 200, 300, 400]
    assert dropped(items, keep_last=1, keep_every=200) == [100, 300]


def test_the_cap_leaves_room_for_the_next_one() -> None:
    items = there(1, 2, 3, 4)
    # 40 bytes are there; with 35 allowed, two may stand beside the next.
    assert dropped(items, keep_last=9, max_bytes=35) == [1, 2]
    assert dropped(items, keep_last=9, max_bytes=50) == []
    assert dropped(items, keep_last=9, keep_every=1, max_bytes=20) == [1, 2, 3]


def test_the_newest_is_never_dropped() -> None:
    assert dropped(there(7), keep_last=1, max_bytes=1) == []
    assert dropped([], keep_last=1, max_bytes=1) == []


def test_what_has_yet_to_be_read_stays_unless_the_cap_wants_it() -> None:
    items = [
        CheckpointEntry(f"step-{s:08d}", s, 10, None, is_protected=s == 2) for s in (1, 2, 3, 4)
    ]
    assert dropped(items, keep_last=1) == [1, 3]
    # 30 bytes: of the two that would stay, one makes room for the next.
    assert dropped(items, keep_last=1, max_bytes=25) == [1, 2, 3]
    assert dropped(items, keep_last=1, max_bytes=30) == [1, 3]
