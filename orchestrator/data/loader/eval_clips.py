"""Deterministic clips for features and probes: evenly spaced in a segment, center-cropped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrator.data.codec.decode import Crop, decode_clip
from orchestrator.data.loader.clip import EncodedClip
from orchestrator.data.loader.clip_decoder import InProcessDecoder
from orchestrator.data.loader.pixel_buffer import VideoShape
from orchestrator.errors import DataError
from orchestrator.jepa.masks import Ids


@dataclass(frozen=True)
class EvalDecodeConfig:
    """How evaluation clips are decoded: small and picklable."""

    frames: int
    fps: float
    size: int

    clips_per_segment: int
    """Number of evenly spaced clips of each segment."""

    @property
    def shapes(self) -> tuple[VideoShape]:
        """The one shape [T, H, W, 3] of a clip's pixels."""
        return ((self.frames, self.size, self.size, 3),)

    @property
    def span_s(self) -> float:
        """Seconds from a clip's first frame to its last; a segment must last longer."""
        return (self.frames - 1) / self.fps

    def build_decoder(self, micro: int) -> EvalDecoder:
        """A decoder in the calling process, for micro-batches of `micro` clips."""
        return EvalDecoder(self, micro)

    def start_times(self, duration_s: float) -> np.ndarray:
        """Seconds at which a segment's clips begin, float64 [clips].

        They are the middles of `clips_per_segment` equal parts of the possible starts.

        Raises:
            DataError: the segment is shorter than a clip.
        """
        latest_start = duration_s - self.span_s
        if latest_start <= 0:
            raise DataError(f"lasts {duration_s:.2f} s, a clip needs more than {self.span_s:.2f} s")
        return (np.arange(self.clips_per_segment) + 0.5) / self.clips_per_segment * latest_start

    def frame_times(self, start: float) -> np.ndarray:
        """Times in seconds of the frames of a clip that begins at `start`, float64 [T]."""
        return np.asarray(start + np.arange(self.frames) / self.fps)


class EvalDecoder(InProcessDecoder):
    """Decodes evaluation clips. A row's `position` is the clip's number in its segment."""

    def __init__(self, config: EvalDecodeConfig, micro: int) -> None:
        self._config, self._shape = config, (micro, *config.shapes[0])

    def _decode_pixels(self, row: EncodedClip, out: np.ndarray) -> None:
        """Decode the pixels only: features and probes read arrays themselves."""
        start = float(self._config.start_times(row.duration_s)[row.position])
        times = self._config.frame_times(start)
        decode_clip(row.payload, times, size=self._config.size, choose_crop=center_crop, out=out)

    def _sample_masks(self, row: EncodedClip) -> list[tuple[Ids, Ids]]:
        return []


def center_crop(width: float, height: float) -> Crop:
    """The largest square in the middle of a frame."""
    side = min(width, height)
    return Crop((width - side) / 2, (height - side) / 2, side, side)
