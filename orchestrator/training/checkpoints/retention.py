"""Which checkpoints are kept: pure arithmetic on what there is."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.job.config.train import Checkpoint as Policy


@dataclass(frozen=True)
class Kept:
    """A complete checkpoint. `score` is its value of the policy's metric, None where it has none;
    `size` in bytes is 0 where no cap asks for it; `held` while somebody has yet to read it."""

    name: str
    step: int
    size: int
    score: float | None
    held: bool = False


def to_drop(there: list[Kept], policy: Policy) -> list[str]:
    """Names to delete, oldest first. `there` is sorted by step; the newest is never among them.

    Kept are the newest `keep_last`, the best `keep_best`, the multiples of `keep_every` and what
    is held. With `max_bytes` they leave room for one more of the newest's size, so that the cap
    holds while that one is written and if its writing fails; for that the oldest go whatever kept
    them.
    """
    keep = {item.name for item in there[-policy.keep_last :]}
    keep |= {item.name for item in there if item.held}
    scored = [item for item in there if item.score is not None]
    scored.sort(key=lambda item: item.score or 0.0, reverse=policy.mode == "max")
    keep |= {item.name for item in scored[: policy.keep_best]}
    if policy.keep_every:
        keep |= {item.name for item in there if item.step % policy.keep_every == 0}
    if policy.max_bytes is not None and there:
        left = [item for item in there if item.name in keep]
        room = policy.max_bytes - there[-1].size
        while len(left) > 1 and sum(item.size for item in left) > room:
            keep.discard(left.pop(0).name)
    return [item.name for item in there if item.name not in keep]
