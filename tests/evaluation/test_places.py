"""Where checkpoints are judged: cores that are taken, an end that is asked for, what fails."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

import orchestrator.evaluation.in_training.executors as places
from orchestrator.evaluation.in_training.executors import (
    EvaluationFailed,
    InProcessExecutor,
    RayExecutor,
    TrainingStopped,
)
from orchestrator.evaluation.suite.driver import EvaluationResult
from orchestrator.jepa.model_files import WEIGHTS_FILE, save_model
from orchestrator.jepa.objectives import build_objective
from orchestrator.job import EvaluateJob, build_job
from orchestrator.ray_session import ray_session
from orchestrator.storage import Storage
from tests.support.tiny import tiny_job


@pytest.fixture
def place(tmp_path: Path) -> Storage:
    """Holds a tiny model, as if cut from a checkpoint."""
    job = tiny_job()
    save_model(tmp_path / "model", build_objective(job), None, job, {})
    return Storage(str(tmp_path))


def small() -> EvaluateJob:
    job = build_job(
        {
            "kind": "evaluate",
            "name": "small",
            "model": "checkpoint",
            "suite": {"scenarios": ["support"], "quads": 2, "choose_quads": 2},
            "random": 0,
        }
    )
    assert isinstance(job, EvaluateJob)
    return job


def test_here_it_ends_between_two_parts_when_that_is_asked_for(place: Storage) -> None:
    stop = threading.Event()
    here = InProcessExecutor(stop)
    here.start(small(), place)
    stop.set()
    with pytest.raises(TrainingStopped):
        here.poll()


def test_here_a_broken_model_is_a_failure_of_the_evaluation_only(place: Storage) -> None:
    here = InProcessExecutor(threading.Event())
    place.write_bytes(f"model/{WEIGHTS_FILE}", b"nothing")
    here.start(small(), place)
    with pytest.raises(EvaluationFailed) as caught:
        here.poll()
    assert "cannot read the weights" in caught.value.message
    assert "\n" not in caught.value.message
    assert "Traceback" in caught.value.traceback_text


def ended(beside: RayExecutor) -> EvaluationResult:
    """What comes of it, in the end."""
    deadline = time.monotonic() + 600
    while (found := beside.poll()) is None:
        assert time.monotonic() < deadline, "it waits for a core"
        time.sleep(0.2)
    return found


@pytest.mark.integration
@pytest.mark.timeout(1800)
def test_where_others_have_the_cores_it_does_without(
    place: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "START_TIMEOUT_S", 1.0)

    class Hog:  # defined here, so that it travels by value: a worker cannot import a test
        """Another job's actor."""

        def there(self) -> bool:
            return True

    with ray_session(num_cpus=1) as ray:
        hog = ray.remote(num_cpus=1)(Hog).remote()
        assert ray.get(hog.there.remote())
        beside = RayExecutor(threading.Event(), workers_cpus=0.0)
        beside.start(small(), place)
        found = ended(beside)
        assert found.summary["scenarios"]["support"]["quads"] == 2
        # A broken model fails the task, and the cluster does not mind.
        place.write_bytes(f"model/{WEIGHTS_FILE}", b"nothing")
        beside.start(small(), place)
        with pytest.raises(EvaluationFailed, match="cannot read the weights"):
            ended(beside)
