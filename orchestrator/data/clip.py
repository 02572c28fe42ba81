"""From coded clips to pixels and masks; everything random is drawn from (seed, position)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from orchestrator.data.augment import build_cutter
from orchestrator.data.decode import clip_times
from orchestrator.data.pixels import Canvas
from orchestrator.errors import DataError
from orchestrator.jepa.masks import Grid, Ids, MaskConfig, build_samplers, mask_configs
from orchestrator.job import Data, TrainJob
from orchestrator.randomness import generator


@dataclass(frozen=True)
class Coded:
    """One row of the feed."""

    position: int
    payload: Any
    """Bytes of a coded clip; None for padding, and where they could not be read."""

    duration_s: float = 0.0
    sha256: str = ""
    """Of the payload, by the index."""

    reason: str | None = None
    """Why the payload could not be read."""


@dataclass(frozen=True)
class Clip:
    """What became of a row, beside its pixels."""

    masks: list[tuple[Ids, Ids]]
    """Context and target ids of each mask kind."""

    reason: str | None
    """Why it cannot be used; its pixels are black then."""

    sha256: str
    """Of the bytes that were decoded; empty where there were none."""


@dataclass(frozen=True)
class Recipe:
    """What a job says of its clips: small, and cheap to send to another process."""

    seed: int
    data: Data
    masks: list[MaskConfig]
    grid: Grid

    @classmethod
    def of(cls, job: TrainJob) -> Recipe:
        return cls(job.seed, job.data, mask_configs(job), job.grid)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of a clip's pixels: [T, size, size, 3]."""
        return self.data.frames, self.data.size, self.data.size, 3

    def maker(self, micro: int) -> LocalMaker:
        """What makes its clips in the process that asks."""
        return LocalMaker(self, micro)


class AnyRecipe(Protocol):
    """How clips are made: travels to the processes that make them."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of a clip's pixels: [T, size, size, 3]."""

    def maker(self, micro: int) -> LocalMaker:
        """What makes its clips in the process that asks."""


class ClipMaker(Protocol):
    """Makes clips; may be called from several threads at a time."""

    def canvas(self) -> Canvas:
        """Room for the pixels of a micro-batch."""

    def make(self, rows: list[Coded], canvas: Canvas, at: int) -> list[Clip]:
        """Write the rows' pixels into the canvas, from its row `at` on.

        Raises:
            Exception: what an augmentation of the user's raised, if it is no DataError.
        """

    def close(self) -> None:
        """End what runs in the background. No thread may be calling."""


class LocalMaker:
    """Makes clips in this process, `micro` of them to a canvas."""

    def __init__(self, recipe: Recipe, micro: int) -> None:
        self._seed, self._data = recipe.seed, recipe.data
        self._shape = (micro, *recipe.shape)
        self._cut = build_cutter(recipe.data)
        self._samplers = build_samplers(recipe.masks, recipe.grid)

    def canvas(self) -> Canvas:
        return Canvas(np.empty(self._shape, np.uint8))

    def make(self, rows: list[Coded], canvas: Canvas, at: int) -> list[Clip]:
        return [self._make(row, canvas.array[at + i]) for i, row in enumerate(rows)]

    def failed(self, row: Coded, reason: str | None, out: np.ndarray) -> Clip:
        """The clip of a row that cannot be used: black, and masked like any other."""
        out.fill(0)
        return Clip(self._draw(row), reason, _hash(row))

    def close(self) -> None:
        """Nothing runs."""

    def _make(self, row: Coded, out: np.ndarray) -> Clip:
        if row.payload is None:
            return self.failed(row, row.reason, out)
        # Of what is here now, not what the index promised: the ledger is to be a witness.
        sha256 = _hash(row)
        try:
            if sha256 != row.sha256:
                raise DataError("is not the clip that was indexed (sha256 differs)")
            self._decode(row, out)
        except DataError as error:
            return self.failed(row, error.what, out)
        return Clip(self._draw(row), None, sha256)

    def _decode(self, row: Coded, out: np.ndarray) -> None:
        drawn = generator(self._seed, row.position, "clip")
        times = clip_times(drawn, row.duration_s, self._data.frames, self._data.fps)
        augment = generator(self._seed, row.position, "augment")
        self._cut(row.payload, times, augment, out)

    def _draw(self, row: Coded) -> list[tuple[Ids, Ids]]:
        return [
            sampler(generator(self._seed, row.position, "masks", part))
            for part, sampler in enumerate(self._samplers)
        ]


def _hash(row: Coded) -> str:
    return "" if row.payload is None else hashlib.sha256(row.payload).hexdigest()
