"""`submit` as a new user meets it: two Ray nodes, a token, an MLflow server, a small job."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.tracking.server import mlflow_client
from tests.support.ray_cluster import ClusterProject, two_node_cluster

QUICK = str(Path(__file__).parents[2] / "jobs" / "physics" / "quick.yaml")
SMALL = [
    "data.source=physics://mixed?clips=16&size=32&fps=8&seconds=2",
    "data.frames=4",
    "data.size=32",
    "data.encode.short_side=32",
    "model.encoder={kind: vit, dim: 48, depth: 1, heads: 2}",
    "model.predictor={depth: 1, dim: 24, heads: 2}",
    "optim.warmup=1",
    "optim.decay=0",
    "scale={workers: 2, zero: 1, global_batch: 4, micro_batch: 2, precision: fp32, cpus: 0.7}",
    "track={experiment: physics, register: physics, pictures: 0, every: 1}",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProject]:
    with two_node_cluster(tmp_path_factory.mktemp("nodes")) as found:
        yield found


def submit(place: ClusterProject, *changes: str, token: str | None = None) -> tuple[int, str, str]:
    words = ["submit", QUICK, "--to", "here", "--no-doctor", *SMALL, *changes]
    done = place.run_cli(*words, **({"token": token} if token else {}))
    return done.returncode, done.stdout, done.stderr


def state(place: ClusterProject, name: str) -> str:
    found = place.run_cli("jobs", "status", name, "--to", "here", "--json")
    return str(json.loads(found.stdout)["state"])


@pytest.mark.integration
def test_a_job_is_sent_followed_to_its_end_and_registered(place: ClusterProject) -> None:
    code, said, wrong = submit(place, "optim.steps=3", "--follow")
    assert code == 0, said + wrong
    assert "sent physics-quick to here as physics-quick--1" in said
    assert "done physics-quick: 3 steps" in said
    assert "done physics-quick (physics-quick--1 on here)" in said
    version = mlflow_client(place.mlflow).get_model_version_by_alias("physics", "candidate")
    run = mlflow_client(place.mlflow).get_run(str(version.run_id))
    assert run.info.run_name == "physics-quick"
    (row,) = json.loads(place.run_cli("jobs", "list", "--to", "here", "--json").stdout)
    assert (row["name"], row["state"], row["exit_code"]) == ("physics-quick", "done", 0)
    status = place.run_cli("jobs", "status", "physics-quick", "--to", "here", "--json")
    assert run.info.run_id in json.loads(status.stdout)["links"]["mlflow"]
    assert (
        "done physics-quick: 3 steps"
        in place.run_cli("jobs", "logs", "physics-quick", "--to", "here").stdout
    )


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_stop_saves_and_the_same_submit_goes_on(place: ClusterProject) -> None:
    long = ["name=stopped", "optim.steps=2000", "checkpoint.every=50", "track.register=null"]
    assert submit(place, *long)[0] == 0
    again = submit(place, *long)
    assert again[0] == 0
    assert "there already" in again[1]
    other = submit(place, *long, "optim.lr=0.5")
    assert other[0] == 2
    assert "optim.lr" in other[2]
    while "train " not in place.run_cli("jobs", "logs", "stopped", "--to", "here").stdout:
        assert state(place, "stopped") in ("queued", "running")
        time.sleep(2)
    assert place.run_cli("jobs", "stop", "stopped", "--to", "here").returncode == 0
    assert state(place, "stopped") == "stopped"
    said = place.run_cli("jobs", "logs", "stopped", "--to", "here").stdout
    assert "stopped and saved after" in said
    assert submit(place, *long)[0] == 0
    while "resumed at step" not in (
        said := place.run_cli("jobs", "logs", "stopped", "--to", "here").stdout
    ):
        assert state(place, "stopped") in ("queued", "running"), said
        time.sleep(2)
    assert place.run_cli("jobs", "stop", "stopped", "--to", "here").returncode == 0


@pytest.mark.nightly
def test_a_wrong_token_and_a_cluster_that_is_away_are_one_line(place: ClusterProject) -> None:
    code, _, wrong = submit(place, "optim.steps=3", "name=never", token="wrong")
    assert code == 2
    assert "refuses the token" in wrong
    assert "Traceback" not in wrong
    profile = place.folder / "cluster" / "here.yaml"
    away = profile.read_text().replace("127.0.0.1", "127.0.0.9")
    (place.folder / "cluster" / "away.yaml").write_text(away)
    done = place.run_cli("submit", QUICK, "--to", "away", "--no-doctor", *SMALL)
    assert done.returncode == 2
    assert "no Ray job server" in done.stderr or "does not answer" in done.stderr
    assert "Traceback" not in done.stderr
