"""The contract of environments, of the policies that collect videos in them, and of an episode.

A video of an environment has one frame per control step: frame f shows the state before action f,
and action f leads to frame f + 1.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import gymnasium
import numpy as np
import numpy.typing as npt

from orchestrator.environments.renamed_members import (
    OLD_ENVIRONMENT_MEMBERS,
    OldAttribute,
    accept_old_members,
)
from orchestrator.errors import RequestError

Floats = npt.NDArray[np.float32]
ImageArray = npt.NDArray[np.uint8]


class Environment(gymnasium.Env[Floats, Floats]):
    """Base class of environments: a gymnasium environment whose state can be set and rendered.

    Observations are the state, float32 [S]; `render` returns an image, uint8 [size, size, 3].
    `step` never ends an episode and gives no reward: `is_success` says whether a goal is reached.
    A subclass may use the member names of earlier versions (see `renamed_members`).
    """

    control_rate: float
    """Control steps per second."""

    state_names: tuple[str, ...]
    """Names of the entries of a state."""

    version: ClassVar[int] = 1
    """Version of the dynamics and the rendering; part of a dataset's identity."""

    can_set_state: ClassVar[bool] = True
    """Whether `set_state` works. Goals given as states and the oracle policy need it."""

    def __init__(self, size: int = 64) -> None:
        self.size = size
        self.render_mode = "rgb_array"
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": self.control_rate}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        accept_old_members(cls, OLD_ENVIRONMENT_MEMBERS)

    @property
    @abstractmethod
    def state(self) -> Floats:
        """The full state, float32 [S]: the next state depends on it and the action alone."""

    @abstractmethod
    def set_state(self, state: Floats) -> None:
        """Put the environment into a state, float32 [S].

        Raises:
            RequestError: the state is impossible.
        """

    @abstractmethod
    def is_success(self, state: Floats, goal: Floats) -> bool:
        """Whether a state counts as the goal."""

    def is_nontrivial(self, start: Floats, goal: Floats) -> bool:
        """Whether a task is worth evaluating (a door lies between start and goal, say)."""
        return not self.is_success(start, goal)

    def success_features(self, states: Floats) -> Floats:
        """What success depends on, as numbers whose differences are distances to the goal.

        Angles, for instance, become cosine and sine. [..., S] -> [..., M]; by default the states.
        """
        return states

    @abstractmethod
    def sample_state(self, rng: np.random.Generator) -> Floats:
        """Sample the state that an episode starts in, float32 [S]."""

    def start_episode(self, rng: np.random.Generator) -> None:
        """Go to a sampled start state."""
        self.set_state(self.sample_state(rng))

    @classmethod
    def make_collector(cls) -> Collector:
        """Make the policy that collects videos in this environment, a new one for each episode."""
        return RandomActions()

    @abstractmethod
    def advance(self, action: Floats) -> None:
        """Simulate one control step; `action` is float32 [A] inside the action space."""

    def rollout(self, states: Floats, actions: Floats) -> Floats:
        """Simulate action sequences from many states: [M, S], [M, n, A] -> [M, n, S].

        Override it where the simulation can be vectorised. The current state is lost.
        """
        reached = np.empty((*actions.shape[:2], states.shape[1]), np.float32)
        for row, (state, sequence) in enumerate(zip(states, actions, strict=True)):
            self.set_state(state)
            for step, action in enumerate(sequence):
                self.advance(action)
                reached[row, step] = self.state
        return reached

    def render(self) -> ImageArray:
        """Render the current state, uint8 [size, size, 3]."""
        return self.render_state(self.state)

    @abstractmethod
    def render_state(self, state: Floats) -> ImageArray:
        """Render any state, uint8 [size, size, 3], without changing the current one."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Start an episode in a sampled state, or in `options["state"]`."""
        super().reset(seed=seed)
        state = (options or {}).get("state")
        if state is None:
            state = self.sample_state(self.np_random)
        self.set_state(np.asarray(state, np.float32))
        return self.state, {}

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Simulate one control step, with the action clipped to the action space; reward is 0.

        Raises:
            RequestError: the action has another shape, or is not finite.
        """
        space = self.action_space
        assert isinstance(space, gymnasium.spaces.Box)
        action = np.asarray(action, np.float32)
        if action.shape != space.shape or not np.isfinite(action).all():
            raise RequestError(
                f"the action {action.tolist()} is not valid",
                where=type(self).__name__,
                hint=f"give {space.shape[0]} finite numbers",
            )
        self.advance(np.clip(action, space.low, space.high))
        return self.state, 0.0, False, False, {}


accept_old_members(Environment, OLD_ENVIRONMENT_MEMBERS)
setattr(Environment, "rate", OldAttribute("control_rate"))  # noqa: B010 - unknown to type checkers


class Collector(Protocol):
    """A scripted policy that collects videos; a new instance is made for each episode."""

    def __call__(self, environment: Environment, rng: np.random.Generator) -> Floats:
        """Choose the action of this control step, float32 [A]."""


@dataclass(frozen=True)
class Episode:
    """A recorded episode: row f of `actions` leads from frame f to f + 1; the last row is 0."""

    frames: ImageArray
    """uint8 [F, size, size, 3]."""

    states: Floats
    """float32 [F, S]."""

    actions: Floats
    """float32 [F, A]."""


class RandomActions:
    """Collector of independent, uniformly distributed actions."""

    def __call__(self, environment: Environment, rng: np.random.Generator) -> Floats:
        space = environment.action_space
        assert isinstance(space, gymnasium.spaces.Box)
        return rng.uniform(space.low, space.high).astype(np.float32)


def collect_episode(
    environment: Environment, collector: Collector, max_frames: int, rng: np.random.Generator
) -> Episode:
    """Record an episode of `max_frames` frames, fewer if the environment ends it earlier."""
    environment.start_episode(rng)
    frames, states, actions = [environment.render()], [environment.state], []
    done = False
    while len(frames) < max_frames and not done:
        action = np.asarray(collector(environment, rng), np.float32)
        _, _, terminated, truncated, _ = environment.step(action)
        done = terminated or truncated
        frames.append(environment.render())
        states.append(environment.state)
        actions.append(action)
    space = environment.action_space
    assert isinstance(space, gymnasium.spaces.Box)
    actions.append(np.zeros(space.shape, np.float32))
    return Episode(np.stack(frames), np.stack(states), np.stack(actions))
