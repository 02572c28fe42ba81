"""From coded clips to pixels and masks; everything random is drawn from (seed, position)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from orchestrator.data.codec.decode import clip_times
from orchestrator.data.loader.action_data import Moved, Mover
from orchestrator.data.loader.augment import build_cutter
from orchestrator.data.loader.pixel_buffer import Canvas, Shape
from orchestrator.data.store.sidecar_arrays import ARRAYS, joined_hash
from orchestrator.errors import DataError
from orchestrator.jepa.masks import Grid, Ids, MaskConfig, build_samplers, mask_configs
from orchestrator.job import Data, TrainJob
from orchestrator.randomness import generator

if TYPE_CHECKING:
    import pyarrow as pa


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

    frames: int = 0
    """Of the video; beside arrays only, as `fps` is."""

    fps: float = 0.0

    arrays: Mapping[str, bytes | None] = field(default_factory=dict)
    """Files beside the video, in the order of the hash; None: it has no such file."""

    spec: int = 0
    """Which of a `MixedRecipe`'s recipes it is made by."""


def coded_rows(rows: pa.Table) -> list[Coded]:
    """The rows that the feed delivers (`clips.ClipReader`)."""
    columns = {name: rows[name].to_pylist() for name in rows.column_names if name != "payload"}
    # `as_buffer` does not copy: the bytes stay where Ray put them until they are decoded.
    payloads = [value.as_buffer() for value in rows["payload"]]
    names = ("position", "duration_s", "sha256", "reason")
    coded = [
        Coded(position, payload, duration_s, sha256, reason)
        for payload, position, duration_s, sha256, reason in zip(
            payloads, *(columns[name] for name in names), strict=True
        )
    ]
    arrays = [name for name in columns if name in ARRAYS]
    if not arrays:
        return coded
    return [
        replace(
            row,
            frames=columns["frames"][i] or 0,
            fps=columns["fps"][i] or 0.0,
            arrays={name: columns[name][i] for name in arrays},
        )
        for i, row in enumerate(coded)
    ]


@dataclass(frozen=True)
class Clip:
    """What became of a row, beside its pixels."""

    masks: list[tuple[Ids, Ids]]
    """Context and target ids of each mask kind."""

    reason: str | None
    """Why it cannot be used; its pixels are black then."""

    sha256: str
    """Of the bytes that were decoded, and of the arrays beside them where a job reads them
    (`arrays.joined_hash`); empty where there were none."""

    moved: Moved | None = None
    """What was done in it; zeros where it cannot be used, None where nobody asked."""


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
    def shapes(self) -> tuple[Shape]:
        """Of a clip's pixels: the only one."""
        return ((self.data.frames, self.data.size, self.data.size, 3),)

    def maker(self, micro: int) -> LocalMaker:
        """What makes its clips in the process that asks."""
        return LocalMaker(self, micro)


class AnyRecipe(Protocol):
    """How clips are made: travels to the processes that make them."""

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Of a clip's pixels, by the `spec` of its row."""

    def maker(self, micro: int) -> OwnMaker:
        """What makes its clips in the process that asks."""


class ClipMaker(Protocol):
    """Makes clips; may be called from several threads at a time."""

    def canvas(self, spec: int = 0) -> Canvas:
        """Room for the pixels of a micro-batch whose rows are of this `spec`."""

    def make(self, rows: list[Coded], canvas: Canvas, at: int) -> list[Clip]:
        """Write the rows' pixels into the canvas, from its row `at` on.

        Raises:
            Exception: what an augmentation of the user's raised, if it is no DataError.
        """

    def close(self) -> None:
        """End what runs in the background. No thread may be calling."""


class OwnMaker(ClipMaker, Protocol):
    """Makes clips in this process."""

    def failed(self, row: Coded, reason: str | None, out: np.ndarray) -> Clip:
        """The clip of a row that cannot be used: black, and masked like any other."""


class LocalMaker:
    """Makes clips in this process, `micro` of them to a canvas."""

    _mover: Mover | None = None

    def __init__(self, recipe: Recipe, micro: int) -> None:
        self._seed, self._data = recipe.seed, recipe.data
        self._shape = (micro, *recipe.shapes[0])
        self._cut = build_cutter(recipe.data)
        self._samplers = build_samplers(recipe.masks, recipe.grid)
        if recipe.data.act is not None:
            self._mover = Mover(recipe.data)

    def canvas(self, spec: int = 0) -> Canvas:
        return Canvas(np.empty(self._shape, np.uint8))

    def make(self, rows: list[Coded], canvas: Canvas, at: int) -> list[Clip]:
        return [self._make(row, canvas.array[at + i]) for i, row in enumerate(rows)]

    def failed(self, row: Coded, reason: str | None, out: np.ndarray) -> Clip:
        """The clip of a row that cannot be used: black, and masked like any other."""
        out.fill(0)
        moved = None if self._mover is None else self._mover.nothing()
        return Clip(self._draw(row), reason, _hash(row), moved)

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
            moved = self._decode(row, out)
        except DataError as error:
            return self.failed(row, error.what, out)
        return Clip(self._draw(row), None, sha256, moved)

    def _decode(self, row: Coded, out: np.ndarray) -> Moved | None:
        drawn = generator(self._seed, row.position, "clip")
        augment = generator(self._seed, row.position, "augment")
        if self._mover is None:
            times = clip_times(drawn, row.duration_s, self._data.frames, self._data.fps)
            self._cut(row.payload, times, augment, out)
            return None
        frames = self._mover.frames(row, drawn)
        moved = self._mover.moved(row, frames)
        self._cut(row.payload, frames, augment, out)
        return moved

    def _draw(self, row: Coded) -> list[tuple[Ids, Ids]]:
        return [
            sampler(generator(self._seed, row.position, "masks", part))
            for part, sampler in enumerate(self._samplers)
        ]


def _hash(row: Coded) -> str:
    if row.payload is None:
        return ""
    payload = hashlib.sha256(row.payload).hexdigest()
    if not row.arrays:
        return payload
    bodies = row.arrays.values()
    return joined_hash(
        payload, [hashlib.sha256(b).hexdigest() if b is not None else "" for b in bodies]
    )
