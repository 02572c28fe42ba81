"""Contenders of `bench feed`: each counts the clips that it produces in a time slice."""

from __future__ import annotations

import io
import time
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Protocol

import av
import numpy as np
import torch

from orchestrator.data.codec.decode import sample_frame_times
from orchestrator.data.loader.augment import FrameReader, build_frame_reader
from orchestrator.data.loader.clip_reader import ClipLocations
from orchestrator.data.loader.data_loader import open_data_loader
from orchestrator.data.loader.order import Order
from orchestrator.data.packing.prepare import PreparedData
from orchestrator.errors import DataError, RequestError
from orchestrator.estimate import BatchSizes
from orchestrator.job import TrainJob
from orchestrator.randomness import generator


class FeedContender(Protocol):
    """A contender; it runs in its own Ray actor."""

    def run(self, seconds: float) -> tuple[int, float]:
        """Run for about `seconds`; returns the number of clips and the exact time.

        What is in flight when the time begins is made before it begins.
        """


class _BatchCounter:
    """Counts batches of an endless iterator."""

    def __init__(self, batches: Iterator[int], in_flight: int) -> None:
        self._batches, self._in_flight = batches, in_flight

    def run(self, seconds: float) -> tuple[int, float]:
        for _ in range(self._in_flight):
            next(self._batches)
        began, clips = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            clips += next(self._batches)
        return clips, time.perf_counter() - began


class FeedLoop(_BatchCounter):
    """The data loader of a training worker: Ray Data, hashes, augmentation, masks."""

    def __init__(self, job: TrainJob, prepared: PreparedData, threads: int) -> None:
        endless = job.optim.model_copy(update={"steps": 2**31})
        job = job.model_copy(update={"optim": endless})
        feed = open_data_loader(
            job,
            prepared,
            BatchSizes.from_scale(job.scale, 1),
            rank=0,
            start_step=0,
            threads=threads,
            broadcast=lambda value: value,
        )
        made = (sum(int(m.weight.sum()) for m in step.micro_batches) for step in feed)
        super().__init__(made, job.data.prefetch + 1)


class ThreadedDecodeLoop(_BatchCounter):
    """The same clips, decoder and resize in a pool of threads, into batches, and nothing else."""

    def __init__(self, job: TrainJob, prepared: PreparedData, threads: int) -> None:
        self._job, self._places = job, _ClipLocations(job, prepared)
        self._pool = ThreadPoolExecutor(threads)
        self._cut = build_frame_reader(job.data)
        super().__init__(self._made(), job.data.prefetch + 1)

    def _made(self) -> Iterator[int]:
        size = self._job.scale.global_batch
        ahead: deque[list[Future[bool]]] = deque()
        for start in range(0, 2**62, size):
            ahead.append(self._begin(start, size))
            if len(ahead) > self._job.data.prefetch:
                yield sum(clip.result() for clip in ahead.popleft())

    def _begin(self, start: int, size: int) -> list[Future[bool]]:
        data = self._job.data
        video = torch.empty((size, data.frames, data.size, data.size, 3), dtype=torch.uint8)
        places = self._places.rows_at(start, size)
        return [
            self._pool.submit(self._make, *place, out)
            for place, out in zip(places, video.numpy(), strict=True)
        ]

    def _make(self, position: int, source: int, row: dict[str, Any], out: np.ndarray) -> bool:
        times = self._places.frame_times(position, row)
        payload = self._places.read(source, row)
        try:
            self._cut(payload, times, generator(self._job.seed, position, "augment"), out)
        except DataError:
            return False
        return True


class ProcessLoop(_BatchCounter):
    """The same in a process for each core, where the frames are dropped at once: what the cores
    could do if nobody needed the clips."""

    def __init__(self, job: TrainJob, prepared: PreparedData, threads: int) -> None:
        self._places, self._size = _ClipLocations(job, prepared), job.scale.global_batch
        self._pool = ProcessPoolExecutor(
            threads, initializer=_DecodeProcess.prepare, initargs=(job,)
        )
        self._parts = threads
        super().__init__(self._made(job.data.prefetch), job.data.prefetch + 1)

    def _made(self, prefetch: int) -> Iterator[int]:
        ahead: deque[list[Future[int]]] = deque()
        for start in range(0, 2**62, self._size):
            places = self._places.rows_at(start, self._size)
            clips = [
                (position, self._places.frame_times(position, row), self._places.read(source, row))
                for position, source, row in places
            ]
            ahead.append(
                [
                    self._pool.submit(_DecodeProcess.count, clips[i :: self._parts])
                    for i in range(self._parts)
                ]
            )
            if len(ahead) > prefetch:
                yield sum(part.result() for part in ahead.popleft())


