"""From coded clips to pixels and masks; everything random is drawn from (seed, position)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from orchestrator.data.codec.decode import sample_frame_times
from orchestrator.data.loader.action_data import ActionReader, ClipActions
from orchestrator.data.loader.augment import build_frame_reader
from orchestrator.data.loader.pixel_buffer import PixelBuffer, VideoShape
from orchestrator.data.store.sidecar_arrays import ARRAY_FILES, combine_hashes
from orchestrator.errors import DataError
from orchestrator.jepa.masks import Ids, MaskConfig, TokenGrid, mask_configs, samplers_for
from orchestrator.job import Data, TrainJob
from orchestrator.randomness import generator

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class EncodedClip:
    """One row of the feed."""

    position: int
    payload: Any
    """Bytes of a coded clip; None for padding, and where they could not be read."""

    duration_s: float = 0.0
    sha256: str = ""
    """Of the payload, by the index."""

    reason: str | None = None
    """Why the payload could not be read."""

    video_frames: int = 0
    """Of the video; beside arrays only, as `fps` is."""

    video_fps: float = 0.0

    arrays: Mapping[str, bytes | None] = field(default_factory=dict)
    """Files beside the video, in the order of the hash; None: it has no such file."""

    spec_index: int = 0
    """Which of a `MultiSpecDecodeConfig`'s configs it is made by."""


def rows_to_encoded_clips(rows: pa.Table) -> list[EncodedClip]:
    """The rows that the feed delivers (`clip_reader.ClipReader`)."""
    columns = {name: rows[name].to_pylist() for name in rows.column_names if name != "payload"}
    # `as_buffer` does not copy: the bytes stay where Ray put them until they are decoded.
    payloads = [value.as_buffer() for value in rows["payload"]]
    names = ("position", "duration_s", "sha256", "reason")
    coded = [
        EncodedClip(position, payload, duration_s, sha256, reason)
        for payload, position, duration_s, sha256, reason in zip(
            payloads, *(columns[name] for name in names), strict=True
        )
    ]
    arrays = [name for name in columns if name in ARRAY_FILES]
    if not arrays:
        return coded
    return [
        replace(
            row,
            video_frames=columns["frames"][i] or 0,
            video_fps=columns["fps"][i] or 0.0,
            arrays={name: columns[name][i] for name in arrays},
        )
        for i, row in enumerate(coded)
    ]


@dataclass(frozen=True)
class DecodedClip:
    """What became of a row, beside its pixels."""

    masks: list[tuple[Ids, Ids]]
    """Context and target ids of each mask kind."""

    reason: str | None
    """Why it cannot be used; its pixels are black then."""

    sha256: str
    """Of the bytes that were decoded, and of the arrays beside them where a job reads them
    (`sidecar_arrays.combine_hashes`); empty where there were none."""

    actions: ClipActions | None = None
    """What was done in it; zeros where it cannot be used, None where nobody asked."""


@dataclass(frozen=True)
class TrainDecodeConfig:
    """What a job says of its clips: small, and cheap to send to another process."""

    seed: int
    data: Data
    masks: list[MaskConfig]
    grid: TokenGrid

    @classmethod
    def from_job(cls, job: TrainJob) -> TrainDecodeConfig:
        return cls(job.seed, job.data, mask_configs(job), job.grid)

    @property
    def shapes(self) -> tuple[VideoShape]:
        """Of a clip's pixels: the only one."""
        return ((self.data.frames, self.data.size, self.data.size, 3),)

    def build_decoder(self, micro: int) -> InProcessDecoder:
        """What makes its clips in the process that asks."""
        return InProcessDecoder(self, micro)


class DecodeConfig(Protocol):
    """How clips are made: travels to the processes that make them."""

    @property
    def shapes(self) -> tuple[VideoShape, ...]:
        """Of a clip's pixels, by the `spec` of its row."""

    def build_decoder(self, micro: int) -> InProcessClipDecoder:
        """What makes its clips in the process that asks."""


