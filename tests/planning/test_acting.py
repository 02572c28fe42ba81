"""Playing tasks: what a task is, when a goal counts, who acts, what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.environments.base import Floats, collect_episode
from orchestrator.environments.two_rooms import (
    ROOM_SIZE,
    SUCCESS_RADIUS,
    TwoRooms,
    TwoRoomsCollector,
)
from orchestrator.errors import RequestError
from orchestrator.evaluation.planning.compatibility import action_bounds, check_compatible
from orchestrator.evaluation.planning.data_policies import (
    BehaviorCloningPolicy,
    NearestTrajectoryPolicy,
    fit_state_readout,
    train_behavior_cloning,
)
from orchestrator.evaluation.planning.episodes import EpisodeBatch, run_episodes
from orchestrator.evaluation.planning.policies import (
    BoolArray,
    Observations,
    OraclePolicy,
    PlannerPolicy,
    RandomPolicy,
)
from orchestrator.evaluation.planning.replay_buffer import (
    EncodedEpisode,
    ReplayBuffer,
    build_replay_buffer,
)
from orchestrator.evaluation.planning.tasks import Task, TaskSet, draw_tasks
from orchestrator.evaluation.planning.units import units_of
from orchestrator.job.config.planning import CEM, Planning, PlanningTask
from orchestrator.report.statistics import paired_difference, wilson_interval
from tests.support.two_rooms_model import TwoRoomsModel

QUICK = CEM(candidates=100, iterations=5, elites=10, reused_elites=3)


def planning(**keys: object) -> Planning:
    return Planning(environment="two-rooms", solver=QUICK, **keys)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tasks() -> TaskSet:
    return draw_tasks(planning(episodes=40), TwoRooms())


@pytest.fixture(scope="module")
def memory() -> ReplayBuffer:
    """Episodes of the collector, seen by the stand-in (whose features are states)."""
    videos = []
    for number in range(60):
        episode = collect_episode(
            TwoRooms(16), TwoRoomsCollector(), 101, np.random.default_rng(number)
        )
        at = np.arange(0, 101, 5)
        videos.append(
            EncodedEpisode(
                torch.from_numpy(episode.states[at] / ROOM_SIZE),
                episode.actions[:100].reshape(20, 10),
                episode.states[at],
            )
        )
    return ReplayBuffer(videos, None)


def played(arm: object, tasks: TaskSet, budget: int = 50) -> EpisodeBatch:
    worlds = [TwoRooms() for _ in tasks.all]
    with torch.inference_mode():
        return run_episodes(worlds, tasks.all, arm, budget)  # type: ignore[arg-type]


def share(found: EpisodeBatch) -> float:
    return float(np.mean([one.steps_to_goal is not None for one in found.played]))


def test_tasks_cross_the_door_and_do_not_depend_on_how_many_there_are(tasks: TaskSet) -> None:
    for task in tasks.all:
        assert (task.start[0] < ROOM_SIZE / 2) != (task.goal[0] < ROOM_SIZE / 2)
        assert np.abs(task.goal - task.start).max() <= 25 * 5
        assert np.linalg.norm(task.goal - task.start) >= SUCCESS_RADIUS, (
            "reached before anything is done"
        )
    few = draw_tasks(planning(episodes=3), TwoRooms())
    for one, other in zip(few.all, tasks.all, strict=False):
        assert np.array_equal(one.start, other.start)
        assert np.array_equal(one.goal, other.goal)
    again = draw_tasks(planning(episodes=3, seed=5), TwoRooms())
    assert not np.array_equal(again.all[0].start, tasks.all[0].start)


def test_a_goal_outside_the_world_is_one_error() -> None:
    inside = (60.0, 60.0)
    for key, pair in (
        ("start", PlanningTask(start=(5, 5), goal=inside)),
        ("goal", PlanningTask(start=inside, goal=(112.0, 200.0))),
        ("goal", PlanningTask(start=inside, goal=(60.0, 60.0, 1.0))),
    ):
        with pytest.raises(RequestError, match="outside") as error:
            draw_tasks(
                planning(tasks=(PlanningTask(start=inside, goal=(60, 160)), pair)), TwoRooms()
            )
        assert error.value.where == f"planning.tasks.1.{key}"
    with pytest.raises(RequestError, match="reached at the start"):
        draw_tasks(planning(tasks=(PlanningTask(start=inside, goal=inside),)), TwoRooms())


class Straight:
    """Goes right at full speed, three control steps a call."""

    needs_images, num_decisions = False, 0

    def __init__(self) -> None:
        self.asked: list[int] = []

    def reset(self, tasks: Sequence[Task], goals: Observations) -> None:
        assert np.array_equal(goals.states, np.stack([task.goal for task in tasks]))

    def act(self, observations: Observations) -> Floats:
        self.asked.append(len(observations.states))
        return np.tile(np.float32([1, 0]), (len(observations.states), 3, 1))

    def keep_active(self, going: BoolArray) -> None:
        assert len(going) == self.asked[-1]


def test_a_goal_counts_in_the_control_step_that_reaches_it_and_nothing_beyond_the_budget() -> None:
    starts = np.float32([[30, 60], [30, 60], [30, 60]])
    goals = np.float32([[60, 60], [90, 60], [30, 180]])
    ends = enumerate(zip(starts, goals, strict=True))
    tasks = TaskSet(
        [Task(n, *both) for n, both in ends], TwoRooms().success_features, np.ones(2, np.float32)
    )
    arm = Straight()
    found = played(arm, tasks, budget=10)
    # 5 a step: nearer than 16 at 45 (3 steps) and at 75 (9 steps).
    assert [one.steps_to_goal for one in found.played] == [3, 9, None]
    assert [len(one.states) for one in found.played] == [4, 10, 11]
    assert arm.asked == [3, 2, 2, 1]
    for one, task in zip(found.played, tasks.all, strict=True):
        apart = np.linalg.norm(one.states - task.goal, axis=1)
        assert (apart[:-1] >= SUCCESS_RADIUS).all()
        assert (apart[-1] < SUCCESS_RADIUS) == (one.steps_to_goal is not None)


def test_who_plans_reaches_goals_and_chance_does_not(tasks: TaskSet) -> None:
    model, asked = TwoRoomsModel(), planning()
    bounds = action_bounds(TwoRooms(), 5)
    found = {
        "model": played(
            PlannerPolicy(model, asked, bounds, 0, tasks.scaled_success_features), tasks
        ),
        "oracle": played(OraclePolicy(TwoRooms(), tasks, asked, bounds, 0), tasks),
        "random": played(RandomPolicy(bounds, 5, 0), tasks),
    }
    assert share(found["model"]) >= 0.9
    assert share(found["oracle"]) >= 0.9
    assert share(found["random"]) <= 0.3
    again = played(PlannerPolicy(model, asked, bounds, 0, tasks.scaled_success_features), tasks)
    for one, other in zip(found["model"].played, again.played, strict=True):
        assert np.array_equal(one.states, other.states)


def test_who_knows_the_data_reaches_some(tasks: TaskSet, memory: ReplayBuffer) -> None:
    model, bounds = TwoRoomsModel(), action_bounds(TwoRooms(), 5)
    cloner = train_behavior_cloning(memory, bounds, 5, 0, steps=300)
    assert share(played(BehaviorCloningPolicy(model, memory, cloner, bounds), tasks)) >= 0.5
    assert share(played(NearestTrajectoryPolicy(model, memory, 5), tasks)) >= 0.5


def test_a_goal_may_be_a_state_which_is_read_off_the_features(
    tasks: TaskSet, memory: ReplayBuffer
) -> None:
    reader = fit_state_readout(memory, tasks)
    features = torch.rand(4, 3, 1, 2) * 0.7 + 0.1
    wanted = features * ROOM_SIZE / torch.from_numpy(tasks.scale)
    torch.testing.assert_close(reader(features), wanted, atol=0.05, rtol=0)
    for asked in (planning(goal="state"), planning(compare="states")):
        assert asked.needs_state_readout
        arm = PlannerPolicy(
            TwoRoomsModel(),
            asked,
            action_bounds(TwoRooms(), 5),
            0,
            tasks.scaled_success_features,
            reader,
        )
        assert share(played(arm, tasks)) >= 0.9


def test_a_picture_read_as_a_state_is_all_that_is_known_of_the_goal(
    tasks: TaskSet, memory: ReplayBuffer
) -> None:
    reader = fit_state_readout(memory, tasks)
    arm = PlannerPolicy(
        TwoRoomsModel(),
        planning(compare="states"),
        action_bounds(TwoRooms(), 5),
        0,
        tasks.scaled_success_features,
        reader,
    )
    blind = replace(tasks.all[0], goal=np.full(2, np.nan, np.float32))
    goals = Observations(TwoRooms().render_state(tasks.all[0].goal)[None], blind.goal[None])
    arm.reset([blind], goals)
    first = Observations(TwoRooms().render_state(blind.start)[None], blind.start[None])
    assert np.isfinite(arm.act(first)).all()


def test_data_of_another_world_is_refused(memory: ReplayBuffer) -> None:
    five = np.zeros(5, np.float32)
    with pytest.raises(RequestError, match="states have 2 numbers, the world's 5"):
        fit_state_readout(
            memory, TaskSet([Task(0, five, five)], np.asarray, np.ones(5, np.float32))
        )
    with pytest.raises(RequestError, match="lasts 50 model steps"):
        NearestTrajectoryPolicy(TwoRoomsModel(), memory, 50)


def test_videos_are_recalled_as_the_model_s_steps(tmp_path: Path) -> None:
    """From a packed dataset: against the episodes themselves."""
    from orchestrator.data.packing.prepare import open_datasets
    from orchestrator.job import Data, WeightedSource
    from orchestrator.progress import SilentProgress
    from orchestrator.storage import Storage

    source = WeightedSource(uri="world://two-rooms?episodes=3&steps=33&seed=9")
    datasets = Storage(str(tmp_path))
    indexes, _ = open_datasets(
        (source,), Data(source=source.uri), 0.0, datasets, SilentProgress(), True
    )
    found = build_replay_buffer(TwoRoomsModel(), indexes, 2, 64, 10)
    assert len(found.episodes) == 2
    for video in found.episodes:
        assert video.actions.shape == (6, 10)
        assert np.abs(video.features.numpy() * ROOM_SIZE - video.states).max() < 3
        moved = TwoRooms().rollout(video.states[:-1], video.actions.reshape(6, 5, 2))[:, -1]
        assert np.abs(moved - video.states[1:]).max() < 1e-3
    with pytest.raises(RequestError, match="2 numbers, the world's 3"):
        build_replay_buffer(TwoRoomsModel(), indexes, 2, 64, 15)


class Slow(TwoRoomsModel):
    """Predicts one moment, however many actions there are."""

    def predict(
        self, z: torch.Tensor, actions: torch.Tensor, states: torch.Tensor | None = None
    ) -> torch.Tensor:
        return super().predict(z, actions, states)[:, :1]


class Four(TwoRoomsModel):
    """Says that a step of its is 4 control steps, and takes 10 numbers."""

    block = 4

    def predict(
        self, z: torch.Tensor, actions: torch.Tensor, states: torch.Tensor | None = None
    ) -> torch.Tensor:
        return actions @ torch.zeros(10, 2)


def test_a_model_that_does_not_fit_is_one_error() -> None:
    check_compatible(TwoRoomsModel(), TwoRooms())
    world = TwoRooms()
    with pytest.raises(RequestError, match=r"predicts \[1, 1, 2\], not \[1, 2, 2\]"):
        check_compatible(Slow(), world)
    with pytest.raises(RequestError, match="cannot take 4 actions of 2 numbers"):
        check_compatible(Four(), world)


def test_units_cover_every_task_of_every_arm_once() -> None:
    units = units_of(planning(arms=("random", "oracle"), oracle_episodes=30), 60)
    for arm, count in (("model", 60), ("random", 60), ("oracle", 30)):
        mine = [n for u in units if u.policy == arm for n in range(u.first, u.stop)]
        assert mine == list(range(count))
    assert {unit.policy for unit in units} == {"model", "random", "oracle"}


def test_intervals_are_those_of_the_formula() -> None:
    """Wilson's, against its textbook values; paired ones against the exact distribution."""
    for successes, count, low, high in (
        (8, 10, 0.4901625, 0.9433178),
        (0, 20, 0.0, 0.1611252),
        (100, 100, 0.9630065, 1.0),
    ):
        found = wilson_interval(successes, count, 0.95)
        assert abs(found.low - low) < 1e-6
        assert abs(found.high - high) < 1e-6
    mine = np.array([True] * 80 + [False] * 20)
    same = paired_difference(mine, mine, 0.95)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    apart = paired_difference(mine, np.array([True] * 50 + [False] * 50), 0.95)
    half = 1.96 * (0.3 * 0.7 / 100) ** 0.5
    assert abs(apart.value - 0.3) < 1e-9
    assert abs(apart.low - (0.3 - half)) < 0.03
    assert abs(apart.high - (0.3 + half)) < 0.03
