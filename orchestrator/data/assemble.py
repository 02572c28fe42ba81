"""From coded rows to micro-batches: decode, augment and draw masks, many clips side by side."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from orchestrator.data.augment import build_cutter
from orchestrator.data.batch import Batch, Failure
from orchestrator.data.decode import clip_times
from orchestrator.data.isolated import IsolatedCutter
from orchestrator.errors import DataError
from orchestrator.jepa.masks import MaskSampler, build_masks, truncate_to_minimum
from orchestrator.job import TrainJob
from orchestrator.randomness import generator

Drawn = list[tuple[np.ndarray, np.ndarray]]


@dataclass
class _Clip:
    """One row's outcome: its masks, and why it failed if it did."""

    masks: Drawn
    reason: str | None
    sha256: str
    """Of the bytes that were decoded; empty where there were none."""


class Assembler:
    """Makes a job's micro-batches. Everything random is drawn from (seed, position).

    Args:
        threads: clips decoded at a time.
        isolated: each in a process of its own, or all in this one.
    """

    def __init__(self, job: TrainJob, micro: int, threads: int, *, isolated: bool) -> None:
        self._seed, self._data, self._micro = job.seed, job.data, micro
        self._isolated = IsolatedCutter(job.data) if isolated else None
        self._cut = self._isolated or build_cutter(job.data)
        self._masks = build_masks(job)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def begin(self, rows: pa.Table) -> list[PendingBatch]:
        """Start on one step's rows; the micro-batches come from `PendingBatch.finish`."""
        return [self._begin(rows.slice(at, self._micro)) for at in range(0, len(rows), self._micro)]

    def close(self) -> None:
        """Drop what has not been started, and end threads and processes."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._isolated is not None:
            self._isolated.close()

    def _begin(self, rows: pa.Table) -> PendingBatch:
        data = self._data
        video = torch.empty((len(rows), data.frames, data.size, data.size, 3), dtype=torch.uint8)
        pixels = video.numpy()
        columns = {name: rows[name].to_pylist() for name in rows.column_names if name != "payload"}
        # `as_buffer` does not copy: the bytes stay where Ray put them until they are decoded.
        payloads = [value.as_buffer() for value in rows["payload"]]
        clips = [
            self._pool.submit(
                self._make,
                columns["position"][i],
                payloads[i],
                columns["duration_s"][i],
                columns["sha256"][i],
                columns["reason"][i],
                pixels[i],
            )
            for i in range(len(rows))
        ]
        return PendingBatch(video, columns, self._masks, clips)

    def _make(
        self,
        position: int,
        payload: Any,
        duration_s: float,
        indexed: str,
        reason: str | None,
        out: np.ndarray,
    ) -> _Clip:
        """Write one clip's pixels into `out` (black if it cannot be had) and draw its masks."""
        masks = [
            sampler(generator(self._seed, position, "masks", part))
            for part, sampler in enumerate(self._masks)
        ]
        if payload is None:
            out.fill(0)
            return _Clip(masks, reason, "")
        # Of what is here now, not what the index promised: the ledger is to be a witness.
        sha256 = hashlib.sha256(payload).hexdigest()
        rng = generator(self._seed, position, "clip")
        try:
            if sha256 != indexed:
                raise DataError("is not the clip that was indexed (sha256 differs)")
            times = clip_times(rng, duration_s, self._data.frames, self._data.fps)
            self._cut(payload, times, generator(self._seed, position, "augment"), out)
        except DataError as error:
            out.fill(0)
            reason = error.what
        return _Clip(masks, reason, sha256)


class PendingBatch:
    """A micro-batch whose clips are being decoded."""

    def __init__(
        self,
        video: torch.Tensor,
        columns: dict[str, list[Any]],
        samplers: list[MaskSampler],
        clips: list[Future[_Clip]],
    ) -> None:
        self._video, self._columns = video, columns
        self._samplers, self._clips = samplers, clips

    def finish(self) -> Batch:
        """Wait for the last clip. Errors that are not a clip's own fault are raised."""
        clips = [future.result() for future in self._clips]
        columns = self._columns
        weight = torch.tensor(columns["weight"], dtype=torch.float32)
        failures = []
        for i, clip in enumerate(clips):
            if clip.reason is not None:
                weight[i] = 0
                key, shard = columns["key"][i], columns["shard"][i]
                failures.append(Failure(columns["position"][i], key, shard, clip.reason))
        return Batch(
            video=self._video,
            weight=weight,
            position=np.array(columns["position"], dtype=np.int64),
            masks=[
                _stack([clip.masks[part] for clip in clips], sampler.fixed)
                for part, sampler in enumerate(self._samplers)
            ],
            keys=columns["key"],
            hashes=[clip.sha256 for clip in clips],
            failures=failures,
        )


def _stack(drawn: Drawn, fixed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    if not fixed:
        drawn = truncate_to_minimum(drawn)
    context, target = zip(*drawn, strict=True)
    return torch.from_numpy(np.stack(context)), torch.from_numpy(np.stack(target))
