"""What the feed hands to the training loop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from orchestrator.jepa.action_batch import ActionBatch
from orchestrator.job import Bucket


@dataclass(frozen=True)
class ClipFailure:
    """A position whose clip could not be used. It keeps its place, with weight 0."""

    position: int
    key: str
    shard: str
    reason: str


@dataclass
class Batch:
    """One micro-batch on the CPU."""

    video: torch.Tensor
    """uint8 [B, T, H, W, 3]; black where the weight is 0."""

    weight: torch.Tensor
    """float32 [B]; 0 for padding and for clips that failed."""

    position: np.ndarray
    """int64 [B]; -1 for padding."""

    masks: list[tuple[torch.Tensor, torch.Tensor]]
    """Per mask kind: context int64 [B, n_c] and target int64 [B, n_t]."""

    keys: list[str]
    """The clips' keys; empty for padding."""

    content_hashes: list[str]
    """sha256 of the payloads that were decoded, and of the arrays read beside them
    (`sidecar_arrays.combine_hashes`); empty for padding."""

    failures: list[ClipFailure]
    """The rows that failed, by position."""

    actions: ActionBatch | None = None
    """Actions and states, zeros where the weight is 0; None: the job has no `data.actions`."""

    @property
    def bucket(self) -> Bucket:
        """The shape of its clips, the same in all micro-batches of a step."""
        return Bucket(self.video.shape[1], self.video.shape[2])


@dataclass
class StepBatch:
    """One rank's share of one optimizer step."""

    step: int
    micro_batches: list[Batch]
    wait_s: float
    """Seconds that the training loop waited for this step's data."""
