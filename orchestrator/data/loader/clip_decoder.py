"""Decodes encoded clips to pixels, masks and actions; every draw is keyed by (seed, position)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np

from orchestrator.data.codec.decode import sample_frame_times
from orchestrator.data.loader.action_data import ActionReader
from orchestrator.data.loader.augment import build_frame_reader
from orchestrator.data.loader.clip import ClipActions, DecodedClip, EncodedClip
from orchestrator.data.loader.pixel_buffer import PixelBuffer, VideoShape
from orchestrator.errors import DataError
from orchestrator.jepa.masks import Ids, MaskConfig, TokenGrid, mask_configs, samplers_for
from orchestrator.job import Data, TrainJob
from orchestrator.randomness import generator


class DecodeConfig(Protocol):
    """How clips are decoded: small and picklable, so that it can be sent to other processes."""

    @property
    def shapes(self) -> tuple[VideoShape, ...]:
        """Shape [T, H, W, 3] of a clip's pixels, by the `spec_index` of its row."""

    def build_decoder(self, micro: int) -> InProcessClipDecoder:
        """A decoder in the calling process, for micro-batches of `micro` clips."""


class ClipDecoder(Protocol):
    """Decodes clips; several threads may call it at a time."""

    def new_buffer(self, spec: int = 0) -> PixelBuffer:
        """A buffer for the pixels of a micro-batch whose rows have this `spec_index`."""

    def decode(
        self, rows: list[EncodedClip], buffer: PixelBuffer, first_row: int
    ) -> list[DecodedClip]:
        """Write the rows' pixels into the buffer, from its row `first_row` on.

        Raises:
            Exception: whatever a user's augmentation raised, unless it is a DataError.
        """

    def close(self) -> None:
        """Stop background work. No thread may be in a call."""


class InProcessClipDecoder(ClipDecoder, Protocol):
    """A `ClipDecoder` that decodes in the calling process."""

    def failed_clip(self, row: EncodedClip, reason: str | None, out: np.ndarray) -> DecodedClip:
        """The result for a row that cannot be used: black pixels, with masks like any other."""


@dataclass(frozen=True)
class TrainDecodeConfig:
    """How the clips of a train job are decoded; one clip shape."""

    seed: int
    data: Data
    masks: list[MaskConfig]
    grid: TokenGrid

    @classmethod
    def from_job(cls, job: TrainJob) -> TrainDecodeConfig:
        return cls(job.seed, job.data, mask_configs(job), job.grid)

    @property
    def shapes(self) -> tuple[VideoShape]:
        """The one shape [T, H, W, 3] of a clip's pixels."""
        return ((self.data.frames, self.data.size, self.data.size, 3),)

    def build_decoder(self, micro: int) -> InProcessDecoder:
        """A decoder in the calling process, for micro-batches of `micro` clips."""
        return InProcessDecoder(self, micro)


