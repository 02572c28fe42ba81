"""Decodes the rows of a step in parallel and collates them to micro-batches."""

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


_COLUMNS = ("position", "weight", "key", "shard")


class BatchAssembler:
    """Makes a job's micro-batches. Every draw is keyed by (seed, position).

    Args:
        spec_lookup: gives the clip spec of each row.
        micro: rows per micro-batch.
        threads: clips decoded at a time.
        in_subprocesses: decode in one subprocess per thread instead of in this process.
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
        self._fixed_size_masks = [
            [mask.fixed for mask in build_mask_samplers(spec_job)]
            for spec_job in jobs_by_clip_spec(job)
        ]
        self._decoder: ClipDecoder
        chunk = 1
        if in_subprocesses:
            self._decoder = decoder = SubprocessDecoder(decode_config_of(job), micro)
            chunk = decoder.clips_per_request
        else:
            self._decoder = decode_config_of(job).build_decoder(micro)
        # Every thread gets a part of every micro-batch.
        self._chunk = max(1, min(chunk, micro // threads))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def start_step(self, step: int, rows: pa.Table) -> list[PendingBatch]:
        """Start to decode the rows of a step; `PendingBatch.result` gives the micro-batches."""
        specs, size = self._specs.indices_of(step, rows["position"].to_numpy()), self._micro
        return [
            self._begin(rows.slice(start, size), specs[start : start + size])
            for start in range(0, len(rows), size)
        ]

    def close(self) -> None:
        """Drop what has not been started, and stop threads and processes."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._decoder.close()

    def _begin(self, rows: pa.Table, specs: list[int]) -> PendingBatch:
        buffer, chunk = self._decoder.new_buffer(specs[0]), self._chunk
        encoded = [
            replace(row, spec_index=spec) if spec else row
            for row, spec in zip(rows_to_encoded_clips(rows), specs, strict=True)
        ]
        columns = {name: rows[name].to_pylist() for name in _COLUMNS}
        clips = [
            self._pool.submit(self._decoder.decode, encoded[start : start + chunk], buffer, start)
            for start in range(0, len(rows), chunk)
        ]
        return PendingBatch(
            torch.from_numpy(buffer.array), columns, self._fixed_size_masks[specs[0]], clips
        )


class PendingBatch:
    """A micro-batch that is being decoded."""

    def __init__(
        self,
        video: torch.Tensor,
        columns: dict[str, list[Any]],
        fixed_size_masks: list[bool],
        clips: list[Future[list[DecodedClip]]],
    ) -> None:
        self._video, self._columns = video, columns
        self._fixed_size_masks, self._clips = fixed_size_masks, clips

    def result(self) -> Batch:
        """Wait for the last clip.

        Raises:
            Exception: any error of decoding other than a DataError of a clip.
        """
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
                _stack([clip.masks[part] for clip in clips], fixed_size)
                for part, fixed_size in enumerate(self._fixed_size_masks)
            ],
            keys=columns["key"],
            content_hashes=[clip.sha256 for clip in clips],
            failures=failures,
            actions=stack_actions([clip.actions for clip in clips if clip.actions is not None]),
        )


def stack_actions(clips: list[ClipActions]) -> ActionBatch | None:
    """Collate actions and states of a micro-batch; None if the job reads none."""
    if not clips:
        return None
    actions, states = zip(*((clip.actions, clip.states) for clip in clips), strict=True)
    return ActionBatch(torch.from_numpy(np.stack(actions)), torch.from_numpy(np.stack(states)))


def _stack(masks: SampledMasks, fixed_size: bool) -> tuple[torch.Tensor, torch.Tensor]:
    if not fixed_size:
        masks = truncate_to_minimum(masks)
    context, target = zip(*masks, strict=True)
    return torch.from_numpy(np.stack(context)), torch.from_numpy(np.stack(target))


class SpecLookup:
    """Finds the clip spec of the rows of a step: an index into `jobs_by_clip_spec`."""

    def __init__(self, job: TrainJob, order: Order) -> None:
        distinct = list(dict.fromkeys(job.data.clip_specs))
        self._order, self._several = order, len(distinct) > 1
        self._of_source = np.array([distinct.index(spec) for spec in job.data.clip_specs])
        buckets = [spec.bucket for spec in distinct]
        self._of_bucket = [buckets.index(bucket) for bucket in job.data.buckets]

    def indices_of(self, step: int, positions: np.ndarray) -> list[int]:
        """The spec of each row of a step; padding gets one of the step's shape.

        Args:
            positions: int64 [rows].
        """
        if not self._several:
            return [0] * len(positions)
        indices = np.full(len(positions), self._of_bucket[self._order.bucket_of_step(step)])
        is_clip = positions != PADDING
        indices[is_clip] = self._of_source[self._order.source_of(positions[is_clip])]
        result: list[int] = indices.tolist()
        return result
