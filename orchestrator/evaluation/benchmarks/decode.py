"""From files to frames as a model is to see them: its size, its frames a second.

A frame is brought to the model's square as a whole, so that nothing that matters is cut off.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from orchestrator.data.codec.decode import decode_clip
from orchestrator.data.codec.seekable import probe_seekable
from orchestrator.data.codec.video_probe import VideoInfo
from orchestrator.errors import DataError
from orchestrator.evaluation.benchmarks.scenes import Align, BenchmarkScene, VideoRef
from orchestrator.storage import Storage

# A model's rate may be a video's own, rounded.
TIME_TOLERANCE = 1e-3


def decode_video(storage: Storage, shot: VideoRef, size: int, fps: float) -> np.ndarray:
    """All of a video at `fps`; uint8 [T, size, size, 3].

    Raises:
        DataError: it cannot be read, or has fewer frames a second than the model wants.
    """
    try:
        if shot.image_files:
            return _pictures(storage, shot, size, fps)
        payload = storage.read_bytes(shot.path)
        facts = probe_seekable(io.BytesIO(payload))
        times = facts.frame_times[shot.skip_frames :]
        if len(times) < 2:
            raise DataError(
                f"{len(facts.frame_times)} frames, of which {shot.skip_frames} are not shown"
            )
        _check_frame_rate(float(facts.fps), fps)
        count = 1 + int((times[-1] - times[0]) * fps + TIME_TOLERANCE)
        return decode_clip(payload, times[0] + np.arange(count) / fps, size=size)
    except DataError as error:
        raise DataError(error.what, where=shot.path) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=shot.path) from None


def decode_video_clip(
    storage: Storage, path: str, *, size: int, fps: float, frames: int, start_fraction: float
) -> tuple[np.ndarray, VideoInfo, np.ndarray]:
    """One clip of a video; `start_fraction` in [0, 1): where it begins in the room that there is.

    Returns:
        uint8 [frames, size, size, 3], the video's facts, and the clip's times, float64 [frames].

    Raises:
        DataError: the video cannot be read, or a clip does not fit.
    """
    try:
        payload = storage.read_bytes(path)
        facts = probe_seekable(io.BytesIO(payload))
        _check_frame_rate(float(facts.fps), fps)
        room = float(facts.frame_times[-1]) - (frames - 1) / fps
        if room < -TIME_TOLERANCE:
            raise DataError(
                f"lasts {facts.duration_s:.2f} s, the model's clip of {frames} frames at"
                f" {fps:g} a second spans {(frames - 1) / fps:.2f} s"
            )
        times = max(room, 0.0) * start_fraction + np.arange(frames) / fps
        return decode_clip(payload, times, size=size), facts, times
    except DataError as error:
        raise DataError(error.what, where=path) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=path) from None


def decode_pairs(
    storage: Storage, scene: BenchmarkScene, size: int, fps: float, align: Align
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each pair of a scene, (possible, impossible), uint8 [T, size, size, 3] of one length.

    Raises:
        DataError: a video cannot be used, or it cannot be told which belong together.
    """
    possible = [decode_video(storage, shot, size, fps) for shot in scene.possible]
    impossible = [decode_video(storage, shot, size, fps) for shot in scene.impossible]
    if not scene.paired:
        impossible = [impossible[i] for i in match_by_first_frames(possible, impossible)]
    pairs = []
    for one, other in zip(possible, impossible, strict=True):
        length = min(len(one), len(other))
        if max(len(one), len(other)) - length > max(1.0, fps):
            apart = abs(len(one) - len(other)) / fps
            raise DataError(f"the videos of a pair differ by {apart:.1f} s in length")
        cut = slice(-length, None) if align == "end" else slice(length)
        pairs.append((one[cut], other[cut]))
    return pairs


def match_by_first_frames(possible: list[np.ndarray], impossible: list[np.ndarray]) -> list[int]:
    """For each of two possible videos, the impossible one that begins with the same frames.

    Raises:
        DataError: both ways to pair them are as good.
    """
    shared = np.array(
        [[_num_shared_frames(one, other) for other in impossible] for one in possible]
    )
    straight, crossed = shared[0, 0] + shared[1, 1], shared[0, 1] + shared[1, 0]
    if straight == crossed:
        raise DataError(f"no pair can be told by its first frames ({straight} are shared)")
    return [0, 1] if straight > crossed else [1, 0]


def _num_shared_frames(one: np.ndarray, other: np.ndarray) -> int:
    """Frames at the beginning that are equal, pixel by pixel."""
    length = min(len(one), len(other))
    apart = (one[:length] != other[:length]).any((1, 2, 3))
    return int(apart.argmax()) if apart.any() else length


def _pictures(storage: Storage, shot: VideoRef, size: int, fps: float) -> np.ndarray:
    _check_frame_rate(shot.fps, fps)
    shown = shot.image_files[shot.skip_frames :]
    count = 1 + int((len(shown) - 1) / shot.fps * fps + TIME_TOLERANCE)
    at = (np.arange(count) * shot.fps / fps + TIME_TOLERANCE).astype(int)
    out = np.empty((count, size, size, 3), np.uint8)
    for slot, number in enumerate(at.tolist()):
        out[slot] = _picture(storage, f"{shot.path}/{shown[number]}", size)
    return out


def _picture(storage: Storage, path: str, size: int) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(storage.read_bytes(path))) as image:
            colours = image.convert("RGB")
        return np.asarray(colours.resize((size, size), Image.Resampling.BILINEAR))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        raise DataError(f"'{path.rpartition('/')[2]}' is no readable picture") from None


def _check_frame_rate(there: float, wanted: float) -> None:
    if wanted > there * (1 + TIME_TOLERANCE):
        raise DataError(
            f"has {there:g} frames a second, the model was trained on {wanted:g}: frames would"
            " be shown twice"
        )
