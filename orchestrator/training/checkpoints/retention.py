"""Which checkpoints are kept: pure arithmetic on what there is."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.job.config.train import Checkpoint as Policy


@dataclass(frozen=True)
class CheckpointEntry:
    """A complete checkpoint. `score` is its value of the policy's metric, None where it has none;
    `size_bytes` is 0 where no cap asks for it; `is_protected` while somebody has yet to read it."""

    name: str
    step: int
    size_bytes: int
    score: float | None
    is_protected: bool = False


def checkpoints_to_delete(checkpoints: list[CheckpointEntry], policy: Policy) -> list[str]:
    """Names to delete, oldest first. `checkpoints` is sorted by step; the newest is never among
    them.

    Kept are the newest `keep_last`, the best `keep_best`, the multiples of `keep_every` and what
    is held. With `max_bytes` they leave room for one more of the newest's size, so that the cap
    holds while that one is written and if its writing fails; for that the oldest go whatever kept
    them.
    """
    keep = {item.name for item in checkpoints[-policy.keep_last :]}
    keep |= {item.name for item in checkpoints if item.is_protected}
    scored = [item for item in checkpoints if item.score is not None]
    scored.sort(key=lambda item: item.score or 0.0, reverse=policy.mode == "max")
    keep |= {item.name for item in scored[: policy.keep_best]}
    if policy.keep_every:
        keep |= {item.name for item in checkpoints if item.step % policy.keep_every == 0}
    if policy.max_bytes is not None and checkpoints:
        left = [item for item in checkpoints if item.name in keep]
        room = policy.max_bytes - checkpoints[-1].size_bytes
        while len(left) > 1 and sum(item.size_bytes for item in left) > room:
            keep.discard(left.pop(0).name)
    return [item.name for item in checkpoints if item.name not in keep]
