"""`physics://` as a data source: simulated videos in H.264 with their ground truth."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from orchestrator.data.codec.encode import encode_h264
from orchestrator.data.sources.base import RawClip, Rejected, WorkUnit
from orchestrator.job.config.pack import TranscodeConfig
from orchestrator.physics.simulated_video import SIMULATOR_VERSION, SimulatedVideo, simulate_video
from orchestrator.physics.uri import parse_physics_uri

VIDEOS_PER_UNIT = 64  # part of the identity of packed datasets: do not change


class PhysicsSource:
    """Simulated videos, each a pure function of the URI's options and its index.

    There is no coded stream to keep, so `encode.mode: copy` encodes as well.
    """

    def __init__(self, uri: str) -> None:
        """Parse the URI.

        Raises:
            RequestError: see `uri.parse_physics_uri`.
        """
        self.uri = uri
        self.options = parse_physics_uri(uri)

    def units(self) -> list[WorkUnit]:
        """Units of 64 videos. The number of videos is not part of a unit's identity."""
        identity = f"{self.options.scenes} simulator {SIMULATOR_VERSION}"
        return [
            WorkUnit(
                id=f"physics-{self.options.family}-{first:08d}",
                inputs=tuple(
                    str(index)
                    for index in range(first, min(first + VIDEOS_PER_UNIT, self.options.clips))
                ),
                identity=identity,
            )
            for first in range(0, self.options.clips, VIDEOS_PER_UNIT)
        ]

    def clips(self, unit: WorkUnit, encode: TranscodeConfig) -> Iterator[RawClip | Rejected]:
        """Simulate and encode the videos of a unit; none is rejected.

        Beside each: its ground truth, `states.npy` (float32 `[T, objects, 8]`, see
        `simulated_video.STATE_COLUMNS`), and under "physics" in the JSON what
        `SimulatedVideo.meta` holds.

        A picture larger than `encode.short_side` is drawn smaller, and a video longer than
        `encode.segment` is cut into even segments, as any other video would be.
        """
        given = self.options
        size = min(given.size, encode.short_side // 2 * 2)
        for index in map(int, unit.inputs):
            simulation = simulate_video(
                given.scene_type_of(index),
                given.seed,
                index,
                size=size,
                fps=given.fps,
                seconds=given.seconds,
                distractors=given.distractors,
                background=given.background,
            )
            yield from self._segments(simulation, index, encode)

    def _segments(
        self, simulation: SimulatedVideo, index: int, encode: TranscodeConfig
    ) -> Iterator[RawClip]:
        fps = self.options.fps
        key = f"{simulation.meta['family']}-{self.options.seed}-{index:08d}"
        parts = math.ceil(self.options.seconds / encode.segment)
        start = 0
        for number, frames in enumerate(np.array_split(simulation.frames, parts)):
            states = simulation.states[start : start + len(frames)]
            meta = {**simulation.meta, "start": start / fps}
            yield RawClip(
                key=key if parts == 1 else f"{key}-{number:03d}",
                payload=encode_h264(frames, fps, encode.gop, encode.crf, encode.chroma),
                frames=len(frames),
                fps=fps,
                width=frames.shape[2],
                height=frames.shape[1],
                duration_s=len(frames) / fps,
                source=f"{self.options.scenes}#{index}",
                extras={
                    "states.npy": npy_bytes(states),
                    "json": json.dumps({"physics": meta}).encode(),
                },
            )
            start += len(frames)


def npy_bytes(array: npt.NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
