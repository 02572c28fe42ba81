"""The ways a video comes in: re-encoded, copied, read where it lies in a tar. Each is compared with
what FFmpeg's command line shows, frame by frame."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from orchestrator.data.codec.decode import decode_clip
from orchestrator.data.sources.base import RawClip
from orchestrator.data.sources.raw_clips import split_into_clips
from orchestrator.data.sources.tars import TarSource
from orchestrator.errors import DataError
from orchestrator.job import TranscodeConfig
from tests.support.ffmpeg_reference import ReferenceFrames
from tests.support.videos import presentation_times

INPUT_ROUTES = ("h264", "copy", "tar")

SEGMENT_S = 3.0

_MAX_SAME_DIFFERENCE = 5.0
"""Mean difference of 8-bit values of a frame that is encoded anew and the same frame."""


@dataclass
class Clip:
    """`images`: uint8 [frames, H, W, 3]; `times`: float64 [frames], seconds from the first."""

    images: np.ndarray
    times: np.ndarray
    duration_s: float


@dataclass
class RouteResult:
    """What a route made of a video, and its rows of what cannot be used."""

    clips: list[Clip] = field(default_factory=list)
    rejection_reasons: list[str] = field(default_factory=list)

    @property
    def frames(self) -> int:
        return sum(len(clip.images) for clip in self.clips)


def read_by_route(route: str, path: Path, shown: ReferenceFrames) -> RouteResult:
    """A video as one of `INPUT_ROUTES` gives it."""
    return _in_tar(path, shown) if route == "tar" else _packed(path, route)


def _packed(path: Path, mode: str) -> RouteResult:
    found = RouteResult()
    encode = TranscodeConfig(mode=mode, segment=SEGMENT_S, short_side=64, crf=4)  # type: ignore[arg-type]
    try:
        with open(path, "rb") as file:
            for item in split_into_clips(file, "key", str(path), encode, {}):
                if not isinstance(item, RawClip):
                    found.rejection_reasons.append(item.reason)
                    continue
                images = decode_clip(item.payload, np.arange(item.frames))
                assert images.shape[1:3] == (item.height, item.width)
                found.clips.append(Clip(images, presentation_times(item.payload), item.duration_s))
    except DataError as error:
        found.rejection_reasons.append(error.what)
    return found


def _in_tar(path: Path, shown: ReferenceFrames) -> RouteResult:
    tar = path.with_name(path.name + ".tar")
    with tarfile.open(tar, "w") as file:
        file.add(path, path.name)
    source, found = TarSource(str(tar)), RouteResult()
    for unit in source.units():
        for item in source.shards(unit):
            if not hasattr(item, "clips"):
                found.rejection_reasons.append(item.reason)  # type: ignore[union-attr]
                continue
            for row in item.clips:  # type: ignore[union-attr]
                payload = path.read_bytes()
                assert row["frames"] == len(shown)
                # Just after a frame's time: a time that is rounded may be just before it.
                at = shown.times + 0.2 * np.min(np.diff(shown.times))
                images = decode_clip(payload, at)
                assert images.shape[1:3] == (row["height"], row["width"])
                found.clips.append(Clip(images, shown.times, row["duration_s"]))
    return found


def missing_frames(found: RouteResult, shown: ReferenceFrames, *, timed: bool = True) -> list[int]:
    """Numbers of the frames that FFmpeg shows and no clip has.

    Every frame of the clips must be one that FFmpeg shows, once, in its order; with `timed`, at its
    distance in time from the first of its clip.
    """
    images = [image for clip in found.clips for image in clip.images]
    numbers, at = [], 0
    for image in images:
        while (
            at < len(shown)
            and mean_absolute_difference(image, shown.images[at]) > _MAX_SAME_DIFFERENCE
        ):
            at += 1
        assert at < len(shown), f"frame {len(numbers)} is none that FFmpeg shows (in this order)"
        numbers.append(at)
        at += 1
    first = 0
    for clip in found.clips if timed else []:
        own = shown.times[numbers[first : first + len(clip.images)]]
        step = float(own[-1] - own[0]) / (len(own) - 1) if len(own) > 1 else 1.0
        step = max(step, float(np.median(np.diff(shown.times))))
        np.testing.assert_allclose(clip.times, own - own[0], atol=0.5 * step + 1e-3)
        first += len(clip.images)
    return sorted(set(range(len(shown))) - set(numbers))


def mean_absolute_difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference of two images."""
    if one.shape != other.shape:
        return 255.0
    return float(np.abs(one.astype(int) - other.astype(int)).mean())
