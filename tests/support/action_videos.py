"""Numbered videos with actions and states, packed and indexed, for tests of what acts.

Frame f of video v shows the number f in its pixels; its action is (v, f, 0.1 f) and its state
(1000 + f, v, 7.5): 7.5 never changes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.data.codec.encode import encode_h264
from orchestrator.data.packing.pack import pack_source
from orchestrator.data.sources.base import RawClip, Rejected, WorkUnit
from orchestrator.data.store.index import DatasetIndex
from orchestrator.job import TrainJob, TranscodeConfig
from orchestrator.progress import SilentProgress
from orchestrator.storage import Storage

SIDE, BITS = 32, 8
Change = Callable[[int, dict[str, Any]], None]
"""Changes the arrays ("actions", "states") or the coded "extras" of a video."""


def numbered_frame(frame: int) -> np.ndarray:
    """uint8 [32, 32, 3]: eight bars, one a bit of the frame's number."""
    bits = [(frame >> bit) & 1 for bit in range(BITS)]
    row = np.repeat(np.array(bits, np.uint8) * 200 + 20, SIDE // BITS)
    return np.broadcast_to(row[None, :, None], (SIDE, SIDE, 3)).copy()


def read_frame_number(picture: np.ndarray) -> int:
    """The number that a picture [S, S, 3] of any size shows."""
    bars = picture.astype(float).mean((0, 2)).reshape(BITS, -1).mean(1)
    return int(sum(1 << bit for bit, level in enumerate(bars) if level > 120))


def actions_of(video: int, frames: int) -> np.ndarray:
    f = np.arange(frames, dtype=np.float32)
    rows = np.stack([np.full_like(f, video), f, 0.1 * f], 1)
    rows[-1] = 0
    return rows


def states_of(video: int, frames: int) -> np.ndarray:
    f = np.arange(frames, dtype=np.float32)
    return np.stack([1000 + f, np.full_like(f, video), np.full_like(f, 7.5)], 1)


def npy(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def numbered_clip(
    video: int,
    frames: int = 20,
    fps: Fraction | float = 10.0,
    change: Change | None = None,
    encoded: Callable[..., bytes] = encode_h264,
) -> RawClip:
    made: dict[str, Any] = {
        "actions": actions_of(video, frames),
        "states": states_of(video, frames),
        "extras": {},
    }
    if change is not None:
        change(video, made)
    extras = {f"{name}.npy": npy(made[name]) for name in ("actions", "states") if name in made}
    return RawClip(
        key=f"video-{video:03d}",
        payload=encoded([numbered_frame(f) for f in range(frames)], fps, 8, 20),
        frames=frames,
        fps=float(fps),
        width=SIDE,
        height=SIDE,
        duration_s=frames / float(fps),
        source=f"made#{video}",
        extras={**extras, **made["extras"]},
    )


class NumberedVideoSource:
    """A source of such videos, a few to a unit; every unit is a shard."""

    def __init__(self, videos: int = 6, unit: int = 2, tag: str = "", **options: Any) -> None:
        self.uri = f"made-motion-{videos}-{unit}-{tag}"
        self._videos, self._unit, self._options = videos, unit, options

    def units(self) -> list[WorkUnit]:
        firsts = range(0, self._videos, self._unit)
        return [
            WorkUnit(
                f"u-{at:04d}", tuple(map(str, range(at, min(at + self._unit, self._videos)))), ""
            )
            for at in firsts
        ]

    def clips(self, unit: WorkUnit, encode: TranscodeConfig) -> Iterator[RawClip | Rejected]:
        for video in map(int, unit.inputs):
            yield numbered_clip(video, **self._options)


def pack_numbered_videos(folder: Path, bad_limit: float = 1.0, **options: Any) -> DatasetIndex:
    """A packed dataset of such videos in `folder/datasets`."""
    datasets = Storage(str(folder / "datasets"))
    source = NumberedVideoSource(**options)
    return pack_source(
        source, TranscodeConfig(), datasets, bad_limit, progress=SilentProgress(), local=True
    )


def action_job(source: str, storage: Path | str = "unused", **data: Any) -> TrainJob:
    """A job of 4 frames, two control steps apart, of such videos."""
    given = {"source": source, "frames": 4, "fps": 5.0, "size": SIDE, "window": 2, "act": {}}
    return TrainJob.model_validate(
        {
            "kind": "train",
            "name": "acting",
            "storage": str(storage),
            "data": {**given, **data},
            "model": {
                "encoder": {"dim": 24, "depth": 1, "heads": 2},
                "patch": 8,
                "tubelet": 2,
                "predictor": {"dim": 24, "depth": 1, "heads": 2},
            },
            "objective": {"masks": [{"blocks": 1, "spatial": 0.5, "targets": 3, "context": 2}]},
            "optim": {"steps": 4},
            "scale": {"global_batch": 4, "micro_batch": 2, "precision": "fp32", "cpus": 1},
            "checkpoint": {"every": 2},
            "track": {"every": 1, "pictures": 0},
        }
    )
