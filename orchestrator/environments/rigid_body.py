"""Base class of rigid-body environments (pymunk) with a fully observed state.

A solver keeps more than poses and velocities: the contact forces, with which it starts its next
step. Each control step therefore builds the space anew from the state, so that the next state is a
function of (state, action), and a rollout from a saved state repeats exactly.
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
    """The pymunk space of one control step.

    `bodies` are those that actions move or the state describes. `action_origin`, [2], is the point
    that positional actions are relative to.
    """

    space: pymunk.Space
    bodies: tuple[pymunk.Body, ...]
    action_origin: Floats = field(default_factory=lambda: np.zeros(2, np.float32))


class RigidBodyEnvironment(Environment):
    """Rigid-body environment: states float32 [S] within `state_bounds`, actions [2] in [-1, 1]."""

    substeps: ClassVar[int]
    """Solver steps per control step."""

    state_bounds: ClassVar[tuple[tuple[float, float], ...]]
    """Minimum and maximum of each entry of a state."""

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
        """Build the space with all bodies and static shapes, in this state."""

    @abstractmethod
    def apply_action(self, space: PhysicsSpace, action: Floats, seconds: float) -> None:
        """Apply the action; called before each solver step, which lasts `seconds`."""

    @abstractmethod
    def read_state(self, space: PhysicsSpace, previous_state: Floats) -> Floats:
        """Read the state after a control step that started in `previous_state`."""

    @abstractmethod
    def scene(self) -> Scene:
        """The scene to render."""

    @abstractmethod
    def poses(self, state: Floats) -> Floats:
        """Poses of the scene's bodies: x, y (metres) and angle, [bodies, 3]."""

    @property
    def state(self) -> Floats:
        return self._state.copy()

    def set_state(self, state: Floats) -> None:
        state = np.asarray(state, np.float32)
        shape = self._low.shape
        if state.shape != shape or not ((state >= self._low) & (state <= self._high)).all():
            raise RequestError(
                f"the state {state.tolist()} is outside the environment's bounds",
                where=type(self).__name__,
                hint="; ".join(
                    f"{name} from {low:g} to {high:g}"
                    for name, low, high in zip(self.state_names, self._low, self._high, strict=True)
                ),
            )
        self._state = state.copy()

    def advance(self, action: Floats) -> None:
        self._state = self.next_state(self._state, action)

    def next_state(self, state: Floats, action: Floats) -> Floats:
        """Simulate one control step from a state, float32 [S] -> [S]."""
        space = self.build_space(state)
        seconds = 1 / (self.control_rate * self.substeps)
        for _ in range(self.substeps):
            self.apply_action(space, action, seconds)
            space.space.step(seconds)
        following = np.asarray(self.read_state(space, state), np.float32)
        within_bounds: Floats = np.clip(following, self._low, self._high)
        return within_bounds

    def render_state(self, state: Floats) -> ImageArray:
        frames, _ = render(self.scene(), self.poses(state)[None].astype(np.float64), self.size)
        image: ImageArray = frames[0]
        return image


accept_old_members(RigidBodyEnvironment, OLD_RIGID_BODY_MEMBERS)
setattr(RigidBodyEnvironment, "bounds", OldAttribute("state_bounds"))  # noqa: B010 - as in base.py


def angle_features(angles: Floats) -> Floats:
    """Cosine and sine of angles, which are continuous where radians jump: [...] -> [..., 2]."""
    return np.stack([np.cos(angles), np.sin(angles)], -1).astype(np.float32)


def make_body(
    mass: float, moment: float, position_velocity: Floats, angle: float = 0.0
) -> pymunk.Body:
    """Make a dynamic body.

    Args:
        mass: kilograms.
        moment: moment of inertia.
        position_velocity: x, y and, optionally, vx, vy.
        angle: radians.
    """
    body = pymunk.Body(mass, moment)
    body.position = (float(position_velocity[0]), float(position_velocity[1]))
    body.angle = float(angle)
    if len(position_velocity) > 2:
        body.velocity = (float(position_velocity[2]), float(position_velocity[3]))
    return body


def visual_body(
    shape: str, size: float, colour: Colour, corners: Floats | None = None, mark: str = "plain"
) -> RigidBody:
    """Make a body for rendering only; its mass and pose are placeholders."""
    vertices = None if corners is None else corners.astype(np.float64)
    return RigidBody(
        shape, size, 1.0, (0.0, 0.0, 0.0), colour, (1.0, 1.0, 1.0), mark, corners=vertices
    )
