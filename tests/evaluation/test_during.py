"""Evaluations on the way, driven by hand: what is judged, skipped, told, and told once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

import orchestrator.evaluation.in_training.outcomes as results_module
from orchestrator.errors import DataError, RequestError
from orchestrator.evaluation.in_training.executors import EvaluationFailed
from orchestrator.evaluation.in_training.scheduler import EvaluationScheduler, check_evaluations
from orchestrator.evaluation.suite.driver import EvaluationResult
from orchestrator.job import EvaluateJob, TrainJob, build_job
from orchestrator.progress import SilentProgress
from orchestrator.storage import Storage
from orchestrator.tracking.run import RunRef, create_run
from orchestrator.tracking.server import mlflow_client
from orchestrator.training.checkpoints.manager import checkpoint_name
from orchestrator.training.run_record import RunRecord, read_record

STEPS = 50


class Heard(SilentProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


class Scripted:
    """A place where an evaluation ends when the test says so."""

    shares_worker_cpus = False

    def __init__(self) -> None:
        self.cuts: list[str] = []
        self.begun: list[str] = []
        self.ready: float | EvaluationFailed | None = None
        self.broken: set[str] = set()

    def export_model(self, job: TrainJob, checkpoints: Storage, name: str, place: Storage) -> None:
        if name in self.broken:
            raise EvaluationFailed.from_exception(
                DataError("the checkpoint is damaged", where=name)
            )
        self.cuts.append(name)
        place.write_bytes("model/config.json", b"{}")

    def start(self, job: EvaluateJob, place: Storage) -> None:
        self.begun.append(job.model)

    def poll(self) -> EvaluationResult | None:
        ready, self.ready = self.ready, None
        if isinstance(ready, EvaluationFailed):
            raise ready
        return (
            None
            if ready is None
            else EvaluationResult(verdict_of(ready), {"quad": {}}, "<html>page")
        )

    def on_workers_exited(self) -> None:
        """Nobody was there."""

    def cancel(self) -> None:
        """Nothing runs."""


def verdict_of(quad: float) -> dict[str, Any]:
    whole = {"value": quad, "low": quad - 0.1, "high": quad + 0.1}
    return {
        "overall": {"quad": whole, "pair": whole},
        "scenarios": {"support": {"quad": whole, "pair": whole}},
        "gain": {"over_random": None, "over_baseline": quad},
        "health": {"rankme": 3.0},
    }


def watched_job(storage: Path, **changes: Any) -> TrainJob:
    job = build_job(
        {
            "kind": "train",
            "name": "watched",
            "storage": str(storage),
            "data": {"source": "unused", "frames": 8, "fps": 8.0, "size": 32},
            "model": {
                "encoder": {"dim": 24, "depth": 1, "heads": 2},
                "patch": 8,
                "predictor": {"depth": 1, "dim": 24, "heads": 2},
            },
            "optim": {"steps": STEPS},
            "evaluate": [{"every": 10, "job": {"name": "physics"}}],
        },
        [f"{key.replace('__', '.')}={value}" for key, value in changes.items()],
    )
    assert isinstance(job, TrainJob)
    return job


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for all of these tests: making one takes seconds."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    mlflow_client(uri).search_experiments()
    return uri


class Watched:
    """A run whose checkpoints come when the test says so, and its evaluations by hand."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.job = watched_job(folder)
        self.folder = Storage(str(folder)).subfolder("runs", "watched")
        run = create_run(mlflow_client(uri), uri, "during", "watched", {})
        self.ref = RunRef(uri, run.info.run_id, run.info.experiment_id)
        self.record = RunRecord("watched", "", {}, {}, "")
        self.launch()

    def launch(self) -> None:
        self.record.launches += 1
        self.record.save(self.folder)
        self.heard, self.place = Heard(), Scripted()
        number = self.record.launches
        evaluations = EvaluationScheduler(self.job, self.folder, self.ref, self.heard, number, None)
        evaluations._executor = self.place
        self.evaluations = evaluations

    def save(self, *steps: int) -> None:
        for step in steps:
            self.folder.write_json(f"checkpoints/{checkpoint_name(step)}/COMPLETE", {})

    def drop(self, step: int) -> None:
        self.folder.delete_tree(f"checkpoints/{checkpoint_name(step)}")

    def look(self, ready: float | EvaluationFailed | None = None) -> None:
        self.place.ready = ready
        self.evaluations._poll()

    def rows(self, key: str) -> list[tuple[int, float]]:
        history = mlflow_client(self.ref.tracking_uri).get_metric_history(
            self.ref.run_id, f"eval/physics/{key}"
        )
        return [(row.step, row.value) for row in history]

    def result(self, step: int) -> dict[str, Any]:
        path = f"evaluations/physics/{checkpoint_name(step)}/result.json"
        found: dict[str, Any] = self.folder.read_json(path)
        return found


@pytest.fixture
def watched(tmp_path: Path, uri: str) -> Watched:
    return Watched(tmp_path, uri)


def test_due_checkpoints_are_judged_and_told(watched: Watched) -> None:
    watched.save(5, 10)
    watched.look()
    assert watched.place.begun == ["watched, step 10"]
    watched.look(0.5)
    assert watched.rows("quad_accuracy") == [(10, 0.5)]
    assert watched.rows("scenario/support/pair") == [(10, 0.5)]
    client = mlflow_client(watched.ref.tracking_uri)
    folder = "evaluations/physics/step-00000010"
    files = {info.path for info in client.list_artifacts(watched.ref.run_id, folder)}
    assert {f"{folder}/{n}" for n in ("report.html", "verdict.json", "scores.json")} <= files
    assert not watched.folder.exists(f"{folder}/model"), "the model that was judged is dropped"
    assert "physics of step 10: quads right 50.0% [40, 60]" in watched.heard.lines[0]
    watched.look()
    assert len(watched.place.begun) == 1


