"""What a world to act in is: a gymnasium environment that can be put into a state and drawn.

A world's video has one frame a control step. Frame f shows the state before action f, and action f
leads to frame f + 1.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import gymnasium
import numpy as np
import numpy.typing as npt

from orchestrator.errors import RequestError

Floats = npt.NDArray[np.float32]
ImageArray = npt.NDArray[np.uint8]


class Environment(gymnasium.Env[Floats, Floats]):
    """Observations are the state, float32 [S]; `render` gives the picture, uint8 [size, size, 3].

    `step` ends an episode never by itself: whether a goal is reached is asked of `reached`.
    """

    rate: float
    """Control steps a second."""

    state_names: tuple[str, ...]
    """What the numbers of a state are."""

    version: ClassVar[int] = 1
    """Of what happens and is drawn: another number gives another dataset."""

    restorable: ClassVar[bool] = True
    """Whether `restore` works: without it there are no goals of one's own and no oracle."""

    def __init__(self, size: int = 64) -> None:
        self.size = size
        self.render_mode = "rgb_array"
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": self.rate}

    @property
    @abstractmethod
    def state(self) -> Floats:
        """All that decides what follows, float32 [S]."""

    @abstractmethod
    def restore(self, state: Floats) -> None:
        """Put the world into a state.

        Raises:
            RequestError: it lies outside the world.
        """

    @abstractmethod
    def reached(self, state: Floats, goal: Floats) -> bool:
        """Whether a state counts as the goal."""

    def worthwhile(self, start: Floats, goal: Floats) -> bool:
        """Whether getting from one to the other says anything (a door lies between, say)."""
        return not self.reached(start, goal)

    def judged(self, states: Floats) -> Floats:
        """What of states a success depends on, in numbers whose difference says how far it is:
        an angle as its cosine and sine. [..., S] -> [..., M]; all of them, unless a world says so.
        """
        return states

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Floats:
        """A state to begin with."""

    def begin(self, rng: np.random.Generator) -> None:
        """Go to a drawn state."""
        self.restore(self.draw(rng))

    @classmethod
    def collector(cls) -> Collector:
        """Who makes videos in this world, new for every episode."""
        return RandomActions()

    @abstractmethod
    def advance(self, action: Floats) -> None:
        """One control step; `action` is float32 [A] inside the action space."""

    def roll(self, states: Floats, actions: Floats) -> Floats:
        """Where actions lead, from each of many states: [M, S], [M, n, A] -> [M, n, S].

        A world that can do it for all at once says so by a `roll` of its own. The present state is
        lost.
        """
        reached = np.empty((*actions.shape[:2], states.shape[1]), np.float32)
        for row, (state, each) in enumerate(zip(states, actions, strict=True)):
            self.restore(state)
            for step, action in enumerate(each):
                self.advance(action)
                reached[row, step] = self.state
        return reached

    def render(self) -> ImageArray:
        """The picture of the present state, uint8 [size, size, 3]."""
        return self.picture(self.state)

    @abstractmethod
    def picture(self, state: Floats) -> ImageArray:
        """The picture of any state, uint8 [size, size, 3]; the present one stays as it is."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Begin in a drawn state, or in `options["state"]`."""
        super().reset(seed=seed)
        given = (options or {}).get("state")
        self.restore(self.draw(self.np_random) if given is None else np.asarray(given, np.float32))
        return self.state, {}

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """One control step, the action clipped to the action space. There is no reward."""
        space = self.action_space
        assert isinstance(space, gymnasium.spaces.Box)
        given = np.asarray(action, np.float32)
        if given.shape != space.shape or not np.isfinite(given).all():
            raise RequestError(
                f"the action {given.tolist()} cannot be",
                where=type(self).__name__,
                hint=f"give {space.shape[0]} finite numbers",
            )
        self.advance(np.clip(given, space.low, space.high))
        return self.state, 0.0, False, False, {}


class Collector(Protocol):
    """Acts in a world to make videos: scripted, made anew for every episode."""

    def __call__(self, environment: Environment, rng: np.random.Generator) -> Floats:
        """The action of this control step, float32 [A]."""


@dataclass(frozen=True)
class Episode:
    """What was seen and done: row f of `actions` leads from frame f to f + 1; the last is 0."""

    frames: ImageArray
    """uint8 [F, size, size, 3]."""

    states: Floats
    """float32 [F, S]."""

    actions: Floats
    """float32 [F, A]."""


class RandomActions:
    """Every number of an action drawn evenly between its bounds, anew at every control step."""

    def __call__(self, environment: Environment, rng: np.random.Generator) -> Floats:
        space = environment.action_space
        assert isinstance(space, gymnasium.spaces.Box)
        return rng.uniform(space.low, space.high).astype(np.float32)


def collect_episode(
    environment: Environment, collector: Collector, max_frames: int, rng: np.random.Generator
) -> Episode:
    """An episode from a drawn state on: `max_frames` frames, or fewer where the world ends it."""
    environment.begin(rng)
    frames, states, actions = [environment.render()], [environment.state], []
    ended = False
    while len(frames) < max_frames and not ended:
        action = np.asarray(collector(environment, rng), np.float32)
        _, _, terminated, truncated, _ = environment.step(action)
        ended = terminated or truncated
        frames.append(environment.render())
        states.append(environment.state)
        actions.append(action)
    space = environment.action_space
    assert isinstance(space, gymnasium.spaces.Box)
    actions.append(np.zeros(space.shape, np.float32))
    return Episode(np.stack(frames), np.stack(states), np.stack(actions))
