"""`data.actions`: clips of which it is known what was done in them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import PositiveFloat, PositiveInt, model_validator

from orchestrator.job.config.base import Section
from orchestrator.job.config.former_names import FormerName


class ActionStatistics(Section):
    """Mean and spread of every number of an action and of a state, over a dataset's rows."""

    action_mean: tuple[float, ...] = ()
    """Of each number of an action, in its own unit; empty where none are read (`change`)."""

    action_std: tuple[PositiveFloat, ...] = ()
    """Standard deviation; 1 where a number never changes."""

    state_mean: tuple[float, ...] = ()
    """Of each number of a state; empty where the data has none."""

    state_std: tuple[PositiveFloat, ...] = ()
    """Standard deviation; 1 where a number never changes."""

    @model_validator(mode="after")
    def _of_one_length(self) -> ActionStatistics:
        if len(self.action_mean) != len(self.action_std):
            raise ValueError(f"{len(self.action_mean)} means, {len(self.action_std)} deviations")
        if len(self.state_mean) != len(self.state_std):
            raise ValueError(f"{len(self.state_mean)} means, {len(self.state_std)} deviations")
        if not self.action_mean and not self.state_mean:
            raise ValueError("neither actions nor states are known")
        return self


class Actions(Section):
    """Which actions a clip comes with: rows of `KEY.actions.npy`, beside `KEY.states.npy`."""

    representation: Annotated[Literal["given", "change"], FormerName("actions")] = "given"
    """`given`: the actions of all control steps between two frames, side by side; `change`: how the
    state changes from frame to frame (V-JEPA 2-AC, arXiv 2506.09985, section 3.1)."""

    frameskip: Annotated[PositiveInt | None, FormerName("block")] = None
    """Control steps from one frame to the next. Default: the video's frames a second over
    `data.fps`, read from the data when the training begins."""

    statistics: ActionStatistics | None = None
    """What actions and states are normalised by. Default: the dataset's, read when the training
    begins; a run that goes on keeps what it began with."""

    @model_validator(mode="after")
    def _of_what_is_read(self) -> Actions:
        known = self.statistics
        if known is not None and not (
            known.action_mean if self.representation == "given" else known.state_mean
        ):
            missing = "action_mean" if self.representation == "given" else "state_mean"
            raise ValueError(f"actions: {self.representation} needs statistics.{missing}")
        return self

    @property
    def action_dim(self) -> int | None:
        """Numbers of what is done between two frames; None: not known before the data is read."""
        if self.statistics is None or self.frameskip is None:
            return None
        if self.representation == "change":
            return len(self.statistics.state_mean)
        return self.frameskip * len(self.statistics.action_mean)
