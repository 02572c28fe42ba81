"""Slurm for real: a job is sent, followed, told of its time limit, stopped and sent again."""

from __future__ import annotations

import socket
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from orchestrator.cluster_profile.schema import Slurm
from orchestrator.clusters.backend import Submission, SubmissionStatus
from orchestrator.clusters.slurm.backend import SlurmBackend
from orchestrator.errors import RequestError
from orchestrator.job import job_dict, load_job
from orchestrator.tracking.server import mlflow_client
from orchestrator.tracking.ui import run_mlflow_server
from tests.support.slurm import local_slurm, profile_setup_lines

QUICK = str(Path(__file__).parents[2] / "jobs" / "physics" / "quick.yaml")
SMALL = [
    "name=small",
    "data.source=physics://mixed?clips=16&size=32&fps=8&seconds=2",
    "data.frames=4",
    "data.size=32",
    "data.encode.short_side=32",
    "model.encoder={kind: vit, dim: 48, depth: 1, heads: 2}",
    "model.predictor={depth: 1, dim: 24, heads: 2}",
    "optim.warmup=1",
    "optim.decay=0",
    "checkpoint={every: 50, keep_last: 2, keep_best: 0}",
    "scale={workers: 2, zero: 1, global_batch: 4, micro_batch: 2, precision: fp32, cpus: 1}",
    "track={experiment: physics, register: physics, pictures: 0, every: 10}",
]
_PATIENCE_S = 240.0


class Sender:
    """A person at a login node."""

    def __init__(self, folder: Path, mlflow: str) -> None:
        node = {"cpus": 2, "memory": "2GiB"}
        data = {
            "name": "here",
            "nodes": {"head": node, "more": node},
            "workdir": folder / "it's 100% shared",
            "setup": profile_setup_lines(),
            "time": "30",
            "notice_s": 60,
            "env": {"GLOO_SOCKET_IFNAME": "lo", "MLFLOW_TRACKING_URI": mlflow},
        }
        self.profile = Slurm.model_validate(data)
        self.backend = SlurmBackend(self.profile)
        self.folder = folder

    def send(self, steps: int) -> SubmissionStatus:
        changes = [*SMALL, f"optim.steps={steps}", f"storage={self.folder / 'storage'}"]
        job = job_dict(load_job(QUICK, changes))
        package = self.folder / "package.zip"
        with zipfile.ZipFile(package, "w") as archive:
            archive.writestr(".orchestrator-job.yaml", yaml.safe_dump(job))
        command = ("python", "-m", "orchestrator", "run", ".orchestrator-job.yaml")
        return self.backend.submit(
            Submission("small", job, package, command, self.profile.env, "print", "digest")
        )

    def said(self) -> str:
        return "".join(self.backend.logs("small", follow=False))

    def wait(self, said: str, times: int = 1) -> None:
        until = time.monotonic() + _PATIENCE_S
        while self.said().count(said) < times:
            row = self.backend.status("small")
            assert row.state in ("queued", "running"), f"{row}\n{self.said()}"
            assert time.monotonic() < until, f"no '{said}' in:\n{self.said()}"
            time.sleep(1)


@pytest.fixture
def sender(tmp_path: Path) -> Iterator[Sender]:
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    mlflow_client(store).search_experiments()  # makes it
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with local_slurm(tmp_path / "slurm") as slurm, run_mlflow_server(store, port) as (page, _):
        yield Sender(tmp_path, page)
    assert not [pid for pid in slurm.daemons.values() if Path(f"/proc/{pid}").exists()]
    # No Ray of a job is left either: a head's processes name the folder of its sockets.
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert not [line for line in left.splitlines() if "/tmp/ray-1/" in line]


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_told_of_its_limit_it_ends_in_a_second_allocation_with_exit_code_0(sender: Sender) -> None:
    backend = sender.backend
    sent = sender.send(600)
    with pytest.raises(RequestError, match="goes on"):
        sender.send(600)
    sender.wait("loss")
    # What Slurm sends `notice_s` before the limit.
    subprocess.run(["scancel", "--signal=USR1", "--batch", sent.id], check=True)
    said = "".join(backend.logs("small", follow=True))
    row = backend.status("small")
    assert (row.state, row.exit_code, row.id) == ("done", 0, sent.id), said
    first, _, second = said.partition("queued again (limit)")
    saved = first.partition("saved after ")[2].split(" ")[0]
    assert f"resumed at step {saved}" in second
    assert "start 2" in second
    assert "done small" in second
    assert not list((sender.profile.workdir / "small").glob("*/token"))

    # One that waits for nodes is taken out of the queue.
    subprocess.run(["scontrol", "update", "partitionname=main", "state=DOWN"], check=True)
    assert sender.send(600).state == "queued"
    backend.stop("small")
    assert (backend.status("small").state, backend.status("small").message) == (
        "stopped",
        "cancelled",
    )
