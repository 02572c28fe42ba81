"""Any gymnasium environment with pixels as a world, by its id: `world://gym/CartPole-v1`.

It cannot be put into a state: gymnasium has no word for that. So it can be collected in, and acted
in from its own beginnings; what needs more (an oracle, goals by state) says so and stops.
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
"""A larger observation is a picture or the like, and no state."""


class GymnasiumEnvironment(Environment):
    """The state is the observation, flattened; [0] where that is no short list of numbers.

    Actions of a `Discrete` space are a number for each choice, in [0, 1]: the largest is done. The
    collector gives 1 to one and 0 to the others.
    """

    can_set_state = False

    def __init__(self, name: str, size: int = 64) -> None:
        """Make the environment.

        Raises:
            RequestError: there is none of this id, it needs something that is not installed, draws
                no pictures, or has actions that are neither bounded numbers nor choices.
        """
        self.name = name
        check_environment_id(name)
        try:
            self._env = gymnasium.make(name, render_mode="rgb_array", disable_env_checker=True)
        except (gymnasium.error.Error, ImportError, TypeError) as error:
            raise self._request_error(
                f"cannot be made: {error}", "install what it needs"
            ) from error
        if "rgb_array" not in self._env.metadata.get("render_modes", []):
            raise self._request_error(
                "it draws no pictures", "it needs the render mode 'rgb_array'"
            )
        rate = self._env.metadata.get("render_fps")
        if not rate:
            raise self._request_error("its rate is not known", "give it metadata['render_fps']")
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
        """Whether an action is a choice between some."""
        return isinstance(self._env.action_space, spaces.Discrete)

    @property
    def state(self) -> Floats:
        if not self._state_size:
            return np.zeros(0, np.float32)
        return np.asarray(
            spaces.flatten(self._env.observation_space, self._observation), np.float32
        )

    def start_episode(self, rng: np.random.Generator) -> None:
        """A beginning of its own."""
        self._observation, _ = self._env.reset(seed=int(rng.integers(2**31)))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """A beginning of its own."""
        if options and "state" in options:
            raise self._cannot_set_state()
        gymnasium.Env.reset(self, seed=seed)
        self._observation, info = self._env.reset(seed=seed, options=options)
        return self.state, info

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """One control step; unlike other worlds it may end an episode, and has a reward."""
        state, _, _, _, info = super().step(action)
        return state, self._reward, *self._ended, info

    def advance(self, action: Floats) -> None:
        space, given = self._env.action_space, np.asarray(action)
        done: Any
        if isinstance(space, spaces.Discrete):
            done = int(space.start) + int(given.argmax())
        else:
            assert space.shape is not None
            done = given.reshape(space.shape).astype(space.dtype)
        self._observation, reward, terminated, truncated, _ = self._env.step(done)
        self._reward, self._ended = float(reward), (bool(terminated), bool(truncated))

    def render(self) -> ImageArray:
        """The whole picture in a square: sides of another length are squeezed, by area means."""
        shown: Any = self._env.render()
        small = Image.fromarray(np.asarray(shown, np.uint8)).convert("RGB")
        picture: ImageArray = np.asarray(
            small.resize((self.size, self.size), Image.Resampling.BOX), np.uint8
        )
        return picture

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
                f"its actions are {type(space).__name__}", "only Box and Discrete can be acted with"
            )
        if not space.is_bounded():
            raise self._request_error(
                "its actions have no bounds", "wrap it: gymnasium.wrappers.ClipAction"
            )
        low, high = (np.asarray(bound, np.float32).reshape(-1) for bound in (space.low, space.high))
        return spaces.Box(low, high, dtype=np.float32)

    def _request_error(self, what: str, mend: str) -> RequestError:
        return RequestError(what, where=f"gym/{self.name}", hint=mend)

    def _cannot_set_state(self) -> RequestError:
        return self._request_error(
            "a gymnasium environment cannot be put into a state",
            "act in it from its own beginnings, or take a world that can: two-rooms, push-t, ...",
        )


class GymnasiumCollector:
    """Numbers drawn evenly between their bounds, or one choice of all, anew at every step."""

    def __call__(self, environment: Environment, rng: np.random.Generator) -> Floats:
        space = environment.action_space
        assert isinstance(space, spaces.Box)
        if isinstance(environment, GymnasiumEnvironment) and environment.has_discrete_actions:
            one: Floats = np.zeros(space.shape, np.float32)
            one[rng.integers(len(one))] = 1
            return one
        return rng.uniform(space.low, space.high).astype(np.float32)


def check_environment_id(name: str) -> None:
    """Whether gymnasium knows an id; `module:ID` imports the module first.

    Raises:
        RequestError: it does not.
    """
    try:
        if name.partition(":")[0] and ":" in name:
            __import__(name.partition(":")[0])
        gymnasium.spec(name.rpartition(":")[2])
    except (gymnasium.error.Error, ImportError) as error:
        known = [str(key) for key in gymnasium.registry]
        raise RequestError(
            f"gymnasium has no '{name}': {str(error).splitlines()[0]}",
            where=f"gym/{name}",
            hint=suggest(name, known),
        ) from None


def _flat_size(space: spaces.Space[Any]) -> int:
    """Numbers of a flattened observation; 0 where it is no short list of numbers."""
    try:
        count = spaces.flatdim(space)
    except (NotImplementedError, ValueError):
        return 0
    return count if count <= MAX_STATE_SIZE else 0
