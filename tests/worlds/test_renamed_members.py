"""Environments written with the member names of earlier versions."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box

from orchestrator.environments.base import Collector, Environment, RandomActions, collect_episode

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from orchestrator.worlds.base import World


def _old_class(**members: Any) -> type[Environment]:
    """A point on a line, as a user of the earlier version wrote it."""

    class Line(World):
        rate = 5.0
        state_names = ("x",)

        def __init__(self, size: int = 64) -> None:
            super().__init__(size)
            self.action_space = Box(-1.0, 1.0, (1,), np.float32)
            self.observation_space = Box(-10.0, 10.0, (1,), np.float32)
            self.x = 0.0

        @property
        def state(self) -> Any:
            return np.array([self.x], np.float32)

        def restore(self, state: Any) -> None:
            self.x = float(state[0])

        def reached(self, state: Any, goal: Any) -> bool:
            return bool(abs(state[0] - goal[0]) < 0.5)

        def draw(self, rng: np.random.Generator) -> Any:
            return rng.uniform(-5, 5, 1).astype(np.float32)

        def begin(self, rng: np.random.Generator) -> None:
            super().begin(rng)
            self.begun = True

        @classmethod
        def collector(cls) -> Collector:
            return _Right()

        def advance(self, action: Any) -> None:
            self.x += float(action[0]) / self.rate

        def picture(self, state: Any) -> Any:
            return np.full((self.size, self.size, 3), round(float(state[0]) * 10) + 128, np.uint8)

    return type("Line", (Line,), members) if members else Line


class _Right:
    def __call__(self, environment: Any, rng: np.random.Generator) -> Any:
        assert environment.rate == environment.control_rate
        return np.ones(1, np.float32)


def test_an_old_subclass_works_and_warns_once_with_the_new_names() -> None:
    with pytest.warns(DeprecationWarning, match="is now") as warned:
        made = _old_class()
    assert len(warned) == 1
    text = str(warned[0].message)
    for new in ("control_rate", "set_state", "is_success", "sample_state", "render_state"):
        assert f"is now {new}" in text
    environment: Any = made(16)
    assert environment.metadata["render_fps"] == environment.control_rate == made.control_rate == 5
    episode = collect_episode(environment, made.make_collector(), 4, np.random.default_rng(0))
    assert environment.begun, "an override that calls super() by the old name is used"
    np.testing.assert_allclose(np.diff(episode.states[:, 0]), 0.2, atol=1e-6)
    rolled = environment.rollout(np.float32([[0], [1]]), np.ones((2, 3, 1), np.float32))
    np.testing.assert_allclose(rolled[:, -1, 0], [0.6, 1.6], atol=1e-6)
    assert environment.is_nontrivial(np.float32([0]), np.float32([2]))
    environment.reset(options={"state": [3]})
    assert environment.render()[0, 0, 0] == 158
    assert environment.can_set_state


def test_both_names_are_one_value_however_it_is_set() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        made: Any = _old_class(restorable=False)
    assert not made.can_set_state
    assert not made.restorable
    environment = made(16)
    environment.rate = 20.0
    assert environment.control_rate == 20.0
    environment.control_rate = 10.0
    assert environment.rate == 10.0


def test_a_subclass_of_an_old_one_may_use_the_new_names() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old = _old_class()
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        class Mirrored(old):  # type: ignore[misc, valid-type]
            def sample_state(self, rng: np.random.Generator) -> Any:
                return -super().sample_state(rng)

    there, here = old(16), Mirrored(16)
    there.start_episode(np.random.default_rng(3))
    here.start_episode(np.random.default_rng(3))
    assert here.state == -there.state
    assert here.draw(np.random.default_rng(4)) == here.sample_state(np.random.default_rng(4))


def test_built_in_environments_answer_to_old_names() -> None:
    from orchestrator.environments import build_environment

    world: Any = build_environment("drop", 16)
    assert world.rate == 10.0
    assert world.bounds == world.state_bounds
    assert world.restorable
    world.restore(world.draw(np.random.default_rng(0)))
    assert world.picture(world.state).shape == (16, 16, 3)
    assert isinstance(Environment.make_collector(), RandomActions)
