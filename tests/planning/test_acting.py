"""Playing tasks: what a task is, when a goal counts, who acts, what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.environments.base import Floats, play
from orchestrator.environments.two_rooms import NEAR, SIDE, DoorWalker, TwoRooms
from orchestrator.errors import RequestError
from orchestrator.evaluation.planning.compatibility import bounds_of, check_fit
from orchestrator.evaluation.planning.data_policies import Cloning, Nearest, clone, read_states
from orchestrator.evaluation.planning.episodes import Round, play_together
from orchestrator.evaluation.planning.policies import Bools, Oracle, Planner, Random, Sight
from orchestrator.evaluation.planning.replay_buffer import Memory, Recalled, recall
from orchestrator.evaluation.planning.tasks import Task, Tasks, draw_tasks
from orchestrator.evaluation.planning.units import units_of
from orchestrator.job.config.planning import CEM, Pair, Planning
from orchestrator.report.intervals import paired, wilson
from tests.support.two_rooms_model import RoomsModel

QUICK = CEM(candidates=100, iterations=5, elites=10, carried=3)


def planning(**keys: object) -> Planning:
    return Planning(world="two-rooms", solver=QUICK, **keys)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tasks() -> Tasks:
    return draw_tasks(planning(episodes=40), TwoRooms())


@pytest.fixture(scope="module")
def memory() -> Memory:
    """Episodes of the collector, seen by the stand-in (whose features are states)."""
    videos = []
    for number in range(60):
        episode = play(TwoRooms(16), DoorWalker(), 101, np.random.default_rng(number))
        at = np.arange(0, 101, 5)
        videos.append(
            Recalled(
                torch.from_numpy(episode.states[at] / SIDE),
                episode.actions[:100].reshape(20, 10),
                episode.states[at],
            )
        )
    return Memory(videos, None)


def played(arm: object, tasks: Tasks, budget: int = 50) -> Round:
    worlds = [TwoRooms() for _ in tasks.all]
    with torch.inference_mode():
        return play_together(worlds, tasks.all, arm, budget)  # type: ignore[arg-type]


def share(found: Round) -> float:
    return float(np.mean([one.reached is not None for one in found.played]))


def test_tasks_cross_the_door_and_do_not_depend_on_how_many_there_are(tasks: Tasks) -> None:
    for task in tasks.all:
        assert (task.start[0] < SIDE / 2) != (task.goal[0] < SIDE / 2)
        assert np.abs(task.goal - task.start).max() <= 25 * 5
        assert np.linalg.norm(task.goal - task.start) >= NEAR, "reached before anything is done"
    few = draw_tasks(planning(episodes=3), TwoRooms())
    for one, other in zip(few.all, tasks.all, strict=False):
        assert np.array_equal(one.start, other.start)
        assert np.array_equal(one.goal, other.goal)
    again = draw_tasks(planning(episodes=3, seed=5), TwoRooms())
    assert not np.array_equal(again.all[0].start, tasks.all[0].start)


def test_a_goal_outside_the_world_is_one_error() -> None:
    inside = (60.0, 60.0)
    for key, pair in (
        ("start", Pair(start=(5, 5), goal=inside)),
        ("goal", Pair(start=inside, goal=(112.0, 200.0))),
        ("goal", Pair(start=inside, goal=(60.0, 60.0, 1.0))),
    ):
        with pytest.raises(RequestError, match="outside") as error:
            draw_tasks(planning(tasks=(Pair(start=inside, goal=(60, 160)), pair)), TwoRooms())
        assert error.value.where == f"planning.tasks.1.{key}"
    with pytest.raises(RequestError, match="reached at the start"):
        draw_tasks(planning(tasks=(Pair(start=inside, goal=inside),)), TwoRooms())


class Straight:
    """Goes right at full speed, three control steps a call."""

    looks, decisions = False, 0

    def __init__(self) -> None:
        self.asked: list[int] = []

    def begin(self, tasks: Sequence[Task], goals: Sight) -> None:
        assert np.array_equal(goals.states, np.stack([task.goal for task in tasks]))

    def act(self, now: Sight) -> Floats:
        self.asked.append(len(now.states))
        return np.tile(np.float32([1, 0]), (len(now.states), 3, 1))

    def keep(self, going: Bools) -> None:
        assert len(going) == self.asked[-1]


def test_a_goal_counts_in_the_control_step_that_reaches_it_and_nothing_beyond_the_budget() -> None:
    starts = np.float32([[30, 60], [30, 60], [30, 60]])
    goals = np.float32([[60, 60], [90, 60], [30, 180]])
    ends = enumerate(zip(starts, goals, strict=True))
    tasks = Tasks([Task(n, *both) for n, both in ends], TwoRooms().judged, np.ones(2, np.float32))
    arm = Straight()
    found = played(arm, tasks, budget=10)
    # 5 a step: nearer than 16 at 45 (3 steps) and at 75 (9 steps).
    assert [one.reached for one in found.played] == [3, 9, None]
    assert [len(one.states) for one in found.played] == [4, 10, 11]
    assert arm.asked == [3, 2, 2, 1]
    for one, task in zip(found.played, tasks.all, strict=True):
        apart = np.linalg.norm(one.states - task.goal, axis=1)
        assert (apart[:-1] >= NEAR).all()
        assert (apart[-1] < NEAR) == (one.reached is not None)


def test_who_plans_reaches_goals_and_chance_does_not(tasks: Tasks) -> None:
    model, asked = RoomsModel(), planning()
    bounds = bounds_of(TwoRooms(), 5)
    found = {
        "model": played(Planner(model, asked, bounds, 0, tasks.measured), tasks),
        "oracle": played(Oracle(TwoRooms(), tasks, asked, bounds, 0), tasks),
        "random": played(Random(bounds, 5, 0), tasks),
    }
    assert share(found["model"]) >= 0.9
    assert share(found["oracle"]) >= 0.9
    assert share(found["random"]) <= 0.3
    again = played(Planner(model, asked, bounds, 0, tasks.measured), tasks)
    for one, other in zip(found["model"].played, again.played, strict=True):
        assert np.array_equal(one.states, other.states)


def test_who_knows_the_data_reaches_some(tasks: Tasks, memory: Memory) -> None:
    model, bounds = RoomsModel(), bounds_of(TwoRooms(), 5)
    cloner = clone(memory, bounds, 5, 0, steps=300)
    assert share(played(Cloning(model, memory, cloner, bounds), tasks)) >= 0.5
    assert share(played(Nearest(model, memory, 5), tasks)) >= 0.5


def test_a_goal_may_be_a_state_which_is_read_off_the_features(tasks: Tasks, memory: Memory) -> None:
    reader = read_states(memory, tasks)
    features = torch.rand(4, 3, 1, 2) * 0.7 + 0.1
    wanted = features * SIDE / torch.from_numpy(tasks.scale)
    torch.testing.assert_close(reader(features), wanted, atol=0.05, rtol=0)
    for asked in (planning(goal="state"), planning(compare="states")):
        assert asked.reads_states
        arm = Planner(RoomsModel(), asked, bounds_of(TwoRooms(), 5), 0, tasks.measured, reader)
        assert share(played(arm, tasks)) >= 0.9


def test_a_picture_read_as_a_state_is_all_that_is_known_of_the_goal(
    tasks: Tasks, memory: Memory
) -> None:
    reader = read_states(memory, tasks)
    arm = Planner(
        RoomsModel(),
        planning(compare="states"),
        bounds_of(TwoRooms(), 5),
        0,
        tasks.measured,
        reader,
    )
    blind = replace(tasks.all[0], goal=np.full(2, np.nan, np.float32))
    goals = Sight(TwoRooms().picture(tasks.all[0].goal)[None], blind.goal[None])
    arm.begin([blind], goals)
    first = Sight(TwoRooms().picture(blind.start)[None], blind.start[None])
    assert np.isfinite(arm.act(first)).all()


def test_data_of_another_world_is_refused(memory: Memory) -> None:
    five = np.zeros(5, np.float32)
    with pytest.raises(RequestError, match="states have 2 numbers, the world's 5"):
        read_states(memory, Tasks([Task(0, five, five)], np.asarray, np.ones(5, np.float32)))
    with pytest.raises(RequestError, match="lasts 50 model steps"):
        Nearest(RoomsModel(), memory, 50)


def test_videos_are_recalled_as_the_model_s_steps(tmp_path: Path) -> None:
    """From a packed dataset: against the episodes themselves."""
    from orchestrator.data.packing.prepare import open_datasets
    from orchestrator.job import Data, WeightedSource
    from orchestrator.progress import Silent
    from orchestrator.storage import Storage

    source = WeightedSource(uri="world://two-rooms?episodes=3&steps=33&seed=9")
    datasets = Storage(str(tmp_path))
    indexes, _ = open_datasets((source,), Data(source=source.uri), 0.0, datasets, Silent(), True)
    found = recall(RoomsModel(), indexes, 2, 64, 10)
    assert len(found.videos) == 2
    for video in found.videos:
        assert video.actions.shape == (6, 10)
        assert np.abs(video.features.numpy() * SIDE - video.states).max() < 3
        moved = TwoRooms().roll(video.states[:-1], video.actions.reshape(6, 5, 2))[:, -1]
        assert np.abs(moved - video.states[1:]).max() < 1e-3
    with pytest.raises(RequestError, match="2 numbers, the world's 3"):
        recall(RoomsModel(), indexes, 2, 64, 15)


class Slow(RoomsModel):
    """Predicts one moment, however many actions there are."""

    def predict(
        self, z: torch.Tensor, actions: torch.Tensor, states: torch.Tensor | None = None
    ) -> torch.Tensor:
        return super().predict(z, actions, states)[:, :1]


class Four(RoomsModel):
    """Says that a step of its is 4 control steps, and takes 10 numbers."""

    block = 4

    def predict(
        self, z: torch.Tensor, actions: torch.Tensor, states: torch.Tensor | None = None
    ) -> torch.Tensor:
        return actions @ torch.zeros(10, 2)


def test_a_model_that_does_not_fit_is_one_error() -> None:
    check_fit(RoomsModel(), TwoRooms())
    world = TwoRooms()
    with pytest.raises(RequestError, match=r"predicts \[1, 1, 2\], not \[1, 2, 2\]"):
        check_fit(Slow(), world)
    with pytest.raises(RequestError, match="cannot take 4 actions of 2 numbers"):
        check_fit(Four(), world)


def test_units_cover_every_task_of_every_arm_once() -> None:
    units = units_of(planning(arms=("random", "oracle"), oracle_episodes=30), 60)
    for arm, count in (("model", 60), ("random", 60), ("oracle", 30)):
        mine = [n for u in units if u.arm == arm for n in range(u.first, u.stop)]
        assert mine == list(range(count))
    assert {unit.arm for unit in units} == {"model", "random", "oracle"}


def test_intervals_are_those_of_the_formula() -> None:
    """Wilson's, against its textbook values; paired ones against the exact distribution."""
    for successes, count, low, high in (
        (8, 10, 0.4901625, 0.9433178),
        (0, 20, 0.0, 0.1611252),
        (100, 100, 0.9630065, 1.0),
    ):
        found = wilson(successes, count, 0.95)
        assert abs(found.low - low) < 1e-6
        assert abs(found.high - high) < 1e-6
    mine = np.array([True] * 80 + [False] * 20)
    same = paired(mine, mine, 0.95)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    apart = paired(mine, np.array([True] * 50 + [False] * 50), 0.95)
    half = 1.96 * (0.3 * 0.7 / 100) ** 0.5
    assert abs(apart.value - 0.3) < 1e-9
    assert abs(apart.low - (0.3 - half)) < 0.03
    assert abs(apart.high - (0.3 + half)) < 0.03
