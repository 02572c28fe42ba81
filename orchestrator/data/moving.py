"""Clips with what was done in them: whole frames, and the rows of the arrays beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.data.arrays import ACTIONS, STATES, Floats, read_array
from orchestrator.errors import DataError, RequestError
from orchestrator.job import Act, Data, Statistics

if TYPE_CHECKING:
    from orchestrator.data.clip import Coded

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
            mend="orchestrator.training.acting.know_actions reads it",
        )
    return act.statistics, act.block, act.width


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
        statistics, self._block, self._width = complete(data.act)
        self._frames, self._fps = data.frames, data.fps
        self._change = data.act.actions == "change"
        self._action_width = len(statistics.action_mean)
        self._state_width = len(statistics.state_mean)

    def first(self, row: Coded, rng: np.random.Generator) -> int:
        """The clip's first frame, drawn evenly from all with which it fits.

        Raises:
            DataError: the video is shorter than a clip, or has another rate than the job reads.
        """
        steps = steps_between(row.fps, self._fps)
        if steps != self._block:
            is_not = f"{steps} frames" if steps else "not a whole number of frames"
            raise DataError(
                f"at {row.fps:.5g} frames a second there are {is_not} between those of"
                f" {self._fps:g} a second, the job reads {self._block}"
            )
        last = row.frames - 1 - self._span
        if last < 0:
            raise DataError(f"has {row.frames} frames, a clip needs {self._span + 1}")
        return int(rng.integers(last + 1))

    def numbers(self, first: int) -> np.ndarray:
        """The clip's frames, int64 [T], by their numbers in the video."""
        return first + np.arange(self._frames, dtype=np.int64) * self._block

    def moved(self, row: Coded, first: int) -> Moved:
        """What was done in the clip that begins at frame `first`.

        Raises:
            DataError: an array beside the video cannot be used.
        """
        states = self._read(row, STATES, self._state_width) if self._state_width else None
        at = self.numbers(first)
        none = np.zeros((self._frames, 0), np.float32)
        seen = none if states is None else states[at]
        if self._change:
            return Moved(np.diff(seen, axis=0), seen)
        actions = self._read(row, ACTIONS, self._action_width)
        done = actions[first : first + self._span].reshape(self._frames - 1, self._width)
        return Moved(done, seen)

    def nothing(self) -> Moved:
        """Beside a clip that cannot be used: zeros."""
        actions = np.zeros((self._frames - 1, self._width), np.float32)
        return Moved(actions, np.zeros((self._frames, self._state_width), np.float32))

    @property
    def _span(self) -> int:
        """Control steps from a clip's first frame to its last."""
        return (self._frames - 1) * self._block

    def _read(self, row: Coded, name: str, width: int) -> Floats:
        body = row.arrays.get(name)
        if body is None:
            raise DataError(f"has no {name}")
        rows = read_array(name, body, row.frames)
        if rows.shape[1] != width:
            raise DataError(f"{name} has {rows.shape[1]} numbers a row, the job reads {width}")
        return rows
