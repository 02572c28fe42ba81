"""Small video files of many kinds, and tars of them, for the tests of sources and packing."""

from __future__ import annotations

import io
import os
import tarfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from orchestrator.job import PackJob, TrainJob

CORNER = 16
"""Pixels of the red square in the upper left corner: says which way is up."""


def grey_frame(level: float, width: int, height: int) -> np.ndarray:
    """Grey of `level` (0 to 1) with a red square in the upper left corner."""
    frame = np.full((height, width, 3), round(16 + 208 * level), np.uint8)
    frame[:CORNER, :CORNER] = (255, 0, 0)
    return frame


def write_video(
    path: Path,
    *,
    frames: int = 30,
    fps: int = 30,
    width: int = 96,
    height: int = 64,
    codec: str = "libx264",
    rotation: int = 0,
    pixel: Fraction | None = None,
    ticks: list[int] | None = None,
    pix_fmt: str = "yuv420p",
    faststart: bool = False,
    **options: str,
) -> Path:
    """A video whose grey level rises with time from 0 at the first to 1 at the last frame.

    `ticks`: presentation times in milliseconds, for a variable rate. `pixel`: its width over
    its height.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = {"movflags": "faststart"} if faststart else {}
    base = Fraction(1, 1000) if ticks else Fraction(1, fps)
    times = ticks or list(range(frames))
    with av.open(str(path), "w", options=flags) as out:
        stream: Any = out.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = base
        if pixel:
            stream.codec_context.sample_aspect_ratio = pixel
        if rotation:
            stream.set_display_rotation(rotation)
        for time in times:
            level = time / max(1, times[-1])
            frame = av.VideoFrame.from_ndarray(grey_frame(level, width, height), format="rgb24")
            frame.pts, frame.time_base = time, base
            out.mux(stream.encode(frame.reformat(format=pix_fmt)))
        out.mux(stream.encode())
    # As root, SVT-AV1 gives the thread that calls it the highest real-time priority and leaves it
    # so: every process started from here on would starve whatever it waits for.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return path


def write_audio(path: Path, seconds: float = 0.5) -> Path:
    """A file with sound and no picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("aac", rate=16000)
        sound = np.zeros((1, int(16000 * seconds)), np.float32)
        frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout="mono")
        frame.rate, frame.pts = 16000, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def decode_all_frames(payload: bytes) -> list[np.ndarray]:
    """All frames, uint8 [H, W, 3], as they are stored."""
    with av.open(io.BytesIO(payload)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def presentation_times(payload: bytes) -> np.ndarray:
    """Seconds from the first frame at which each frame is shown; float64 [frames]."""
    with av.open(io.BytesIO(payload)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    return np.array(times) - times[0]


def grey_level(frame: np.ndarray) -> float:
    """The grey level that `grey_frame` painted, from the middle of the frame."""
    height, width = frame.shape[:2]
    middle = frame[height // 3 : -height // 3, width // 3 : -width // 3]
    return (float(middle.mean()) - 16) / 208


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    """A plain tar; names may repeat when they are given with a trailing '#n'."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, body in members.items():
            info = tarfile.TarInfo(name.partition("#")[0])
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return path


def pack_job(source: Path | str, storage: Path | str, **keys: Any) -> PackJob:
    """A pack job with small defaults."""
    return PackJob.model_validate(
        {"kind": "pack", "name": "t", "source": str(source), "storage": str(storage), **keys}
    )


class RecordingProgress:
    """Keeps what a progress would show."""

    def __init__(self) -> None:
        self.updates: list[tuple[str, float, float, dict[str, float | str]]] = []
        self.messages: list[str] = []

    def update(
        self, phase: str, done: float, total: float, facts: dict[str, float | str] | None = None
    ) -> None:
        self.updates.append((phase, done, total, facts or {}))

    def message(self, text: str) -> None:
        self.messages.append(text)


def data_job(storage: Path | str, **data: Any) -> TrainJob:
    """A train job with small defaults; `data` are keys of its data section."""
    return TrainJob.model_validate(
        {
            "kind": "train",
            "name": "t",
            "storage": str(storage),
            "data": {"frames": 8, "fps": 4.0, "size": 32, **data},
            "model": {"patch": 8},
            "optim": {"steps": 1},
        }
    )