class _DecodeProcess:
    """Work of one process of that loop."""

    _job: TrainJob
    _decode: FrameReader

    @classmethod
    def prepare(cls, job: TrainJob) -> None:
        cls._job, cls._decode = job, build_frame_reader(job.data)

    @classmethod
    def count(cls, clips: list[tuple[int, np.ndarray, bytes]]) -> int:
        """Count the clips that can be decoded."""
        data, made = cls._job.data, 0
        for position, times, payload in clips:
            out = np.empty((data.frames, data.size, data.size, 3), np.uint8)
            with suppress(DataError):
                cls._decode(payload, times, generator(cls._job.seed, position, "augment"), out)
                made += 1
        return made


class DecoderLoop(_BatchCounter):
    """FFmpeg's own limit: the frames that must be decoded, one thread a clip, no pixels kept."""

    def __init__(self, job: TrainJob, prepared: PreparedData, threads: int) -> None:
        self._places, self._size = _ClipLocations(job, prepared), job.scale.global_batch
        self._pool = ThreadPoolExecutor(threads)
        super().__init__(self._made(), 0)

    def _made(self) -> Iterator[int]:
        for start in range(0, 2**62, self._size):
            yield sum(self._pool.map(self._make, self._places.rows_at(start, self._size)))

    def _make(self, place: tuple[int, int, dict[str, Any]]) -> int:
        position, source, row = place
        times = self._places.frame_times(position, row)
        with av.open(io.BytesIO(self._places.read(source, row))) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_type, stream.codec_context.thread_count = "NONE", 1
            first = float(stream.time_base) * (stream.start_time or 0)
            container.seek(int(times[0] / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                if frame.time - first >= times[-1]:
                    break
        return 1


class WebDatasetLoop(_BatchCounter):
    """webdataset and torch's DataLoader over the same tars, with the same decoder and resize."""

    def __init__(self, job: TrainJob, prepared: PreparedData, threads: int) -> None:
        try:
            import webdataset
        except ImportError:
            raise RequestError(
                "webdataset is not installed", hint="pip install webdataset"
            ) from None
        cutter, data, seed = build_frame_reader(job.data), job.data, job.seed
        tars = [index.tar_uri(s) for index in prepared.indexes for s in range(index.num_shards)]
        seconds = {
            key: duration
            for index in prepared.indexes
            for shard in range(index.num_shards)
            for key, duration in zip(
                index.shard_rows(shard)["key"].to_pylist(),
                index.shard_rows(shard)["duration_s"].to_pylist(),
                strict=True,
            )
        }

        def make(sample: dict[str, Any]) -> np.ndarray:
            rng = np.random.default_rng([seed, zlib.crc32(sample["__key__"].encode())])
            out = np.empty((data.frames, data.size, data.size, 3), np.uint8)
            times = sample_frame_times(rng, seconds[sample["__key__"]], data.frames, data.fps)
            cutter(sample["mp4"], times, rng, out)
            return out

        dataset = (
            webdataset.WebDataset(
                tars, resampled=True, shardshuffle=False, handler=webdataset.warn_and_continue
            )
            .shuffle(4 * job.scale.global_batch)
            .select(lambda sample: sample["__key__"] in seconds)
            .map(make)
            .batched(job.scale.global_batch)
        )
        loader = torch.utils.data.DataLoader(
            dataset, batch_size=None, num_workers=threads, prefetch_factor=job.data.prefetch
        )
        batches = (len(batch) for batch in loader)
        super().__init__(batches, threads * job.data.prefetch + 1)


class _ClipLocations:
    """Where the clips of the order lie, without anything of the feed's in between."""

    def __init__(self, job: TrainJob, prepared: PreparedData) -> None:
        self._job, self._indexes = job, prepared.indexes
        counts = [index.clips_per_shard for index in prepared.indexes]
        self._order = Order.from_job(job, counts, prepared.weights)
        self._rows: dict[tuple[int, int], list[dict[str, Any]]] = {}

    def rows_at(self, start: int, size: int) -> list[tuple[int, int, dict[str, Any]]]:
        """Position, source and index row of `size` positions."""
        span = ClipLocations.from_order(self._order, np.arange(start, start + size))
        return [
            (int(position), int(source), {**self._shard(int(source), int(shard))[row], "at": shard})
            for position, source, shard, row in zip(
                span.position, span.source, span.shard, span.row, strict=True
            )
        ]

    def frame_times(self, position: int, row: dict[str, Any]) -> np.ndarray:
        """The same frame times as the data loader's."""
        data, rng = self._job.data, generator(self._job.seed, position, "clip")
        return sample_frame_times(rng, row["duration_s"], data.frames, data.fps)

    def read(self, source: int, row: dict[str, Any]) -> bytes:
        return self._indexes[source].read_bytes(int(row["at"]), row["offset"], row["bytes"])

    def _shard(self, source: int, shard: int) -> list[dict[str, Any]]:
        key = (source, shard)
        if key not in self._rows:
            columns = ["offset", "bytes", "duration_s"]
            self._rows[key] = self._indexes[source].shard_rows(shard).select(columns).to_pylist()
        return self._rows[key]
