"""What FFmpeg's own command line shows of a video: the judge of what packing and decoding give."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np

_TICK = 90_000


@dataclass(frozen=True)
class ReferenceFrames:
    """Frames that FFmpeg shows. `images`: uint8 [frames, H, W, 3]; `times`: float64 [frames],
    seconds from the first one."""

    images: np.ndarray
    times: np.ndarray

    def __len__(self) -> int:
        return len(self.images)


def ffmpeg_frames(path: Path, width: int, height: int, matrix: str = "auto") -> ReferenceFrames:
    """Every frame once, upright, in the order in which FFmpeg gives it, scaled to a size.

    `matrix`: of colours that the file does not name.
    """
    images = _run(
        path,
        "-vf",
        f"scale={width}:{height}:flags=bicubic:in_color_matrix={matrix}",
        "-pix_fmt",
        "rgb24",
        "-f",
        "rawvideo",
    )
    crc = _run(path, "-enc_time_base", f"1:{_TICK}", "-f", "framecrc").decode()
    rows = [line for line in crc.splitlines() if line and not line.startswith("#")]
    ticks = np.array([int(row.split(",")[2]) for row in rows], np.float64)
    pictures = np.frombuffer(images, np.uint8).reshape(-1, height, width, 3)
    assert len(pictures) == len(ticks)
    return ReferenceFrames(pictures, (ticks - ticks[:1]) / _TICK)


def run_ffmpeg(*arguments: str | Path) -> None:
    """Run FFmpeg's command line; what it writes over is lost."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *arguments]
    subprocess.run([str(one) for one in command], check=True, timeout=60)


def _run(path: Path, *options: str) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-threads", "1"]
    command += ["-i", str(path), "-an", "-sn", "-dn", "-fps_mode", "passthrough", *options, "-"]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).stdout
