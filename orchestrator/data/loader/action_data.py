"""Actions and states of a clip: frames a whole number of control steps apart, and array rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from orchestrator.data.loader.clip import ClipActions, EncodedClip
from orchestrator.data.store.sidecar_arrays import ACTIONS_FILE, STATES_FILE, Floats, read_array
from orchestrator.errors import DataError, RequestError
from orchestrator.job import Actions, ActionStatistics, Data

IntArray = npt.NDArray[np.int64]

RATE_TOLERANCE = 1e-3
"""Largest relative difference of a video's rate from a whole multiple of `data.fps`: 30000 / 1001
is often written as 29.97."""


def control_steps_per_frame(video_fps: float, fps: float) -> int | None:
    """Control steps between two frames of a clip; None if that is not a whole number.

    Args:
        video_fps: frames, and so control steps, per second of the video.
        fps: frames per second of the clip.
    """
    steps = round(video_fps / fps)
    return steps if steps and abs(video_fps / (steps * fps) - 1) < RATE_TOLERANCE else None


def required_arrays(data: Data) -> tuple[str, ...]:
    """The sidecar arrays that a job reads with each clip.

    Raises:
        RequestError: the job's `data.actions` is not resolved.
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
    """The statistics, the control steps per frame, and the width of the actions.

    Raises:
        RequestError: they have not been resolved from the data.
    """
    if act.statistics is None or act.frameskip is None or act.action_dim is None:
        raise RequestError(
            "the statistics of the data's actions are not resolved",
            where="data.actions",
            hint="orchestrator.training.resolve.actions.resolve_actions does it",
        )
    return act.statistics, act.frameskip, act.action_dim


def sample_frame_indices(
    rng: np.random.Generator, frames: int, video_fps: float, data: Data
) -> IntArray:
    """Draw the frames of a clip, int64 [T]: indices in the video, whole control steps apart.

    The first is uniform over all with which the clip fits.

    Args:
        frames: number of frames of the video.
        video_fps: frames per second of the video.
        data: says how many frames a clip has, and at which rate.

    Raises:
        DataError: the video is shorter than a clip, or its rate does not fit the job's.
    """
    steps = control_steps_per_frame(video_fps, data.fps)
    frameskip = data.actions and data.actions.frameskip
    if steps is None or steps != (frameskip or steps):
        found = f"{steps} control steps lead" if steps else "no whole number of control steps leads"
        wanted = f", the job reads {frameskip}" if frameskip else ""
        raise DataError(
            f"has {video_fps:.5g} frames a second: {found} from one to the next of"
            f" {data.fps:g} a second{wanted}"
        )
    span = (data.frames - 1) * steps
    if frames <= span:
        raise DataError(f"has {frames} frames, a clip needs {span + 1}")
    return rng.integers(frames - span) + np.arange(data.frames, dtype=np.int64) * steps


class ActionReader:
    """Reads the actions and states of a job's clips. Small enough to send to other processes.

    Raises:
        RequestError: the job's `data.actions` is not resolved.
    """

    def __init__(self, data: Data) -> None:
        assert data.actions is not None
        statistics, _, self._width = require_resolved(data.actions)
        self._data, self._frames = data, data.frames
        self._state_differences = data.actions.representation == "change"
        self._action_width = len(statistics.action_mean)
        self._state_width = len(statistics.state_mean)

    def sample_frame_indices(self, row: EncodedClip, rng: np.random.Generator) -> IntArray:
        """Draw the clip's frames, int64 [T]: indices in the video.

        Raises:
            DataError: the video is shorter than a clip, or its rate does not fit the job's.
        """
        return sample_frame_indices(rng, row.video_frames, row.video_fps, self._data)

    def read(self, row: EncodedClip, frame_indices: IntArray) -> ClipActions:
        """Read the actions and states of the clip with the frames `frame_indices`.

        Raises:
            DataError: an array of the video cannot be used.
        """
        states = self._read(row, STATES_FILE, self._state_width) if self._state_width else None
        no_states = np.zeros((self._frames, 0), np.float32)
        clip_states = no_states if states is None else states[frame_indices]
        if self._state_differences:
            return ClipActions(np.diff(clip_states, axis=0), clip_states)
        actions = self._read(row, ACTIONS_FILE, self._action_width)
        return ClipActions(
            actions[frame_indices[0] : frame_indices[-1]].reshape(self._frames - 1, self._width),
            clip_states,
        )

    def zeros(self) -> ClipActions:
        """The actions and states of a clip that cannot be used."""
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
