"""A real Slurm of two nodes: sent, followed, stopped with a checkpoint, queued again, ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.ports import free_port
from tests.support.slurm import local_slurm

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
    "track={experiment: physics, pictures: 0, every: 1}",
    "checkpoint.every=20",
]


class Login:
    """A login node: a folder with a profile, and the commands."""

    def __init__(self, folder: Path, mlflow: str) -> None:
        self.folder = folder / "project"
        (self.folder / "cluster").mkdir(parents=True)
        (self.folder / "README.md").write_text("A project.\n")
        node = {"cpus": 1, "memory": "2GiB"}
        profile = {
            "kind": "slurm",
            "workdir": str(folder / "shared"),
            "time": "10",
            "notice_s": 120,
            "nodes": {"head": node, "other": node},
            "storage": str(folder / "storage"),
            "mlflow": mlflow,
            "setup": [f"export PATH={Path(sys.executable).parent}:$PATH"],
            "env": {"GLOO_SOCKET_IFNAME": "lo"},
        }
        (self.folder / "cluster" / "here.yaml").write_text(yaml.safe_dump(profile))
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        self.env["PYTHONPATH"] = str(Path(__file__).parents[2])

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "orchestrator", *words]
        return subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=400
        )

    def submit(self, *changes: str) -> subprocess.CompletedProcess[str]:
        return self("submit", QUICK, "--to", "here", "--no-doctor", *SMALL, *changes)

    def logs(self, name: str) -> str:
        return self("jobs", "logs", name, "--to", "here").stdout

    def status(self, name: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(
            self("jobs", "status", name, "--to", "here", "--json").stdout
        )
        return found

    def wait(self, name: str, ready: Callable[[], bool]) -> None:
        until = time.monotonic() + 300
        while not ready():
            assert time.monotonic() < until, self.logs(name)
            time.sleep(1)


@pytest.fixture(scope="module")
def login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:

    from orchestrator.tracking.server import mlflow_client
    from orchestrator.tracking.ui import run_mlflow_server

    folder = tmp_path_factory.mktemp("slurm")
    store = f"sqlite:///{folder / 'mlflow.db'}"
    mlflow_client(store).search_experiments()
    with local_slurm(folder / "daemons"), run_mlflow_server(store, free_port()) as (page, _):
        yield Login(folder, page)


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_a_job_runs_to_its_end_and_its_exit_code_is_ours(login: Login) -> None:
    done = login.submit("optim.steps=3", "--follow")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ray is up on 2 nodes" in done.stdout
    assert "done physics-quick: 3 steps" in done.stdout
    assert (login.status("physics-quick")["state"]) == "done"


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_stopped_sent_again_and_queued_again_it_goes_on(login: Login) -> None:
    long = ["name=long", "optim.steps=3000"]
    assert login.submit(*long).returncode == 0
    login.wait("long", lambda: "train " in login.logs("long"))
    assert login("jobs", "stop", "long", "--to", "here").returncode == 0
    assert login.status("long")["state"] == "stopped"
    assert "stopped and saved after" in login.logs("long")
    assert login.submit(*long).returncode == 0
    login.wait("long", lambda: "resumed at step" in login.logs("long"))
    again = login.submit(*long)
    assert "there already" in again.stdout
    # As at the end of its time: saved, queued again by itself, and resumed.
    login.wait("long", lambda: "train " in login.logs("long").split("resumed at step")[-1])
    number = str(login.status("long")["id"])
    subprocess.run(["scancel", "--signal=USR1", "--batch", number], check=True)
    login.wait("long", lambda: "queued again (limit)" in login.logs("long"))
    login.wait("long", lambda: login.logs("long").count("resumed at step") == 2)
    assert login("jobs", "stop", "long", "--to", "here").returncode == 0
    assert login.status("long")["state"] == "stopped"
