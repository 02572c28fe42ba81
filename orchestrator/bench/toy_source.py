"""A source of very small videos in which a ball flies and the picture flickers.

What sweeps are measured on: place and speed of the ball are all there is to know, the noise of
each frame is nothing to know, and a minute of training on one core tells good values from bad.
`orchestrator.bench.toy_source:Ball?clips=1000&seed=0`
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from orchestrator.data.codec.encode import encode_h264
from orchestrator.data.sources.base import RawClip, Rejected, WorkUnit
from orchestrator.job.config.base import Section
from orchestrator.job.config.pack import TranscodeConfig
from orchestrator.randomness import generator

CLIPS_PER_UNIT = 64
SUPERSAMPLING = 3
"""Subpixels per side, for antialiased edges."""
SUBSTEPS = 4
RADIUS, SPEED = (0.09, 0.13), (0.2, 1.0)
"""In picture widths (a second)."""

BACKGROUND_GREY, BALL_GREY = 90.0, 200.0


class BouncingBallConfig(Section):
    """Options of the source."""

    clips: PositiveInt = 1000
    """Number of videos."""

    seed: NonNegativeInt = 0
    """Another seed gives other videos."""

    size: PositiveInt = 32
    """Pixels of the square picture; even."""

    frames: PositiveInt = 9
    """Frames per video."""

    fps: PositiveFloat = 8.0
    """Frames per second."""

    noise: NonNegativeFloat = 8.0
    """Standard deviation of each frame's noise, in grey levels of 255."""


class Ball:
    """Videos of one ball that moves straight and bounces off the edges of the frame."""

    Config = BouncingBallConfig

    def __init__(self, config: BouncingBallConfig) -> None:
        self.config = config
        options = "&".join(f"{key}={value}" for key, value in config.model_dump().items())
        # The path that this class had first: it is part of the identity of packed datasets.
        self.uri = f"orchestrator.bench.ball:Ball?{options}"

    def units(self) -> list[WorkUnit]:
        """Units of 64 videos."""
        count = self.config.clips
        return [
            WorkUnit(
                f"ball-{first:08d}",
                tuple(str(i) for i in range(first, min(first + CLIPS_PER_UNIT, count))),
                self.uri,
            )
            for first in range(0, count, CLIPS_PER_UNIT)
        ]

    def clips(self, unit: WorkUnit, encode: TranscodeConfig) -> Iterator[RawClip | Rejected]:
        """Its videos, each with `states.npy`: float32 [frames, 4], x, y, vx, vy in widths."""
        given = self.config
        for index in map(int, unit.inputs):
            states, radius = self._simulate(index)
            buffer = io.BytesIO()
            np.save(buffer, states, allow_pickle=False)
            yield RawClip(
                key=f"ball-{given.seed}-{index:08d}",
                payload=encode_h264(
                    self._render(index, states, radius), given.fps, encode.gop, encode.crf
                ),
                frames=given.frames,
                fps=given.fps,
                width=given.size,
                height=given.size,
                duration_s=given.frames / given.fps,
                source=f"ball-{given.seed}#{index}",
                extras={"states.npy": buffer.getvalue()},
            )

    def _simulate(self, index: int) -> tuple[np.ndarray, float]:
        draw = generator(self.config.seed, index, "physics")
        radius = float(draw.uniform(*RADIUS))
        place = draw.uniform(radius, 1 - radius, 2)
        speed, heading = draw.uniform(*SPEED), draw.uniform(0, 2 * np.pi)
        velocity = speed * np.array([np.cos(heading), np.sin(heading)])
        rows = []
        for _ in range(self.config.frames):
            rows.append([*place, *velocity])
            for _ in range(SUBSTEPS):
                place = place + velocity / self.config.fps / SUBSTEPS
                out = (place < radius) & (velocity < 0) | (place > 1 - radius) & (velocity > 0)
                velocity = np.where(out, -velocity, velocity)
        return np.array(rows, np.float32), radius

    def _render(self, index: int, states: np.ndarray, radius: float) -> list[np.ndarray]:
        draw, side = generator(self.config.seed, index, "backdrop"), self.config.size
        down, right = (np.mgrid[: side * SUPERSAMPLING, : side * SUPERSAMPLING] + 0.5) / (
            side * SUPERSAMPLING
        )
        frames = []
        for x, y, _, _ in states:
            inside = (right - x) ** 2 + (1 - down - y) ** 2 < radius**2
            share = inside.reshape(side, SUPERSAMPLING, side, SUPERSAMPLING).mean((1, 3))
            grey = (
                BACKGROUND_GREY
                + (BALL_GREY - BACKGROUND_GREY) * share
                + draw.normal(0, self.config.noise, share.shape)
            )
            frame = np.clip(grey, 0, 255).astype(np.uint8)
            frames.append(np.repeat(frame[..., None], 3, axis=2))
        return frames