class InProcessDecoder:
    """Decodes clips of one shape in the calling process; a buffer holds `micro` of them."""

    _action_reader: ActionReader | None = None

    def __init__(self, config: TrainDecodeConfig, micro: int) -> None:
        self._seed, self._data = config.seed, config.data
        self._shape = (micro, *config.shapes[0])
        self._read_frames = build_frame_reader(config.data)
        self._samplers = samplers_for(config.masks, config.grid)
        if config.data.actions is not None:
            self._action_reader = ActionReader(config.data)

    def new_buffer(self, spec: int = 0) -> PixelBuffer:
        return PixelBuffer(np.empty(self._shape, np.uint8))

    def decode(
        self, rows: list[EncodedClip], buffer: PixelBuffer, first_row: int
    ) -> list[DecodedClip]:
        return [self._decode_row(row, buffer.array[first_row + i]) for i, row in enumerate(rows)]

    def failed_clip(self, row: EncodedClip, reason: str | None, out: np.ndarray) -> DecodedClip:
        """The result for a row that cannot be used: black pixels, with masks like any other."""
        out.fill(0)
        actions = None if self._action_reader is None else self._action_reader.zeros()
        return DecodedClip(self._sample_masks(row), reason, row.content_hash(), actions)

    def close(self) -> None:
        """Nothing to stop."""

    def _decode_row(self, row: EncodedClip, out: np.ndarray) -> DecodedClip:
        if row.payload is None:
            return self.failed_clip(row, row.reason, out)
        # Hashed anew, not copied from the index: the clip ledger records what was really decoded.
        sha256 = row.content_hash()
        try:
            if sha256 != row.sha256:
                raise DataError("is not the clip that was indexed (sha256 differs)")
            actions = self._decode_pixels(row, out)
        except DataError as error:
            return self.failed_clip(row, error.what, out)
        return DecodedClip(self._sample_masks(row), None, sha256, actions)

    def _decode_pixels(self, row: EncodedClip, out: np.ndarray) -> ClipActions | None:
        clip_rng = generator(self._seed, row.position, "clip")
        augment_rng = generator(self._seed, row.position, "augment")
        if self._action_reader is None:
            times = sample_frame_times(clip_rng, row.duration_s, self._data.frames, self._data.fps)
            self._read_frames(row.payload, times, augment_rng, out)
            return None
        frames = self._action_reader.sample_frame_indices(row, clip_rng)
        actions = self._action_reader.read(row, frames)
        self._read_frames(row.payload, frames, augment_rng, out)
        return actions

    def _sample_masks(self, row: EncodedClip) -> list[tuple[Ids, Ids]]:
        return [
            sampler(generator(self._seed, row.position, "masks", part))
            for part, sampler in enumerate(self._samplers)
        ]


def decode_config_of(job: TrainJob) -> DecodeConfig:
    """How a job's clips are decoded, for all of its sources."""
    jobs = jobs_by_clip_spec(job)
    if len(jobs) == 1:
        return TrainDecodeConfig.from_job(jobs[0])
    return MultiSpecDecodeConfig(tuple(map(TrainDecodeConfig.from_job, jobs)))


def jobs_by_clip_spec(job: TrainJob) -> list[TrainJob]:
    """The job with each of its distinct clip specs; a row's `spec_index` is an index into them."""
    return [job.with_clip_spec(spec) for spec in dict.fromkeys(job.data.clip_specs)]


@dataclass(frozen=True)
class MultiSpecDecodeConfig:
    """How clips are decoded if sources differ in frames, rate or size: one config per clip spec."""

    configs: tuple[TrainDecodeConfig, ...]

    @property
    def shapes(self) -> tuple[VideoShape, ...]:
        """Shape [T, H, W, 3] of a clip's pixels, by the `spec_index` of its row."""
        return tuple(chain.from_iterable(config.shapes for config in self.configs))

    def build_decoder(self, micro: int) -> MultiSpecDecoder:
        """A decoder in the calling process, for micro-batches of `micro` clips."""
        return MultiSpecDecoder(self.configs, micro)


class MultiSpecDecoder:
    """Decodes each clip with the config of its row's `spec_index`, in the calling process."""

    def __init__(self, configs: Sequence[TrainDecodeConfig], micro: int) -> None:
        self._decoders = [InProcessDecoder(config, micro) for config in configs]

    def new_buffer(self, spec: int = 0) -> PixelBuffer:
        return self._decoders[spec].new_buffer()

    def decode(
        self, rows: list[EncodedClip], buffer: PixelBuffer, first_row: int
    ) -> list[DecodedClip]:
        return [
            clip
            for i, row in enumerate(rows)
            for clip in self._decoders[row.spec_index].decode([row], buffer, first_row + i)
        ]

    def failed_clip(self, row: EncodedClip, reason: str | None, out: np.ndarray) -> DecodedClip:
        """The result for a row that cannot be used: black pixels, with masks like any other."""
        return self._decoders[row.spec_index].failed_clip(row, reason, out)

    def close(self) -> None:
        """Nothing to stop."""
