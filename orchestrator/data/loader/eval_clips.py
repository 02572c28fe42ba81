"""Clips that nothing random decides: spaced evenly in their segment, the centred square of each
frame. For features and probes, where the same video must give the same numbers."""

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
    """Which clips: small, and cheap to send to another process."""

    frames: int
    fps: float
    size: int

    clips_per_segment: int
    """Of a segment."""

    @property
    def shapes(self) -> tuple[VideoShape]:
        """Of a clip's pixels: the only one."""
        return ((self.frames, self.size, self.size, 3),)

    @property
    def span_s(self) -> float:
        """Seconds from a clip's first frame to its last; a segment must last longer."""
        return (self.frames - 1) / self.fps

    def build_decoder(self, micro: int) -> EvalDecoder:
        """What makes its clips in the process that asks."""
        return EvalDecoder(self, micro)

    def start_times(self, duration_s: float) -> np.ndarray:
        """Seconds at which a segment's clips begin: the middles of `clips_per_segment` equal
        parts of the room there is; float64 [clips].

        Raises:
            DataError: the segment is shorter than a clip.
        """
        room = duration_s - self.span_s
        if room <= 0:
            raise DataError(f"lasts {duration_s:.2f} s, a clip needs more than {self.span_s:.2f} s")
        return (np.arange(self.clips_per_segment) + 0.5) / self.clips_per_segment * room

    def frame_times(self, start: float) -> np.ndarray:
        """Seconds at which a clip's frames are taken, float64 [T]."""
        return np.asarray(start + np.arange(self.frames) / self.fps)


class EvalDecoder(InProcessDecoder):
    """Makes fixed clips in this process. A row's `position` is the clip's number in its segment."""

    def __init__(self, recipe: EvalDecodeConfig, micro: int) -> None:
        self._recipe, self._shape = recipe, (micro, *recipe.shapes[0])

    def _decode_pixels(self, row: EncodedClip, out: np.ndarray) -> None:
        """Only the pixels: features and probes read arrays by themselves."""
        start = float(self._recipe.start_times(row.duration_s)[row.position])
        times = self._recipe.frame_times(start)
        decode_clip(row.payload, times, size=self._recipe.size, choose_crop=center_crop, out=out)

    def _sample_masks(self, row: EncodedClip) -> list[tuple[Ids, Ids]]:
        return []


def center_crop(width: float, height: float) -> Crop:
    """The largest square in the middle of a frame."""
    side = min(width, height)
    return Crop((width - side) / 2, (height - side) / 2, side, side)
