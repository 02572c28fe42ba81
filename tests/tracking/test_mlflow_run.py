"""The run that a training makes: one, with all that it is made of."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.data.dataset_source_registry import get_dataset_source_from_json

from orchestrator.errors import JobFailed, RequestError
from orchestrator.job import TrainJob, build_job
from orchestrator.storage import Storage
from orchestrator.tracking.run import RunRef, finish_run, flat_params, job_of_run, start_run
from orchestrator.tracking.server import mlflow_client
from tests.support.mlflow_runs import FakeIndex, artifact_paths, tracked_job

NewRun = Callable[..., RunRef]


def test_the_run_holds_job_plan_environment_and_dataset(new_run: NewRun, job: TrainJob) -> None:
    ref = new_run(job, estimate={"steps": 20}, datasets=[FakeIndex()], tags={"fingerprint": "f00"})
    client = mlflow_client(ref.tracking_uri)
    run = client.get_run(ref.run_id)
    assert run.info.run_name == "tiny"
    assert run.data.params["optim.steps"] == "20"
    assert run.data.params["optim.betas"] == "[0.9, 0.999]"
    assert run.data.params["objective.masks.0.targets"] == "0.5"
    assert run.data.tags["fingerprint"] == "f00"
    assert run.data.tags["kind"] == "train"
    assert "env.torch" in run.data.tags
    assert artifact_paths(client, ref) == ["environment.json", "job.yaml", "plan.json"]
    assert build_job(job_of_run(ref.tracking_uri, ref.run_id)) == job

    (logged,) = run.inputs.dataset_inputs
    assert logged.dataset.name == "physics://mixed?clips=100"
    assert logged.dataset.digest == "0123456789abcdef"
    assert json.loads(logged.dataset.profile)["num_rows"] == 100
    source = get_dataset_source_from_json(logged.dataset.source, logged.dataset.source_type)
    assert (source.load(), source.shards) == (FakeIndex().uri, 2)


def test_a_restarted_training_continues_its_run(new_run: NewRun) -> None:
    ref = new_run(tracked_job(scale__workers=2), datasets=[FakeIndex()])
    finish_run(ref, "FAILED")
    again = new_run(tracked_job(scale__workers=4), run_id=ref.run_id, datasets=[FakeIndex()])
    assert again == ref
    run = mlflow_client(ref.tracking_uri).get_run(ref.run_id)
    assert run.info.status == "RUNNING"
    assert run.data.params["scale.workers"] == "2"
    assert run.data.tags["changed.scale.workers"] == "2 -> 4"
    assert run.data.tags["starts"] == "2"
    assert len(run.inputs.dataset_inputs) == 1
    assert job_of_run(ref.tracking_uri, ref.run_id)["scale"]["workers"] == 4
    finish_run(ref, "FINISHED")
    assert mlflow_client(ref.tracking_uri).get_run(ref.run_id).info.status == "FINISHED"


def test_a_run_can_be_a_child(new_run: NewRun) -> None:
    parent = new_run()
    child = new_run(parent_run_id=parent.run_id)
    tags = mlflow_client(child.tracking_uri).get_run(child.run_id).data.tags
    assert tags["mlflow.parentRunId"] == parent.run_id


def test_a_job_is_found_by_the_name_of_its_newest_run(new_run: NewRun) -> None:
    new_run(tracked_job(name="named", seed=1))
    ref = new_run(tracked_job(name="named", seed=2))
    assert job_of_run(ref.tracking_uri, "named")["seed"] == 2
    with pytest.raises(RequestError, match="no run is called 'nobody'"):
        job_of_run(ref.tracking_uri, "nobody")


def test_a_run_that_is_elsewhere_is_refused(new_run: NewRun) -> None:
    with pytest.raises(RequestError, match="is not on"):
        new_run(run_id="0" * 32)


def test_a_deleted_experiment_is_refused(new_run: NewRun) -> None:
    ref = new_run(tracked_job(track__experiment="doomed"))
    mlflow_client(ref.tracking_uri).delete_experiment(ref.experiment_id)
    with pytest.raises(RequestError, match="'doomed' was deleted"):
        new_run(tracked_job(track__experiment="doomed"))


def test_the_commit_of_the_users_folder_stands_on_the_run(
    new_run: NewRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "start"], check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    clean = _tags(new_run())
    (tmp_path / "new.py").write_text("x = 1")
    dirty = _tags(new_run())
    assert clean["mlflow.source.git.commit"] == head.stdout.strip()
    assert clean["mlflow.source.git.dirty"] == "false"
    assert dirty["mlflow.source.git.dirty"] == "true"


def test_a_folder_without_git_has_no_commit(
    new_run: NewRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "mlflow.source.git.commit" not in _tags(new_run())


def test_params_fit_mlflows_limits() -> None:
    params = flat_params({"a": {"b" * 300: "x" * 9000, "c!": None}, "d": [{"e": 1}, {"e": [2, 3]}]})
    assert max(map(len, params)) == 250
    assert max(map(len, params.values())) == 6000
    assert params["a.c_"] == "null"
    assert (params["d.0.e"], params["d.1.e"]) == ("1", "[2, 3]")


def test_a_store_that_cannot_be_written_fails_the_run_with_one_message(
    store: Storage, job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlflow.MlflowClient.log_text", full)
    with pytest.raises(JobFailed, match="No space left"):
        start_run(job, store, estimate={})


def _tags(ref: RunRef) -> dict[str, str]:
    tags: dict[str, str] = mlflow_client(ref.tracking_uri).get_run(ref.run_id).data.tags
    return tags
