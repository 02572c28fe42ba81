"""Clips with what was done in them: whole frames, and the rows of the arrays beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from orchestrator.data.store.sidecar_arrays import ACTIONS_FILE, STATES_FILE, Floats, read_array
from orchestrator.errors import DataError, RequestError
from orchestrator.job import Actions, ActionStatistics, Data

if TYPE_CHECKING:
    from orchestrator.data.loader.clip_decoder import EncodedClip

IntArray = npt.NDArray[np.int64]

RATE_TOLERANCE = 1e-3
"""How far a video's rate may be from a whole multiple of `data.fps`, as a share of it: 29.97 is
written for 30000 / 1001."""


def control_steps_per_frame(video_fps: float, fps: float) -> int | None:
    """Control steps from a clip's frame to the next; None: that is no whole number."""
    steps = round(video_fps / fps)
    return steps if steps and abs(video_fps / (steps * fps) - 1) < RATE_TOLERANCE else None


def required_arrays(data: Data) -> tuple[str, ...]:
    """The files beside a clip that a job's clips come with.

    Raises:
        RequestError: the job's `data.actions` has not been completed from the data.
    """
    if data.actions is None:
        return ()
    if data.actions.representation == "change":
        return (STATES_FILE,)
    return (
        (ACTIONS_FILE, STATES_FILE)
        if require_resolved(data.actions)[0].state_mean
        else (ACTIONS_FILE,)
    )


def require_resolved(act: Actions) -> tuple[ActionStatistics, int, int]:
    """Its statistics, its block, and its width.

    Raises:
        RequestError: they have not been read from the data.
    """
    if act.statistics is None or act.frameskip is None or act.action_dim is None:
        raise RequestError(
            "what the actions of the data are is not known yet",
            where="data.actions",
            hint="orchestrator.training.resolve.actions.resolve_actions reads it",
        )
    return act.statistics, act.frameskip, act.action_dim


def sample_frame_indices(
    rng: np.random.Generator, frames: int, video_fps: float, data: Data
) -> IntArray:
    """The frames of a clip with whole control steps in between, int64 [T], by their numbers in a
    video. The first is drawn evenly from all with which the clip fits.

    Args:
        frames: of the video, and `video_fps` how many a second.

    Raises:
        DataError: the video is shorter than a clip, or has another rate than the job reads.
    """
    steps, block = (
        control_steps_per_frame(video_fps, data.fps),
        data.actions and data.actions.frameskip,
    )
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
class ClipActions:
    """What was done in a clip; float32, in the data's own units."""

    actions: Floats
    """[T - 1, D]."""

    states: Floats
    """[T, S]."""


class ActionReader:
    """Reads what a job's clips come with. Small, and cheap to send to another process.

    Raises:
        RequestError: the job's `data.actions` has not been completed from the data.
    """

    def __init__(self, data: Data) -> None:
        assert data.actions is not None
        statistics, _, self._width = require_resolved(data.actions)
        self._data, self._frames = data, data.frames
        self._state_differences = data.actions.representation == "change"
        self._action_width = len(statistics.action_mean)
        self._state_width = len(statistics.state_mean)

    def sample_frame_indices(self, row: EncodedClip, rng: np.random.Generator) -> IntArray:
        """The clip's frames by their numbers in the video.

        Raises:
            DataError: the video is shorter than a clip, or has another rate than the job reads.
        """
        return sample_frame_indices(rng, row.video_frames, row.video_fps, self._data)

    def read(self, row: EncodedClip, frame_indices: IntArray) -> ClipActions:
        """What was done in the clip of the frames `frame_indices`.

        Raises:
            DataError: an array beside the video cannot be used.
        """
        states = self._read(row, STATES_FILE, self._state_width) if self._state_width else None
        none = np.zeros((self._frames, 0), np.float32)
        seen = none if states is None else states[frame_indices]
        if self._state_differences:
            return ClipActions(np.diff(seen, axis=0), seen)
        actions = self._read(row, ACTIONS_FILE, self._action_width)
        return ClipActions(
            actions[frame_indices[0] : frame_indices[-1]].reshape(self._frames - 1, self._width),
            seen,
        )

    def zeros(self) -> ClipActions:
        """Beside a clip that cannot be used: zeros."""
        actions = np.zeros((self._frames - 1, self._width), np.float32)
        return ClipActions(actions, np.zeros((self._frames, self._state_width), np.float32))

    def _read(self, row: EncodedClip, name: str, width: int) -> Floats:
        body = row.arrays.get(name)
        if body is None:
            raise DataError(f"has no {name}")
        rows = read_array(name, body, row.video_frames)
        if rows.shape[1] != width:
            raise DataError(f"{name} has {rows.shape[1]} numbers a row, the job reads {width}")
        return rows
