"""Sums over the steps between two rows of metrics."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from orchestrator.data.batch import StepBatch
from orchestrator.job import Bucket
from orchestrator.training.step import StepResult


class Meter:
    """Loss, speed and memory over a window of steps.

    `step_flops` is the arithmetic of one optimizer step over all ranks, by the shape of its clips
    (empty where that is not known); `peak` the summed peak FLOP/s of their devices, None where it
    is not known (then no MFU is claimed). With several shapes each has its own loss and speed.
    """

    def __init__(
        self,
        global_batch: int,
        step_flops: Mapping[Bucket, float],
        peak: float | None,
        device: torch.device,
        *,
        apart: bool,
    ) -> None:
        self.global_batch, self._apart = global_batch, apart
        self.step_flops, self.peak, self.device = step_flops, peak, device
        self.last: dict[str, float] = {}
        self.clips = 0.0
        self.steps = 0
        self.seconds = 0.0
        self.saving = 0.0
        self._reset()

    def _reset(self) -> None:
        self._began = time.perf_counter()
        self._loss = self._clips = self._wait = self._saving = 0.0
        self._failed = self._steps = self._skipped = 0
        self._flops = 0.0
        self._buckets: dict[Bucket, _Bucket] = {}
        self._result: StepResult | None = None

    def add(self, data: StepBatch, result: StepResult) -> None:
        """One step: `data` as rank 0 got it, `result` as the engine gave it."""
        self._steps += 1
        self._loss += result.loss
        self._clips += result.clips
        self._wait += data.wait_s
        self._failed += self.global_batch - round(result.clips)
        self._skipped += not result.applied
        bucket = data.micro[0].bucket
        self._flops += self.step_flops.get(bucket, 0.0)
        self._buckets.setdefault(bucket, _Bucket()).add(result)
        self._result = result

    def add_saving(self, seconds: float) -> None:
        """Seconds that a step waited for a checkpoint: the copy to the host, mostly."""
        self._saving += seconds

    def facts(self) -> dict[str, float | str]:
        """What stands beside the progress bar."""
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        if not self._steps:
            return dict(self.last_facts())
        return {
            "loss": self._loss / self._steps,
            "clips/s": self._clips / elapsed,
            "data wait": f"{100 * self._wait / elapsed:.0f}%",
        }

    def last_facts(self) -> dict[str, float | str]:
        """The same of the last whole window."""
        if not self.last:
            return {}
        return {
            "loss": self.last["train/loss"],
            "clips/s": self.last["speed/clips_per_s"],
            "data wait": f"{100 * self.last['speed/data_wait']:.0f}%",
        }

    def row(self, extra: dict[str, float]) -> dict[str, float]:
        """Means over the window, which then starts anew; `extra` stands beside them."""
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        steps, result = max(self._steps, 1), self._result
        row = {
            "train/loss": self._loss / steps,
            "speed/clips_per_s": self._clips / elapsed,
            "speed/step_s": elapsed / steps,
            "speed/data_wait": self._wait / elapsed,
            "speed/saving": self._saving / elapsed,
            "data/failed_clips": float(self._failed),
            "train/skipped_steps": float(self._skipped),
            **_memory(self.device),
            **extra,
        }
        if result is not None:
            row["train/lr"] = result.lr
            row["train/weight_decay"] = result.weight_decay
            row["train/grad_norm"] = result.grad_norm
            row["train/clips"] = result.clips
        if self.peak is not None and self.step_flops:
            row["speed/mfu"] = self._flops / elapsed / self.peak
        for bucket, summed in self._buckets.items() if self._apart else ():
            name = f"bucket/{bucket.frames}x{bucket.size}"
            row[f"{name}/loss"] = summed.loss / summed.steps
            row[f"{name}/clips_per_s"] = summed.clips / max(summed.seconds, 1e-9)
        self.clips += self._clips
        self.steps += self._steps
        self.seconds += elapsed
        self.saving += self._saving
        self.last = row
        self._reset()
        return row

    def totals(self) -> dict[str, Any]:
        """Clips, steps, seconds, and seconds of saving, since this attempt began to train."""
        return {
            "clips": self.clips,
            "steps": self.steps,
            "seconds": self.seconds,
            "saving_s": self.saving,
        }


@dataclass
class _Bucket:
    """Sums over the steps of one shape of clips. `seconds`: of computing, not of waiting."""

    steps: int = 0
    loss: float = 0.0
    clips: float = 0.0
    seconds: float = 0.0

    def add(self, result: StepResult) -> None:
        self.steps += 1
        self.loss += result.loss
        self.clips += result.clips
        self.seconds += result.times["step"]


def _memory(device: torch.device) -> dict[str, float]:
    """Peak memory in GiB: the device's, and this process's resident set."""
    import resource

    values = {"memory/host_peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    if device.type == "cuda":
        values["memory/gpu_peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return values
