"""Gymnasium environments by their id: collected in as they are, and honest about what they lack."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from orchestrator.data.sources.base import RawClip, Rejected
from orchestrator.data.sources.open import open_source
from orchestrator.environments import build_collector, build_environment
from orchestrator.environments.base import collect_episode
from orchestrator.errors import RequestError
from orchestrator.job import TranscodeConfig

BOX = spaces.Box(-2.0, 2.0, (1, 2), np.float32)

COUNTED = spaces.Dict({"at": spaces.Box(0, 1000, (3,))})


class Walk(gymnasium.Env[Any, Any]):
    """A counter that shows a bar of its own length, 60 x 40 pixels; over at `last`."""

    def __init__(
        self,
        render_mode: str | None = None,
        actions: spaces.Space[Any] = BOX,
        last: int = 1000,
        fps: int | None = 25,
        seen: spaces.Space[Any] = COUNTED,
        modes: tuple[str, ...] = ("rgb_array",),
    ) -> None:
        self.metadata = {"render_modes": list(modes), "render_fps": fps}
        self.render_mode, self.action_space, self.observation_space = render_mode, actions, seen
        self.last, self.done = last, []

    def _look(self) -> Any:
        if isinstance(self.observation_space, spaces.Dict):
            return {"at": np.array([self.at, self.start, 0], np.float32)}
        return self.render()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at, self.start = 0, int(self.np_random.integers(100))
        return self._look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.done.append(action)
        self.at += 1
        return self._look(), 1.5, self.at >= self.last, False, {}

    def render(self) -> Any:
        picture = np.zeros((40, 60, 3), np.uint8)
        picture[:, : self.at] = (200, 100, 50)
        return picture


@pytest.fixture
def walk() -> Iterator[Any]:
    """Registers the environment with changes, and gives its id."""
    made: list[str] = []

    def register(**changes: Any) -> str:
        made.append(f"Walk{len(made)}-v0")
        gymnasium.register(made[-1], entry_point=lambda **given: Walk(**given, **changes))
        return f"gym/{made[-1]}"

    yield register
    for name in made:
        del gymnasium.registry[name]


def _clips(uri: str) -> list[RawClip | Rejected]:
    source = open_source(uri)
    return [clip for unit in source.units() for clip in source.clips(unit, TranscodeConfig())]  # type: ignore[union-attr]


def _array(clip: RawClip, name: str) -> np.ndarray:
    found: np.ndarray = np.load(io.BytesIO(clip.extras[f"{name}.npy"]), allow_pickle=False)
    return found


def test_its_episodes_become_clips_with_the_flattened_observations(walk: Any) -> None:
    clips = _clips(f"world://{walk()}?episodes=2&steps=20&size=32")
    assert len({clip.extras["states.npy"] for clip in clips}) == 2  # each from its own seed
    for clip in clips:
        assert isinstance(clip, RawClip)
        assert (clip.frames, clip.fps, clip.width, clip.height) == (20, 25, 32, 32)
        np.testing.assert_array_equal(_array(clip, "states")[:, 0], np.arange(20))
        actions = _array(clip, "actions")
        assert actions.shape == (20, 2)
        assert 1 < np.abs(actions).max() <= 2
    again = _clips(f"world://{walk()}?episodes=2&steps=20&size=32")
    assert [clip.payload for clip in again] == [clip.payload for clip in clips]


def test_the_whole_picture_is_squeezed_into_the_square(walk: Any) -> None:
    world = build_environment(walk(), 20)
    world.reset(seed=0)
    for _ in range(15):  # a quarter of 60 columns
        world.step(np.zeros(2, np.float32))
    shown = world.render()
    assert shown.shape == (20, 20, 3)
    np.testing.assert_array_equal(shown[:, :5], np.full((20, 5, 3), (200, 100, 50)))
    assert not shown[:, 5:].any()


def test_choices_are_the_largest_of_as_many_numbers(walk: Any) -> None:
    world = build_environment(walk(actions=spaces.Discrete(3, start=5)))
    world.reset(seed=0)
    assert world.action_space.shape == (3,)
    for scores in ([0.2, 0.1, 0.9], [1, 0, 0], [0.3, 0.31, 0.2]):
        _, reward, *_ = world.step(np.array(scores, np.float32))
        assert reward == 1.5
    assert world.unwrapped._env.unwrapped.done == [7, 5, 6]
    collect, rng = build_collector("gym/" + world.name), np.random.default_rng(0)
    shown = np.stack([collect(world, rng) for _ in range(60)])
    assert set(map(tuple, shown)) == {(1, 0, 0), (0, 1, 0), (0, 0, 1)}


def test_an_episode_ends_where_the_environment_says(walk: Any) -> None:
    episode = collect_episode(
        world := build_environment(walk(last=7)),
        world.make_collector(),
        20,
        np.random.default_rng(0),
    )
    assert episode.frames.shape[0] == len(episode.states) == len(episode.actions) == 8
    assert not episode.actions[-1].any()


def test_an_observation_of_pixels_is_no_state(walk: Any) -> None:
    pixels = spaces.Box(0, 255, (40, 60, 3), np.uint8)
    (clip,) = _clips(f"world://{walk(seen=pixels)}?episodes=1&steps=5")
    assert isinstance(clip, RawClip)
    assert set(clip.extras) == {"actions.npy", "json"}
    assert json.loads(clip.extras["json"])["world"]["states"] == []


def test_it_says_that_it_cannot_be_put_into_a_state(walk: Any) -> None:
    world = build_environment(walk())
    assert not world.can_set_state
    world.reset(seed=0)
    for ask in (
        lambda: world.set_state(world.state),
        lambda: world.render_state(world.state),
        lambda: world.reset(options={"state": world.state}),
        lambda: world.is_success(world.state, world.state),
    ):
        with pytest.raises(RequestError, match="cannot be put into a state"):
            ask()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fps": None}, "its control rate is unknown"),
        ({"modes": ("human",)}, "does not render images"),
        ({"actions": spaces.MultiBinary(3)}, "its actions are MultiBinary"),
        ({"actions": spaces.Box(-np.inf, np.inf, (2,))}, "no bounds"),
    ],
)
def test_what_cannot_be_acted_in_is_refused(walk: Any, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        build_environment(walk(**changes))


def test_an_unknown_id_is_refused_with_a_hint() -> None:
    for wrong, says in [
        ("CartPol-v1", "did you mean 'CartPole-v1'"),
        ("CartPole-v9", "did you mean 'CartPole-v1'"),
        ("no.such.module:Thing-v0", "no.such.module|No module"),
    ]:
        with pytest.raises(RequestError, match=says):
            open_source(f"world://gym/{wrong}")
