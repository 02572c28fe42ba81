"""From coded rows to micro-batches, many clips side by side."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from orchestrator.data.loader.batch import Batch, ClipFailure
from orchestrator.data.loader.clip import (
    ClipActions,
    DecodedClip,
    rows_to_encoded_clips,
)
from orchestrator.data.loader.clip_decoder import (
    ClipDecoder,
    decode_config_of,
    jobs_by_clip_spec,
)
from orchestrator.data.loader.order import PADDING, Order
from orchestrator.data.loader.subprocess_decoder import SubprocessDecoder
from orchestrator.jepa.action_batch import ActionBatch
from orchestrator.jepa.masks import Ids, build_mask_samplers, truncate_to_minimum
from orchestrator.job import TrainJob

SampledMasks = list[tuple[Ids, Ids]]


_NOTED = ("position", "weight", "key", "shard")


class BatchAssembler:
    """Makes a job's micro-batches. Everything random is drawn from (seed, position).

    Args:
        spec_lookup: says by which of the job's ways of cutting clips a row is made.
        threads: clips decoded at a time.
        in_subprocesses: each in a process of its own, or all in this one.
    """

    def __init__(
        self,
        job: TrainJob,
        spec_lookup: SpecLookup,
        micro: int,
        threads: int,
        *,
        in_subprocesses: bool,
    ) -> None:
        self._specs, self._micro = spec_lookup, micro
        self._fixed = [
            [mask.fixed_counts for mask in build_mask_samplers(one)]
            for one in jobs_by_clip_spec(job)
        ]
        self._maker: ClipDecoder
        chunk = 1
        if in_subprocesses:
            self._maker = maker = SubprocessDecoder(decode_config_of(job), micro)
            chunk = maker.clips_per_request
        else:
            self._maker = decode_config_of(job).build_decoder(micro)
        # Every thread is to have a part in every micro-batch.
        self._chunk = max(1, min(chunk, micro // threads))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def start_step(self, step: int, rows: pa.Table) -> list[PendingBatch]:
        """Start on one step's rows; the micro-batches come from `PendingBatch.result`."""
        specs, size = self._specs.indices_of(step, rows["position"].to_numpy()), self._micro
        return [
            self._begin(rows.slice(at, size), specs[at : at + size])
            for at in range(0, len(rows), size)
        ]

    def close(self) -> None:
        """Drop what has not been started, and end threads and processes."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._maker.close()

    def _begin(self, rows: pa.Table, specs: list[int]) -> PendingBatch:
        canvas, size = self._maker.new_buffer(specs[0]), self._chunk
        coded = [
            replace(row, spec_index=spec) if spec else row
            for row, spec in zip(rows_to_encoded_clips(rows), specs, strict=True)
        ]
        columns = {name: rows[name].to_pylist() for name in _NOTED}
        clips = [
            self._pool.submit(self._maker.decode, coded[at : at + size], canvas, at)
            for at in range(0, len(rows), size)
        ]
        return PendingBatch(torch.from_numpy(canvas.array), columns, self._fixed[specs[0]], clips)


class PendingBatch:
    """A micro-batch whose clips are being decoded."""

    def __init__(
        self,
        video: torch.Tensor,
        columns: dict[str, list[Any]],
        fixed_size_masks: list[bool],
        clips: list[Future[list[DecodedClip]]],
    ) -> None:
        self._video, self._columns = video, columns
        self._fixed, self._clips = fixed_size_masks, clips

    def result(self) -> Batch:
        """Wait for the last clip. Errors that are not a clip's own fault are raised."""
        clips = [clip for future in self._clips for clip in future.result()]
        columns = self._columns
        weight = torch.tensor(columns["weight"], dtype=torch.float32)
        failures = []
        for i, clip in enumerate(clips):
            if clip.reason is not None:
                weight[i] = 0
                key, shard = columns["key"][i], columns["shard"][i]
                failures.append(ClipFailure(columns["position"][i], key, shard, clip.reason))
        return Batch(
            video=self._video,
            weight=weight,
            position=np.array(columns["position"], dtype=np.int64),
            masks=[
                _stack([clip.masks[part] for clip in clips], fixed)
                for part, fixed in enumerate(self._fixed)
            ],
            keys=columns["key"],
            content_hashes=[clip.sha256 for clip in clips],
            failures=failures,
            actions=stack_actions([clip.actions for clip in clips if clip.actions is not None]),
        )


def stack_actions(moved: list[ClipActions]) -> ActionBatch | None:
    """What was done in all clips of a micro-batch; None where nobody asked."""
    if not moved:
        return None
    actions, states = zip(*((one.actions, one.states) for one in moved), strict=True)
    return ActionBatch(torch.from_numpy(np.stack(actions)), torch.from_numpy(np.stack(states)))


def _stack(drawn: SampledMasks, fixed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    if not fixed:
        drawn = truncate_to_minimum(drawn)
    context, target = zip(*drawn, strict=True)
    return torch.from_numpy(np.stack(context)), torch.from_numpy(np.stack(target))


class SpecLookup:
    """By which `spec` the rows of a step are made."""

    def __init__(self, job: TrainJob, order: Order) -> None:
        distinct = list(dict.fromkeys(job.data.clip_specs))
        self._order, self._several = order, len(distinct) > 1
        self._of_source = np.array([distinct.index(spec) for spec in job.data.clip_specs])
        buckets = [spec.bucket for spec in distinct]
        self._of_bucket = [buckets.index(bucket) for bucket in job.data.buckets]

    def indices_of(self, step: int, positions: np.ndarray) -> list[int]:
        """Of each row at int64 `positions`; padding is made like any clip of the step's shape."""
        if not self._several:
            return [0] * len(positions)
        found = np.full(len(positions), self._of_bucket[self._order.bucket_of_step(step)])
        real = positions != PADDING
        found[real] = self._of_source[self._order.source_of(positions[real])]
        specs: list[int] = found.tolist()
        return specs
