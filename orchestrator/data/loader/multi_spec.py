"""Clips of several sources that are cut in different ways: by frames, rate or size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from orchestrator.data.loader.clip import DecodedClip, EncodedClip
from orchestrator.data.loader.clip_decoder import DecodeConfig, InProcessDecoder, TrainDecodeConfig
from orchestrator.data.loader.order import PADDING, Order
from orchestrator.data.loader.pixel_buffer import PixelBuffer, VideoShape
from orchestrator.job import TrainJob


def decode_config_of(job: TrainJob) -> DecodeConfig:
    """How a job's clips are made, whatever source they are of."""
    jobs = jobs_by_clip_spec(job)
    if len(jobs) == 1:
        return TrainDecodeConfig.from_job(jobs[0])
    return MultiSpecDecodeConfig(tuple(map(TrainDecodeConfig.from_job, jobs)))


def jobs_by_clip_spec(job: TrainJob) -> list[TrainJob]:
    """The job as each way of cutting clips sees it; a row's `spec` counts through them."""
    return [job.with_clip_spec(spec) for spec in dict.fromkeys(job.data.clip_specs)]


@dataclass(frozen=True)
class MultiSpecDecodeConfig:
    """One recipe for each way of cutting clips."""

    configs: tuple[TrainDecodeConfig, ...]

    @property
    def shapes(self) -> tuple[VideoShape, ...]:
        """Of a clip's pixels, by the `spec` of its row."""
        return tuple(chain.from_iterable(recipe.shapes for recipe in self.configs))

    def build_decoder(self, micro: int) -> MultiSpecDecoder:
        """What makes their clips in the process that asks."""
        return MultiSpecDecoder(self.configs, micro)


class MultiSpecDecoder:
    """Makes each clip by the recipe of its own row, in this process."""

    def __init__(self, recipes: Sequence[TrainDecodeConfig], micro: int) -> None:
        self._makers = [InProcessDecoder(recipe, micro) for recipe in recipes]

    def new_buffer(self, spec: int = 0) -> PixelBuffer:
        return self._makers[spec].new_buffer()

    def decode(
        self, rows: list[EncodedClip], buffer: PixelBuffer, first_row: int
    ) -> list[DecodedClip]:
        return [
            clip
            for i, row in enumerate(rows)
            for clip in self._makers[row.spec_index].decode([row], buffer, first_row + i)
        ]

    def failed_clip(self, row: EncodedClip, reason: str | None, out: np.ndarray) -> DecodedClip:
        """The clip of a row that cannot be used: black, and masked like any other."""
        return self._makers[row.spec_index].failed_clip(row, reason, out)

    def close(self) -> None:
        """Nothing runs."""


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
