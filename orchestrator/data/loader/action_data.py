"""Clips with what was done in them: whole frames, and the rows of the arrays beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from orchestrator.data.store.sidecar_arrays import ACTIONS, STATES, Floats, read_array
from orchestrator.errors import DataError, RequestError
from orchestrator.job import Act, Data, Statistics

if TYPE_CHECKING:
    from orchestrator.data.loader.clip_decoder import Coded

Numbers = npt.NDArray[np.int64]

ALMOST = 1e-3
"""How far a video's rate may be from a whole multiple of `data.fps`, as a share of it: 29.97 is
written for 30000 / 1001."""


def steps_between(video_fps: float, fps: float) -> int | None:
    """Control steps from a clip's frame to the next; None: that is no whole number."""
    steps = round(video_fps / fps)
    return steps if steps and abs(video_fps / (steps * fps) - 1) < ALMOST else None


def arrays_of(data: Data) -> tuple[str, ...]:
    """The files beside a clip that a job's clips come with.

    Raises:
        RequestError: the job's `data.act` has not been completed from the data.
    """
    if data.act is None:
        return ()
    if data.act.actions == "change":
        return (STATES,)
    return (ACTIONS, STATES) if complete(data.act)[0].state_mean else (ACTIONS,)


def complete(act: Act) -> tuple[Statistics, int, int]:
    """Its statistics, its block, and its width.

    Raises:
        RequestError: they have not been read from the data.
    """
    if act.statistics is None or act.block is None or act.width is None:
        raise RequestError(
            "what the actions of the data are is not known yet",
            where="data.act",
            mend="orchestrator.training.resolve.actions.know_actions reads it",
        )
    return act.statistics, act.block, act.width


def clip_frames(rng: np.random.Generator, frames: int, video_fps: float, data: Data) -> Numbers:
    """The frames of a clip with whole control steps in between, int64 [T], by their numbers in a
    video. The first is drawn evenly from all with which the clip fits.

    Args:
        frames: of the video, and `video_fps` how many a second.

    Raises:
        DataError: the video is shorter than a clip, or has another rate than the job reads.
    """
    steps, block = steps_between(video_fps, data.fps), data.act and data.act.block
    if steps is None or steps != (block or steps):
        found = f"{steps} control steps lead" if steps else "no whole number of control steps leads"
        wanted = f", the job reads {block}" if block else ""
        raise DataError(
            f"has {video_fps:.5g} frames a second: {found} from one to the next of"
            f" {data.fps:g} a second{wanted}"
        )
    span = (data.frames - 1) * steps
    if frames <= span:
        raise DataError(f"has {frames} frames, a clip needs {span + 1}")
    return rng.integers(frames - span) + np.arange(data.frames, dtype=np.int64) * steps


@dataclass(frozen=True)
class Moved:
    """What was done in a clip; float32, in the data's own units."""

    actions: Floats
    """[T - 1, D]."""

    states: Floats
    """[T, S]."""


class Mover:
    """Reads what a job's clips come with. Small, and cheap to send to another process.

    Raises:
        RequestError: the job's `data.act` has not been completed from the data.
    """

    def __init__(self, data: Data) -> None:
        assert data.act is not None
        statistics, _, self._width = complete(data.act)
        self._data, self._frames = data, data.frames
        self._change = data.act.actions == "change"
        self._action_width = len(statistics.action_mean)
        self._state_width = len(statistics.state_mean)

    def frames(self, row: Coded, rng: np.random.Generator) -> Numbers:
        """The clip's frames by their numbers in the video.

        Raises:
            DataError: the video is shorter than a clip, or has another rate than the job reads.
        """
        return clip_frames(rng, row.frames, row.fps, self._data)

    def moved(self, row: Coded, at: Numbers) -> Moved:
        """What was done in the clip of the frames `at`.

        Raises:
            DataError: an array beside the video cannot be used.
        """
        states = self._read(row, STATES, self._state_width) if self._state_width else None
        none = np.zeros((self._frames, 0), np.float32)
        seen = none if states is None else states[at]
        if self._change:
            return Moved(np.diff(seen, axis=0), seen)
        actions = self._read(row, ACTIONS, self._action_width)
        return Moved(actions[at[0] : at[-1]].reshape(self._frames - 1, self._width), seen)

    def nothing(self) -> Moved:
        """Beside a clip that cannot be used: zeros."""
        actions = np.zeros((self._frames - 1, self._width), np.float32)
        return Moved(actions, np.zeros((self._frames, self._state_width), np.float32))

    def _read(self, row: Coded, name: str, width: int) -> Floats:
        body = row.arrays.get(name)
        if body is None:
            raise DataError(f"has no {name}")
        rows = read_array(name, body, row.frames)
        if rows.shape[1] != width:
            raise DataError(f"{name} has {rows.shape[1]} numbers a row, the job reads {width}")
        return rows
