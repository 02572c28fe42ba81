"""Any gymnasium environment that renders pixels, by its id: `world://gym/CartPole-v1`.

Gymnasium has no method that sets a state. Videos can be collected, and episodes started where the
environment starts them; what needs more (an oracle, goals given as states) is refused.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from PIL import Image

from orchestrator.environments.base import Collector, Environment, Floats, ImageArray
from orchestrator.errors import RequestError, suggest

MAX_STATE_SIZE = 1024
"""Larger observations are taken for images, not for states."""


class GymnasiumEnvironment(Environment):
    """Adapter of a gymnasium environment.

    The state is the flattened observation, or empty, [0], where that is not a short vector. An
    action of a `Discrete` space is one number in [0, 1] per choice; the choice with the largest is
    taken. The collector samples one-hot actions.
    """

    can_set_state = False

    def __init__(self, name: str, size: int = 64) -> None:
        """Make the environment.

        Raises:
            RequestError: the id is unknown, a package is not installed, the environment does not
                render, or its actions are neither a bounded Box nor Discrete.
        """
        self.name = name
        check_environment_id(name)
        try:
            self._env = gymnasium.make(name, render_mode="rgb_array", disable_env_checker=True)
        except (gymnasium.error.Error, ImportError, TypeError) as error:
            raise self._request_error(
                f"cannot be made: {error}", "install the packages that it needs"
            ) from error
        if "rgb_array" not in self._env.metadata.get("render_modes", []):
            raise self._request_error(
                "it does not render images", "it needs the render mode 'rgb_array'"
            )
        rate = self._env.metadata.get("render_fps")
        if not rate:
            raise self._request_error("its control rate is unknown", "set metadata['render_fps']")
        self.control_rate = float(rate)
        super().__init__(size)
        self.action_space = self._box_action_space(self._env.action_space)
        self._state_size = _flat_size(self._env.observation_space)
        self.observation_space = spaces.Box(-np.inf, np.inf, (self._state_size,), np.float32)
        self.state_names = tuple(f"observation {number}" for number in range(self._state_size))
        self._observation: Any = None
        self._reward, self._ended = 0.0, (False, False)

    @classmethod
    def make_collector(cls) -> Collector:
        return GymnasiumCollector()

    @property
    def has_discrete_actions(self) -> bool:
        """Whether the action space is `Discrete`."""
        return isinstance(self._env.action_space, spaces.Discrete)

    @property
    def state(self) -> Floats:
        if not self._state_size:
            return np.zeros(0, np.float32)
        return np.asarray(
            spaces.flatten(self._env.observation_space, self._observation), np.float32
        )

    def start_episode(self, rng: np.random.Generator) -> None:
        """Reset the environment to a start of its own."""
        self._observation, _ = self._env.reset(seed=int(rng.integers(2**31)))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Reset the environment to a start of its own."""
        if options and "state" in options:
            raise self._cannot_set_state()
        gymnasium.Env.reset(self, seed=seed)
        self._observation, info = self._env.reset(seed=seed, options=options)
        return self.state, info

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Simulate one control step; unlike other environments, with a reward and an end."""
        state, _, _, _, info = super().step(action)
        return state, self._reward, *self._ended, info

    def advance(self, action: Floats) -> None:
        space, action = self._env.action_space, np.asarray(action)
        native: Any
        if isinstance(space, spaces.Discrete):
            native = int(space.start) + int(action.argmax())
        else:
            assert space.shape is not None
            native = action.reshape(space.shape).astype(space.dtype)
        self._observation, reward, terminated, truncated, _ = self._env.step(native)
        self._reward, self._ended = float(reward), (bool(terminated), bool(truncated))

    def render(self) -> ImageArray:
        """Render the current state as a square; other aspect ratios are squeezed, by area means."""
        rendered: Any = self._env.render()
        image = Image.fromarray(np.asarray(rendered, np.uint8)).convert("RGB")
        square: ImageArray = np.asarray(
            image.resize((self.size, self.size), Image.Resampling.BOX), np.uint8
        )
        return square

    def close(self) -> None:
        self._env.close()

    def set_state(self, state: Floats) -> None:
        raise self._cannot_set_state()

    def sample_state(self, rng: np.random.Generator) -> Floats:
        raise self._cannot_set_state()

    def render_state(self, state: Floats) -> ImageArray:
        raise self._cannot_set_state()

    def is_success(self, state: Floats, goal: Floats) -> bool:
        raise self._cannot_set_state()

    def _box_action_space(self, space: spaces.Space[Any]) -> spaces.Box[Any]:
        if isinstance(space, spaces.Discrete):
            return spaces.Box(0.0, 1.0, (int(space.n),), np.float32)
        if not isinstance(space, spaces.Box):
            raise self._request_error(
                f"its actions are {type(space).__name__}", "only Box and Discrete are supported"
            )
        if not space.is_bounded():
            raise self._request_error(
                "its actions have no bounds", "wrap it: gymnasium.wrappers.ClipAction"
            )
        low, high = (np.asarray(bound, np.float32).reshape(-1) for bound in (space.low, space.high))
        return spaces.Box(low, high, dtype=np.float32)

    def _request_error(self, what: str, hint: str) -> RequestError:
        return RequestError(what, where=f"gym/{self.name}", hint=hint)

    def _cannot_set_state(self) -> RequestError:
        return self._request_error(
            "a gymnasium environment cannot be put into a state",
            "use its own starts, or an environment that can: two-rooms, push-t, ...",
        )


class GymnasiumCollector:
    """Collector of uniformly distributed actions, one-hot for a `Discrete` action space."""

    def __call__(self, environment: Environment, rng: np.random.Generator) -> Floats:
        space = environment.action_space
        assert isinstance(space, spaces.Box)
        if isinstance(environment, GymnasiumEnvironment) and environment.has_discrete_actions:
            one_hot: Floats = np.zeros(space.shape, np.float32)
            one_hot[rng.integers(len(one_hot))] = 1
            return one_hot
        return rng.uniform(space.low, space.high).astype(np.float32)


def check_environment_id(name: str) -> None:
    """Check that gymnasium has an environment of this id; `module:ID` imports the module first.

    Raises:
        RequestError: the id is unknown, or the module cannot be imported.
    """
    try:
        if name.partition(":")[0] and ":" in name:
            __import__(name.partition(":")[0])
        gymnasium.spec(name.rpartition(":")[2])
    except (gymnasium.error.Error, ImportError) as error:
        ids = [str(key) for key in gymnasium.registry]
        raise RequestError(
            f"gymnasium has no '{name}': {str(error).splitlines()[0]}",
            where=f"gym/{name}",
            hint=suggest(name, ids),
        ) from None


def _flat_size(space: spaces.Space[Any]) -> int:
    """Size of a flattened observation; 0 if it has none, or one above `MAX_STATE_SIZE`."""
    try:
        count = spaces.flatdim(space)
    except (NotImplementedError, ValueError):
        return 0
    return count if count <= MAX_STATE_SIZE else 0
