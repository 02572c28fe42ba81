"""Against a real MLflow server over HTTP: down and back, the registry, and the pages."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import mlflow.pyfunc
import numpy as np
import pytest
import torch
from PIL import Image

from orchestrator.errors import JobFailed, RequestError
from orchestrator.jepa.model_files import save_model
from orchestrator.jepa.objectives import build_objective
from orchestrator.job import build_job
from orchestrator.storage import Storage
from orchestrator.tracking.live.run_logger import RunLogger
from orchestrator.tracking.registry import load_model, register_model, show_model
from orchestrator.tracking.run import finish_run, job_of_run, start_run
from orchestrator.tracking.server import mlflow_client
from orchestrator.tracking.ui import landing_page_url, run_mlflow_server
from tests.support.mlflow_runs import artifact_paths, metric_history, tracked_job
from tests.support.ports import free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


@contextmanager
def server(store: Storage, port: int) -> Iterator[str]:
    """An MLflow server that proxies artifacts, as a team would run it."""
    with run_mlflow_server(f"sqlite:///{store.uri('mlflow/mlflow.db')}", port) as (page, _):
        yield page


def test_a_training_outlives_its_server(store: Storage, tmp_path: Path) -> None:
    port, job = free_port(), tracked_job(track__experiment="served")
    job = job.model_copy(
        update={"track": job.track.model_copy(update={"uri": f"http://127.0.0.1:{port}"})}
    )
    with server(store, port):
        ref = start_run(job, store, estimate={})
        assert ref.page_url is not None
        log = RunLogger(ref, 0, "node-0", poll_interval_s=0.1, sample_interval_s=0.5)
        for step in range(1, 6):
            log.log_metrics(step, {"train/loss": float(step)})
        log.log_picture(5, "masks", Image.new("RGB", (16, 16)))
        wait_until(lambda: len(log.metric_queue) == 0 and len(log.picture_queue) == 0)
    for step in range(6, 11):  # nobody listens now
        log.log_metrics(step, {"train/loss": float(step)})
    log.log_picture(10, "masks", Image.new("RGB", (16, 16)))
    log.log_checkpoint(10, "/checkpoints/step-00000010", {"rankme": 3.0})
    time.sleep(1)
    with server(store, port):
        assert log.close() == []
        again = RunLogger(ref, 5, poll_interval_s=0.1)
        for step in range(6, 13):
            again.log_metrics(step, {"train/loss": -1.0})
        assert again.close() == []
        expected = [(s, float(s)) for s in range(1, 11)] + [(11, -1.0), (12, -1.0)]
        assert metric_history(ref, "train/loss") == expected
        assert metric_history(ref, "replayed_steps")[-1] == (10, 5.0)
        client = mlflow_client(ref.tracking_uri)
        paths = artifact_paths(client, ref)
        assert {"job.yaml", "pictures/masks/step-00000005.png"} <= set(paths)
        assert "pictures/masks/step-00000010.png" in paths
        (model,) = client.search_logged_models([ref.experiment_id])
        assert model.name == "step-00000010"
        assert build_job(job_of_run(ref.tracking_uri, ref.run_id)) == job

        folder = tmp_path / "model"
        save_model(folder, build_objective(job), None, job, {})
        version = register_model(ref, folder, "over-http", metrics={"rankme": 3.0}, step=12)
        assert show_model("models:/over-http@candidate", ref.tracking_uri).metrics == {
            "rankme": 3.0
        }
        video = torch.randint(0, 256, (2, 4, 16, 16, 3), dtype=torch.uint8)
        features = load_model(f"models:/over-http/{version}", tracking_uri=ref.tracking_uri).encode(
            video
        )
        mlflow.set_tracking_uri(ref.tracking_uri)
        served = mlflow.pyfunc.load_model("models:/over-http@candidate").predict(video.numpy())
        np.testing.assert_array_equal(served, features.numpy())
        finish_run(ref, "FINISHED")


def test_the_pages_show_what_a_local_run_left(store: Storage) -> None:
    ref = start_run(tracked_job(), store, estimate={})
    finish_run(ref, "FINISHED")
    port = free_port()
    with server(store, port) as page:
        query = urllib.request.urlopen(f"{page}/api/2.0/mlflow/runs/get?run_id={ref.run_id}")
        assert json.load(query)["run"]["info"]["run_name"] == "tiny"
        runs = f"{page}/#/experiments/{ref.experiment_id}/runs?workflowType=machine_learning"
        assert landing_page_url(ref.tracking_uri, page) == runs
        file = f"{page}/get-artifact?path=job.yaml&run_uuid={ref.run_id}"
        assert b"name: tiny" in urllib.request.urlopen(file).read()
        with (
            pytest.raises(RequestError, match=f"port {port} of 127.0.0.1 is taken"),
            server(store, port),
        ):
            pass


def test_pages_over_nothing_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(RequestError, match="no runs yet"),
        server(Storage(str(tmp_path)), free_port()),
    ):
        pass


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database")
    with (
        pytest.raises(JobFailed, match="not a database"),
        run_mlflow_server(f"sqlite:///{tmp_path}/mlflow.db", free_port()),
    ):
        pass


def test_many_processes_log_to_one_sqlite_file(store: Storage) -> None:
    """The ranks of one machine and the driver share the file."""
    ref = start_run(tracked_job(), store, estimate={})
    code = (
        "import sys\n"
        "from orchestrator.tracking.live.run_logger import RunLogger\n"
        "from orchestrator.tracking.run import RunRef\n"
        "uri, run, experiment, name = sys.argv[1:]\n"
        "log = RunLogger(RunRef(uri, run, experiment), 0, poll_interval_s=0.01)\n"
        "for step in range(1, 101):\n"
        "    log.log_metrics(step, {name: float(step)})\n"
        "assert log.close() == []\n"
    )
    where = [ref.tracking_uri, ref.run_id, ref.experiment_id]
    both = [subprocess.Popen([sys.executable, "-c", code, *where, name]) for name in ("a", "b")]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    for name in ("a", "b"):
        assert metric_history(ref, name) == [(s, float(s)) for s in range(1, 101)]