def test_a_slow_evaluation_misses_steps_and_says_which(watched: Watched) -> None:
    watched.save(10)
    watched.look()
    watched.save(20)
    watched.look()
    assert watched.place.cuts == [checkpoint_name(10), checkpoint_name(20)], "20 may be dropped now"
    watched.drop(20)
    watched.save(30)
    watched.look()
    assert watched.place.begun == ["watched, step 10"]
    assert [line for line in watched.heard.lines if "skips step 20" in line]
    assert watched.result(20)["state"] == "skipped"
    assert watched.rows("skipped") == [(20, 1.0)]
    watched.look(0.25)
    assert watched.place.begun[1:] == ["watched, step 30"]


def test_a_failure_is_told_counted_and_written_down_and_the_next_is_judged(
    watched: Watched,
) -> None:
    watched.save(10)
    watched.look()
    watched.look(
        EvaluationFailed("ValueError: no such token", "Traceback ...\nValueError: no such token")
    )
    watched.save(20)
    watched.look()
    watched.look(EvaluationFailed("ValueError: again", "Traceback"))
    assert watched.rows("failed") == [(10, 1.0), (20, 2.0)]
    assert watched.result(10)["error"].startswith("Traceback ...")
    assert "physics of step 10 failed, training goes on: ValueError: no such" in "".join(
        watched.heard.lines
    )
    watched.save(30)
    watched.look()
    watched.look(0.75)
    assert watched.rows("quad_accuracy") == [(30, 0.75)]


def test_a_checkpoint_that_cannot_be_read_is_a_failure(watched: Watched) -> None:
    watched.place.broken = {checkpoint_name(10)}
    watched.save(10)
    watched.look()
    assert "the checkpoint is damaged" in watched.result(10)["error"]
    watched.save(20)
    watched.look()
    assert watched.place.begun == ["watched, step 20"]


def test_the_next_launch_judges_what_was_not_finished_and_nothing_twice(watched: Watched) -> None:
    watched.save(10)
    watched.look()
    watched.look(0.5)
    watched.save(20)
    watched.look()
    watched.save(30)
    watched.look()  # 20 runs, 30 waits; the driver is killed
    watched.drop(20)
    watched.launch()
    watched.look()
    assert watched.place.begun == ["watched, step 20"], "its model had been cut"
    watched.look(0.6)
    watched.look(0.7)
    assert watched.rows("quad_accuracy") == [(10, 0.5), (20, 0.6), (30, 0.7)]
    watched.launch()
    watched.look()
    assert watched.place.begun == []


def test_a_result_that_mlflow_did_not_get_is_sent_later_and_once(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = results_module.record_checkpoint_evaluation

    def lost(*args: Any) -> None:
        send(*args)
        raise MlflowException("the answer was lost")

    watched.save(10)
    watched.look()
    monkeypatch.setattr(results_module, "record_checkpoint_evaluation", lost)
    with pytest.raises(MlflowException):
        watched.look(0.5)
    monkeypatch.setattr(results_module, "record_checkpoint_evaluation", send)
    watched.launch()  # the driver was killed, too
    watched.look()
    assert watched.rows("quad_accuracy") == [(10, 0.5)]
    assert watched.result(10)["told"]


def test_the_logged_model_of_the_checkpoint_gets_the_metrics_and_the_run_no_twins(
    watched: Watched,
) -> None:
    watched.save(10)
    watched.look()
    watched.look(0.5)
    client = mlflow_client(watched.ref.tracking_uri)
    ref = watched.ref
    model = client.create_logged_model(  # as the workers do, when they save the next
        ref.experiment_id, name="step-00000010", source_run_id=ref.run_id
    )
    watched.evaluations._training_done.set()
    watched.look()
    found = client.get_logged_model(model.model_id)
    metrics = {metric.key: (metric.value, metric.step) for metric in found.metrics or []}
    assert metrics["eval/physics/quad_accuracy"] == (0.5, 10)
    assert watched.rows("quad_accuracy") == [(10, 0.5)]
    assert watched.result(10)["linked"]


def test_another_driver_takes_over_and_this_one_records_nothing_more(watched: Watched) -> None:
    watched.save(10)
    watched.look()
    record = read_record(watched.folder)
    assert record is not None
    record.launches += 1
    record.save(watched.folder)
    watched.place.ready = 0.5
    watched.evaluations.evaluate_due()
    assert watched.rows("quad_accuracy") == []
    assert not watched.folder.exists("evaluations/physics/step-00000010/result.json")


def test_what_does_not_fit_the_model_is_refused_before_a_start(tmp_path: Path) -> None:
    check_evaluations(watched_job(tmp_path))
    for change, said in (
        ({"evaluate__0__job__suite__scenarios": "[suport]"}, "did you mean 'support'"),
        ({"evaluate__0__job__suite__frames": 4}, "suite.frames: the videos have 4 frames"),
        ({"evaluate__0__job__suite__frames": 16}, "16 frames at 8 fps are too few for a cause"),
        ({"evaluate__0__job__surprise__contexts": "[3]"}, "a context of 3 frames"),
    ):
        with pytest.raises(RequestError, match=said) as caught:
            check_evaluations(watched_job(tmp_path, **change))
        assert str(caught.value).startswith("evaluate.0.job: ")