class ClipDecoder(Protocol):
    """Makes clips; may be called from several threads at a time."""

    def new_buffer(self, spec: int = 0) -> PixelBuffer:
        """Room for the pixels of a micro-batch whose rows are of this `spec`."""

    def decode(
        self, rows: list[EncodedClip], buffer: PixelBuffer, first_row: int
    ) -> list[DecodedClip]:
        """Write the rows' pixels into the buffer, from its row `first_row` on.

        Raises:
            Exception: what an augmentation of the user's raised, if it is no DataError.
        """

    def close(self) -> None:
        """End what runs in the background. No thread may be calling."""


class InProcessClipDecoder(ClipDecoder, Protocol):
    """Makes clips in this process."""

    def failed_clip(self, row: EncodedClip, reason: str | None, out: np.ndarray) -> DecodedClip:
        """The clip of a row that cannot be used: black, and masked like any other."""


class InProcessDecoder:
    """Makes clips in this process, `micro` of them to a canvas."""

    _action_reader: ActionReader | None = None

    def __init__(self, recipe: TrainDecodeConfig, micro: int) -> None:
        self._seed, self._data = recipe.seed, recipe.data
        self._shape = (micro, *recipe.shapes[0])
        self._read_frames = build_frame_reader(recipe.data)
        self._samplers = samplers_for(recipe.masks, recipe.grid)
        if recipe.data.actions is not None:
            self._action_reader = ActionReader(recipe.data)

    def new_buffer(self, spec: int = 0) -> PixelBuffer:
        return PixelBuffer(np.empty(self._shape, np.uint8))

    def decode(
        self, rows: list[EncodedClip], buffer: PixelBuffer, first_row: int
    ) -> list[DecodedClip]:
        return [self._decode_row(row, buffer.array[first_row + i]) for i, row in enumerate(rows)]

    def failed_clip(self, row: EncodedClip, reason: str | None, out: np.ndarray) -> DecodedClip:
        """The clip of a row that cannot be used: black, and masked like any other."""
        out.fill(0)
        moved = None if self._action_reader is None else self._action_reader.zeros()
        return DecodedClip(self._sample_masks(row), reason, _content_hash(row), moved)

    def close(self) -> None:
        """Nothing runs."""

    def _decode_row(self, row: EncodedClip, out: np.ndarray) -> DecodedClip:
        if row.payload is None:
            return self.failed_clip(row, row.reason, out)
        # Of what is here now, not what the index promised: the ledger is to be a witness.
        sha256 = _content_hash(row)
        try:
            if sha256 != row.sha256:
                raise DataError("is not the clip that was indexed (sha256 differs)")
            moved = self._decode_pixels(row, out)
        except DataError as error:
            return self.failed_clip(row, error.what, out)
        return DecodedClip(self._sample_masks(row), None, sha256, moved)

    def _decode_pixels(self, row: EncodedClip, out: np.ndarray) -> ClipActions | None:
        drawn = generator(self._seed, row.position, "clip")
        augment = generator(self._seed, row.position, "augment")
        if self._action_reader is None:
            times = sample_frame_times(drawn, row.duration_s, self._data.frames, self._data.fps)
            self._read_frames(row.payload, times, augment, out)
            return None
        frames = self._action_reader.sample_frame_indices(row, drawn)
        moved = self._action_reader.read(row, frames)
        self._read_frames(row.payload, frames, augment, out)
        return moved

    def _sample_masks(self, row: EncodedClip) -> list[tuple[Ids, Ids]]:
        return [
            sampler(generator(self._seed, row.position, "masks", part))
            for part, sampler in enumerate(self._samplers)
        ]


def _content_hash(row: EncodedClip) -> str:
    if row.payload is None:
        return ""
    payload = hashlib.sha256(row.payload).hexdigest()
    if not row.arrays:
        return payload
    bodies = row.arrays.values()
    return combine_hashes(
        payload, [hashlib.sha256(b).hexdigest() if b is not None else "" for b in bodies]
    )
