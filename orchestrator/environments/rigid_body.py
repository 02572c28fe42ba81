"""Worlds of rigid bodies (pymunk), whose state hides nothing.

A solver keeps more than poses and velocities: the forces that it found at contacts, to begin the
next step with. So a control step begins by building everything anew out of the state: what follows
is a function of (state, action), and going on from a restored state gives the same.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pymunk
from gymnasium.spaces import Box

from orchestrator.environments.base import Environment, Floats, ImageArray
from orchestrator.environments.renamed_members import (
    OLD_RIGID_BODY_MEMBERS,
    OldAttribute,
    accept_old_members,
)
from orchestrator.errors import RequestError
from orchestrator.physics.renderer import render
from orchestrator.physics.scene import Colour, RigidBody, Scene


@dataclass
class PhysicsSpace:
    """One control step's space.

    `bodies`: those that the world moves or reads. `action_origin`: where an action that is a
    place counts from, [2].
    """

    space: pymunk.Space
    bodies: tuple[pymunk.Body, ...]
    action_origin: Floats = field(default_factory=lambda: np.zeros(2, np.float32))


class RigidBodyEnvironment(Environment):
    """A state is float32 [S] inside `state_bounds`; two numbers in [-1, 1] are an action."""

    substeps: ClassVar[int]
    """Steps of the solver in a control step."""

    state_bounds: ClassVar[tuple[tuple[float, float], ...]]
    """Lowest and highest of every number of a state."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        accept_old_members(cls, OLD_RIGID_BODY_MEMBERS)

    def __init__(self, size: int = 64) -> None:
        super().__init__(size)
        low: Floats
        high: Floats
        low, high = np.array(self.state_bounds, np.float32).T
        self.action_space = Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = Box(low, high, dtype=np.float32)
        self._low, self._high = low, high
        self._state: Floats = np.zeros_like(low)

    @abstractmethod
    def build_space(self, state: Floats) -> PhysicsSpace:
        """Everything that moves and stands, as the state says."""

    @abstractmethod
    def apply_action(self, space: PhysicsSpace, action: Floats, seconds: float) -> None:
        """What the action does, before each step of the solver of `seconds`."""

    @abstractmethod
    def read_state(self, space: PhysicsSpace, previous_state: Floats) -> Floats:
        """The state after the last step of the solver, which began with `previous_state`."""

    @abstractmethod
    def scene(self) -> Scene:
        """What is drawn."""

    @abstractmethod
    def poses(self, state: Floats) -> Floats:
        """x, y (metres), angle of each thing of the scene, [objects, 3]."""

    @property
    def state(self) -> Floats:
        return self._state.copy()

    def set_state(self, state: Floats) -> None:
        given = np.asarray(state, np.float32)
        shape = self._low.shape
        if given.shape != shape or not ((given >= self._low) & (given <= self._high)).all():
            raise RequestError(
                f"the state {given.tolist()} is outside the world",
                where=type(self).__name__,
                hint="; ".join(
                    f"{name} from {low:g} to {high:g}"
                    for name, low, high in zip(self.state_names, self._low, self._high, strict=True)
                ),
            )
        self._state = given.copy()

    def advance(self, action: Floats) -> None:
        self._state = self.next_state(self._state, action)

    def next_state(self, state: Floats, action: Floats) -> Floats:
        """Where a control step leads from a state, float32 [S]."""
        stage = self.build_space(state)
        seconds = 1 / (self.control_rate * self.substeps)
        for _ in range(self.substeps):
            self.apply_action(stage, action, seconds)
            stage.space.step(seconds)
        read = np.asarray(self.read_state(stage, state), np.float32)
        inside: Floats = np.clip(read, self._low, self._high)
        return inside

    def render_state(self, state: Floats) -> ImageArray:
        frames, _ = render(self.scene(), self.poses(state)[None].astype(np.float64), self.size)
        shown: ImageArray = frames[0]
        return shown


accept_old_members(RigidBodyEnvironment, OLD_RIGID_BODY_MEMBERS)
setattr(RigidBodyEnvironment, "bounds", OldAttribute("state_bounds"))  # noqa: B010 - as in base.py


def angle_features(angles: Floats) -> Floats:
    """Radians [...] as numbers without a seam, [..., 2]."""
    return np.stack([np.cos(angles), np.sin(angles)], -1).astype(np.float32)


def make_body(
    mass: float, moment: float, position_velocity: Floats, angle: float = 0.0
) -> pymunk.Body:
    """A body at `position_velocity`: x, y and, where given, vx, vy; `angle`: its angle."""
    made = pymunk.Body(mass, moment)
    made.position = (float(position_velocity[0]), float(position_velocity[1]))
    made.angle = float(angle)
    if len(position_velocity) > 2:
        made.velocity = (float(position_velocity[2]), float(position_velocity[3]))
    return made


def visual_body(
    shape: str, size: float, colour: Colour, corners: Floats | None = None, mark: str = "plain"
) -> RigidBody:
    """A thing that is only drawn: its mass and place are the world's affair."""
    given = None if corners is None else corners.astype(np.float64)
    return RigidBody(
        shape, size, 1.0, (0.0, 0.0, 0.0), colour, (1.0, 1.0, 1.0), mark, corners=given
    )
