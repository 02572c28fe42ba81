"""From video to a registered model through the real parts, and what a restart must not change."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient

from orchestrator import load_model
from orchestrator.data.auditing.clip_ledger import read_clip_ledger
from orchestrator.errors import RequestError
from orchestrator.job import build_job
from orchestrator.outcome import Outcome
from orchestrator.progress import SilentProgress
from orchestrator.ray_session import ray_session
from orchestrator.runner import run
from orchestrator.storage import Storage
from orchestrator.training.checkpoints.manager import read_full_tensors
from tests.support.jobs import tiny_train_job

STEPS, BATCH = 6, 4


def train_job_dict(storage: Path, **scale: Any) -> dict[str, Any]:
    return tiny_train_job(
        storage=str(storage),
        data={"source": "physics://mixed?clips=12&size=48&fps=8&seconds=2"},
        model={"encoder": {"kind": "vit", "dim": 48, "depth": 2, "heads": 2}},
        optim={"steps": STEPS},
        scale={"global_batch": BATCH, **scale},
        checkpoint={"keep_last": 2},
    )


class RecordingProgress(SilentProgress):
    """Remembers what a run says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def weights(summary: Outcome) -> dict[str, np.ndarray[Any, Any]]:
    storage = Storage(summary.storage).subfolder("runs", summary.name, "checkpoints")
    return {k: v.numpy() for k, v in read_full_tensors(storage, summary.checkpoint).items()}


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """One Ray for the runs on Ray of this module."""
    with ray_session() as found:
        yield found


@pytest.mark.integration
@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize("zero", [1, 3])
def test_video_becomes_a_registered_model_on_ray(tmp_path: Path, zero: int) -> None:
    summary = run(build_job(train_job_dict(tmp_path, workers=2, zero=zero)))

    client = MlflowClient(summary.tracking_uri)
    logged = client.get_run(summary.run_id)
    assert logged.info.status == "FINISHED"
    history = client.get_metric_history(summary.run_id, "train/loss")
    assert [row.step for row in history] == list(range(1, STEPS + 1))
    pictures = {f.path for f in client.list_artifacts(summary.run_id, "pictures")}
    assert pictures, "masks and features are drawn at the end"

    model = load_model(summary.model_uri, tracking_uri=summary.tracking_uri)
    rng = np.random.default_rng(0)
    features = model.encode(rng.integers(0, 256, (2, 4, 32, 32, 3), dtype=np.uint8))
    assert features.shape == (2, 32, 48)
    assert float((features[0] - features[1]).abs().max()) > 1e-3

    rows = read_clip_ledger(Storage(str(tmp_path)).subfolder("runs", "tiny", "ledger")).to_pydict()
    counted = [p for p, w in zip(rows["position"], rows["weight"], strict=True) if w > 0]
    assert sorted(counted) == list(range(STEPS * BATCH))


@pytest.mark.integration
def test_one_seed_gives_the_same_weights_to_the_bit(tmp_path: Path) -> None:
    first = weights(run(build_job(train_job_dict(tmp_path / "a")), local=True))
    second = weights(run(build_job(train_job_dict(tmp_path / "b")), local=True))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.integration
def test_a_killed_run_continues_as_if_nothing_had_happened(tmp_path: Path) -> None:
    steps = 40
    more = [f"optim.steps={steps}"]
    whole = run(build_job(train_job_dict(tmp_path / "whole"), more), local=True)
    job_file = tmp_path / "job.yaml"
    job_file.write_text(yaml.safe_dump(train_job_dict(tmp_path / "killed")))
    command = [sys.executable, "-m", "orchestrator", "run", str(job_file), *more, "--local", "-q"]
    with subprocess.Popen(command, env={**os.environ, "PYTHONUNBUFFERED": "1"}) as process:
        checkpoints = Storage(str(tmp_path / "killed" / "runs" / "tiny" / "checkpoints"))
        deadline = time.monotonic() + 240
        while not checkpoints.exists("step-00000002/COMPLETE"):
            assert time.monotonic() < deadline, "no checkpoint came"
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    record = Storage(str(tmp_path / "killed" / "runs" / "tiny")).read_json("run.json")
    heard = RecordingProgress()

    resumed = run(build_job(train_job_dict(tmp_path / "killed"), more), local=True, progress=heard)

    assert resumed.run_id == record["mlflow_run_id"]
    start = next(int(text.split()[3]) for text in heard.lines if text.startswith("resumed at step"))
    assert 0 < start < steps
    history = MlflowClient(resumed.tracking_uri).get_metric_history(resumed.run_id, "train/loss")
    logged = [row.step for row in history]
    # A row that was still queued in the killed process is gone; none comes twice.
    assert logged == sorted(set(logged))
    assert set(range(start + 1, steps + 1)) <= set(logged)
    expected, got = weights(whole), weights(resumed)
    assert all(np.array_equal(expected[name], got[name]) for name in expected)


@pytest.mark.integration
def test_a_name_is_an_identity(tmp_path: Path) -> None:
    first = run(build_job(train_job_dict(tmp_path)), local=True)
    again = run(build_job(train_job_dict(tmp_path)), local=True)
    assert (again.run_id, again.model_uri) == (first.run_id, first.model_uri)

    changed = build_job(train_job_dict(tmp_path), ["optim.lr=0.002"])
    with pytest.raises(RequestError, match=r"optim\.lr: 0\.001 -> 0\.002"):
        run(changed, local=True)

    fresh = run(changed, local=True, fresh=True)
    assert fresh.run_id != first.run_id
    kept = Storage(str(tmp_path)).folders("runs")
    assert kept == ["tiny", f"tiny.until-{first.run_id[:8]}"]
