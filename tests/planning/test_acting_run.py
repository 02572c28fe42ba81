"""`kind: evaluate` with `planning`: from the file to MLflow, here and on Ray; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.errors import RequestError
from orchestrator.job import EvaluateJob, build_job, load_job
from orchestrator.runner import run

JOB: dict[str, Any] = {
    "kind": "evaluate",
    "name": "rooms",
    "model": "tests.support.two_rooms_model:TwoRoomsModel",
    "planning": {
        "world": "two-rooms",
        "episodes": 30,
        "arms": ["random", "nearest", "oracle"],
        "oracle_episodes": 10,
        "data": "world://two-rooms?episodes=24&seed=3&steps=61",
        "solver": {"candidates": 60, "iterations": 4, "elites": 10, "carried": 3},
    },
}


def job(storage: Path, **planning: Any) -> EvaluateJob:
    data = {**JOB, "storage": str(storage), "planning": {**JOB["planning"], **planning}}
    built = build_job(data)
    assert isinstance(built, EvaluateJob)
    return built


def told(asked: EvaluateJob) -> dict[str, Any]:
    """The verdict on the stand-in, played in this process; nothing is written."""
    from orchestrator.evaluation.planning.driver import evaluate_planning
    from orchestrator.progress import SilentProgress
    from tests.support.two_rooms_model import TwoRoomsModel

    assert asked.planning is not None
    return evaluate_planning(
        asked, asked.planning, TwoRoomsModel(), SilentProgress(), local=True
    ).summary


@pytest.mark.integration
def test_arms_are_played_here_and_on_ray_with_one_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(Path(__file__).parents[2])  # where workers look for a model of one's own
    there = run(job(tmp_path))
    arms = there.verdict["arms"]
    assert list(arms) == ["model", "random", "nearest", "oracle"]
    assert arms["model"]["success"]["value"] >= 0.9 > 0.4 >= arms["random"]["success"]["value"]
    assert arms["oracle"]["tasks"] == 10
    low = there.verdict["gain"]["random"]["low"]
    assert low > 0.3

    client, run_id = MlflowClient(there.tracking_uri), there.run_id
    found = client.get_run(run_id)
    assert found.data.metrics["success"] == arms["model"]["success"]["value"]
    assert found.data.metrics["gain/random_low"] == low
    assert found.data.tags["protocol"] == there.verdict["protocol"]
    assert "suite.quads" not in found.data.params
    names = {file.path for file in client.list_artifacts(run_id)}
    assert {"report.html", "verdict.json", "scores.json", "job.yaml"} <= names
    path = client.download_artifacts(run_id, "job.yaml", str(tmp_path))
    again = load_job(path, [])
    assert isinstance(again, EvaluateJob)
    assert again.planning == job(tmp_path).planning

    page = Path(there.report).read_text()
    assert page.count("data:image/gif") >= 4, "episodes to look at"
    scores = json.loads((tmp_path / "evaluations/rooms/scores.json").read_text())
    reached = [one is not None for one in scores["reached"]["model"]]
    assert sum(reached) == round(30 * arms["model"]["success"]["value"])

    here = told(job(tmp_path))
    for verdict in (here, there.verdict):  # all but what time it took
        for arm in verdict["arms"].values():
            assert arm.pop("ms") >= 0
    assert here == there.verdict


def test_the_protocol_is_what_decides_the_model_s_number(tmp_path: Path) -> None:
    def protocol(**planning: Any) -> str:
        asked = {"episodes": 3, "arms": [], "budget": 5, **planning}
        return str(told(job(tmp_path, **asked))["protocol"])

    first = protocol()
    assert protocol(arms=["random"]) == first
    others = {
        protocol(seed=1),
        protocol(budget=10),
        protocol(execute=2),
        protocol(size=32),
        protocol(solver={"kind": "mppi", "candidates": 20, "iterations": 2}),
    }
    assert len(others | {first}) == 6


class Deaf:
    """A model that knows no actions."""

    def encode(self, video: object) -> object: ...


@pytest.mark.parametrize(
    ("planning", "text"),
    [
        ({"world": "two-room"}, "no environment 'two-room'"),
        ({"world": "gym/CartPole-v1"}, "cannot be put into a state"),
        ({"tasks": [{"start": [0, 0], "goal": [60, 60]}]}, "outside the rooms"),
        ({"data": None}, "trained on is not known"),
    ],
)
def test_what_cannot_be_played_is_one_error(
    tmp_path: Path, planning: dict[str, Any], text: str
) -> None:
    with pytest.raises(RequestError, match=text):
        run(job(tmp_path, **{"episodes": 1, **planning}), local=True)


def test_a_model_that_does_not_act_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be acted with: it has no block, history, pred"):
        run(
            build_job({**JOB, "model": "test_acting_run:Deaf", "storage": str(tmp_path)}),
            local=True,
        )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"suite": {"quads": 1}}, r"suite: .*a job has a suite or a planning, not both"),
        ({"probe": {"features": "x"}}, r"planning: .*a suite or a probe, not both"),
        ({"model": ""}, "model"),
        (
            {"planning": {"world": "two-rooms", "execute": 6}},
            r"planning\.receding_horizon: 6 steps",
        ),
        ({"planning": {"world": "two-rooms", "arms": ["oracel"]}}, "oracle"),
        ({"planning": {"world": "two-rooms", "solver": {"elites": 400}}}, "400 elites"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({**JOB, **changes}))
    with pytest.raises(RequestError, match=text):
        load_job(str(path), [])
