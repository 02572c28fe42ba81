"""Small videos and datasets in memory, for the tests of the order, the feed and the ledger."""

from __future__ import annotations

import hashlib
import io
import struct
import time
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
import pyarrow as pa

from orchestrator.job import TrainJob

COLUMNS = ("key", "shard", "offset", "bytes", "duration_s", "sha256")


def encode_video(
    frames: np.ndarray,
    fps: float = 8,
    *,
    pts: list[int] | None = None,
    time_base: tuple[int, int] | None = None,
    codec: str = "libx264",
    rotation: int = 0,
    container: str = "mp4",
    **options: str,
) -> bytes:
    """Encode uint8 [T, H, W, 3]; `pts` in `time_base` makes the frame rate variable."""
    from fractions import Fraction

    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "12", "g": "60", "threads": "1", **options}
        if time_base:
            stream.time_base = stream.codec_context.time_base = Fraction(*time_base)
        if rotation:
            stream.set_display_rotation(rotation)
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if pts is not None:
                frame.pts, frame.time_base = pts[number], stream.codec_context.time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()


def pad_mp4(payload: bytes, size: int) -> bytes:
    """An mp4 of at least `size` bytes: a box that decoders skip is appended."""
    extra = max(size - len(payload), 8)
    return payload + struct.pack(">I4s", extra, b"free") + bytes(extra - 8)


def small_video(seed: int = 0, frames: int = 12, side: int = 32) -> bytes:
    rng = np.random.default_rng(seed)
    start = rng.integers(0, 255, (side // 8, side // 8, 3)).repeat(8, 0).repeat(8, 1)
    moved = [np.roll(start, 2 * i, 1) for i in range(frames)]
    return encode_video(np.stack(moved).astype(np.uint8))


@dataclass
class InMemoryIndex:
    """A dataset in memory: `payloads[shard][row]`, 12 frames at 8 per second each."""

    name: str
    payloads: list[list[bytes]]
    delay_s: float = 0.0
    """Each process waits this long before its first read."""

    wrong_hashes: dict[tuple[int, int], str] = field(default_factory=dict)
    """Hashes that the index gives instead of the true ones."""

    @property
    def clips_per_shard(self) -> np.ndarray:
        return np.array([len(shard) for shard in self.payloads], dtype=np.int64)

    @property
    def num_clips(self) -> int:
        return int(self.clips_per_shard.sum())

    @property
    def num_bytes(self) -> int:
        return sum(len(p) for shard in self.payloads for p in shard)

    def shard_rows(self, shard: int) -> pa.Table:
        rows: list[dict[str, Any]] = []
        for row, payload in enumerate(self.payloads[shard]):
            true = hashlib.sha256(payload).hexdigest()
            rows.append(
                {
                    "key": f"{self.name}-{shard}-{row}",
                    "shard": f"{self.name}-{shard}.tar",
                    "offset": row,
                    "bytes": len(payload),
                    "duration_s": 1.5,
                    "sha256": self.wrong_hashes.get((shard, row), true),
                }
            )
        return pa.Table.from_pylist(rows)

    def read_bytes(self, shard: int, offset: int, length: int, sha256: str | None = None) -> bytes:
        from orchestrator.errors import DataError

        if self.delay_s:
            time.sleep(self.delay_s)
            self.delay_s = 0.0
        payload = self.payloads[shard][offset]
        if sha256 is not None and hashlib.sha256(payload).hexdigest() != sha256:
            raise DataError("sha256 differs", where=f"{self.name}-{shard}.tar")
        return payload


@dataclass
class FakePrepared:
    """What the feed takes of `orchestrator.data.packing.prepare.PreparedData`."""

    indexes: list[Any]
    weights: list[float | None]


def feed_job(
    *, steps: int = 4, global_batch: int = 4, micro_batch: int = 2, **data: Any
) -> TrainJob:
    """A job of tiny clips: 4 frames of 16 x 16 pixels."""
    return TrainJob.model_validate(
        {
            "kind": "train",
            "name": "feed",
            "data": {"source": "made", "frames": 4, "fps": 4.0, "size": 16, "window": 2, **data},
            "model": {
                "encoder": {"dim": 24, "depth": 1, "heads": 2},
                "patch": 8,
                "tubelet": 2,
                "predictor": {"dim": 24, "depth": 1, "heads": 2},
            },
            "objective": {"masks": [{"blocks": 1, "spatial": 0.5, "targets": 3, "context": 2}]},
            "optim": {"steps": steps},
            "scale": {"global_batch": global_batch, "micro_batch": micro_batch},
        }
    )
