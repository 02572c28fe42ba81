"""Sums over the steps between two rows of metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from orchestrator.data.loader.batch import StepBatch
from orchestrator.job import Bucket
from orchestrator.training.engine.step import StepResult


class StepMeter:
    """Loss, speed and memory over a window of steps. Losses that are not finite are left out of
    the mean, and a mean of none is left out of the row.

    `step_flops` is the arithmetic of one optimizer step over all ranks, by the shape of its clips
    (empty where that is not known); `peak_flops` the summed peak FLOP/s of their devices, None
    where it is not known (then no MFU is claimed). With several shapes each has its own loss and
    speed.
    """

    def __init__(
        self,
        global_batch: int,
        step_flops: Mapping[Bucket, float],
        peak_flops: float | None,
        device: torch.device,
        *,
        per_bucket: bool,
    ) -> None:
        self.global_batch, self._per_bucket = global_batch, per_bucket
        self.step_flops, self.peak_flops, self.device = step_flops, peak_flops, device
        self.last_row: dict[str, float] = {}
        self.clips = 0.0
        self.steps = 0
        self.seconds = 0.0
        self.save_seconds = 0.0
        self._reset()

    def _reset(self) -> None:
        self._began = time.perf_counter()
        self._loss = _FiniteMean()
        self._clips = self._wait = self._saving = 0.0
        self._failed = self._steps = self._skipped = 0
        self._flops = 0.0
        self._buckets: dict[Bucket, _BucketSums] = {}
        self._result: StepResult | None = None

    def add(self, data: StepBatch, result: StepResult) -> None:
        """One step: `data` as rank 0 got it, `result` as the engine gave it."""
        self._steps += 1
        self._loss.add(result.loss)
        self._clips += result.num_clips
        self._wait += data.wait_s
        self._failed += self.global_batch - round(result.num_clips)
        self._skipped += not result.applied
        bucket = data.micro_batches[0].bucket
        self._flops += self.step_flops.get(bucket, 0.0)
        self._buckets.setdefault(bucket, _BucketSums()).add(result)
        self._result = result

    def add_save_seconds(self, seconds: float) -> None:
        """Seconds that a step waited for a checkpoint: the copy to the host, mostly."""
        self._saving += seconds

    def progress_facts(self) -> dict[str, float | str]:
        """What stands beside the progress bar."""
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        if not self._steps:
            return dict(self.last_progress_facts())
        return {
            "loss": self._loss.value,
            "clips/s": self._clips / elapsed,
            "data wait": f"{100 * self._wait / elapsed:.0f}%",
        }

    def last_progress_facts(self) -> dict[str, float | str]:
        """The same of the last whole window."""
        if not self.last_row:
            return {}
        return {
            "loss": self.last_row.get("train/loss", math.nan),
            "clips/s": self.last_row["speed/clips_per_s"],
            "data wait": f"{100 * self.last_row['speed/data_wait']:.0f}%",
        }

    def flush_row(self, extra: dict[str, float]) -> dict[str, float]:
        """Means over the window, which then starts anew; `extra` stands beside them."""
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        steps, result = max(self._steps, 1), self._result
        row = {
            **self._loss.as_metric("train/loss"),
            "speed/clips_per_s": self._clips / elapsed,
            "speed/step_s": elapsed / steps,
            "speed/data_wait": self._wait / elapsed,
            "speed/saving": self._saving / elapsed,
            "data/failed_clips": float(self._failed),
            "train/skipped_steps": float(self._skipped),
            **_peak_memory(self.device),
            **extra,
        }
        if result is not None:
            row["train/lr"] = result.lr
            row["train/weight_decay"] = result.weight_decay
            if math.isfinite(result.grad_norm):
                row["train/grad_norm"] = result.grad_norm
            row["train/clips"] = result.num_clips
        if self.peak_flops is not None and self.step_flops:
            row["speed/mfu"] = self._flops / elapsed / self.peak_flops
        for bucket, summed in self._buckets.items() if self._per_bucket else ():
            name = f"bucket/{bucket.frames}x{bucket.size}"
            row |= summed.loss.as_metric(f"{name}/loss")
            row[f"{name}/clips_per_s"] = summed.clips / max(summed.seconds, 1e-9)
        self.clips += self._clips
        self.steps += self._steps
        self.seconds += elapsed
        self.save_seconds += self._saving
        self.last_row = row
        self._reset()
        return row

    def totals(self) -> dict[str, Any]:
        """Clips, steps, seconds, and seconds of saving, since this attempt began to train."""
        return {
            "clips": self.clips,
            "steps": self.steps,
            "seconds": self.seconds,
            "saving_s": self.save_seconds,
        }


@dataclass
class _FiniteMean:
    """The mean of the numbers that are finite; NaN of none."""

    total: float = 0.0
    count: int = 0

    def add(self, number: float) -> None:
        if math.isfinite(number):
            self.total += number
            self.count += 1

    @property
    def value(self) -> float:
        return self.total / self.count if self.count else math.nan

    def as_metric(self, name: str) -> dict[str, float]:
        return {name: self.value} if self.count else {}


@dataclass
class _BucketSums:
    """Sums over the steps of one shape of clips. `seconds`: of computing, not of waiting."""

    loss: _FiniteMean = field(default_factory=_FiniteMean)
    clips: float = 0.0
    seconds: float = 0.0

    def add(self, result: StepResult) -> None:
        self.loss.add(result.loss)
        self.clips += result.num_clips
        self.seconds += result.phase_seconds["step"]


def _peak_memory(device: torch.device) -> dict[str, float]:
    """Peak memory in GiB: the device's, and this process's resident set."""
    import resource

    values = {"memory/host_peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    if device.type == "cuda":
        values["memory/gpu_peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return values
