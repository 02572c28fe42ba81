"""The logger: each step once whatever happens, and nothing lost in silence."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from PIL import Image, ImageSequence

from orchestrator.tracking.live.run_logger import RunLogger
from orchestrator.tracking.run import RunRef
from orchestrator.tracking.server import mlflow_client
from tests.support.mlflow_runs import artifact_paths, metric_history
from tests.support.waiting import TIMEOUT_S, wait_until

NewRun = Callable[..., RunRef]


def logger(ref: RunRef, start_step: int = 0, **options: Any) -> RunLogger:
    return RunLogger(
        ref, start_step, **{"poll_interval_s": 0.05, "close_timeout_s": TIMEOUT_S, **options}
    )


def log_steps(ref: RunRef, first: int, last: int, value: float, start: int) -> None:
    log = logger(ref, start)
    for step in range(first, last + 1):
        log.log_metrics(step, {"train/loss": value + step, "health/rankme": value})
    assert log.close() == []


def test_a_replayed_step_keeps_its_first_value(new_run: NewRun) -> None:
    ref = new_run()
    log_steps(ref, 1, 10, value=100.0, start=0)
    first = mlflow_client(ref.tracking_uri).get_metric_history(ref.run_id, "train/loss")
    log_steps(ref, 6, 14, value=500.0, start=5)
    expected = [(s, 100.0 + s) for s in range(1, 11)] + [(s, 500.0 + s) for s in range(11, 15)]
    assert metric_history(ref, "train/loss") == expected
    stamps = {metric.step: metric.timestamp for metric in first}
    again = mlflow_client(ref.tracking_uri).get_metric_history(ref.run_id, "train/loss")
    assert {m.step: m.timestamp for m in again if m.step <= 10} == stamps
    assert mlflow_client(ref.tracking_uri).get_run(ref.run_id).data.metrics["replayed_steps"] == 5


def test_replays_add_up_over_restarts_even_when_one_dies_on_the_way(new_run: NewRun) -> None:
    ref = new_run()
    log_steps(ref, 1, 10, value=0.0, start=0)
    log_steps(ref, 6, 8, value=1.0, start=5)
    log_steps(ref, 6, 12, value=2.0, start=5)
    assert metric_history(ref, "train/loss")[-3:] == [(10, 10.0), (11, 13.0), (12, 14.0)]
    assert (
        mlflow_client(ref.tracking_uri).get_run(ref.run_id).data.metrics["replayed_steps"] == 3 + 5
    )


def test_a_metric_that_is_new_is_not_taken_for_a_replay(new_run: NewRun) -> None:
    ref = new_run()
    log_steps(ref, 1, 4, value=0.0, start=0)
    log = logger(ref, 2)
    log.log_metrics(3, {"train/loss": 9.0, "train/other": 1.0})
    log.close()
    assert metric_history(ref, "train/other") == [(3, 1.0)]


def test_a_lost_answer_does_not_double_a_row(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server commits, the answer is lost, the rows are sent again."""
    ref, send, failures = new_run(), MlflowClient.log_batch, [1, 2]

    def forgetful(self: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        send(self, *args, **kwargs)
        if failures:
            failures.pop()
            raise MlflowException("connection lost")

    monkeypatch.setattr(MlflowClient, "log_batch", forgetful)
    monkeypatch.setattr("orchestrator.tracking.live.run_logger.MIN_BACKOFF_S", 0.05)
    log_steps(ref, 1, 5, value=0.0, start=0)
    assert metric_history(ref, "train/loss") == [(s, float(s)) for s in range(1, 6)]


def test_rows_wait_while_mlflow_is_away(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ref, send, away = new_run(), MlflowClient.log_batch, [True]

    def broken(self: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        if away:
            raise MlflowException("no route to host")
        return send(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", broken)
    monkeypatch.setattr("orchestrator.tracking.live.run_logger.MIN_BACKOFF_S", 0.05)
    log = logger(ref)
    with caplog.at_level(logging.WARNING, "orchestrator.tracking.live.run_logger"):
        for step in range(1, 6):
            log.log_metrics(step, {"train/loss": float(step)})
        wait_until(lambda: "cannot be written" in caplog.text)
        away.clear()
        assert log.close() == []
    assert metric_history(ref, "train/loss") == [(s, float(s)) for s in range(1, 6)]
    said = [record.message for record in caplog.records]
    assert sum("cannot be written" in text for text in said) == 1
    assert any("has everything again" in text for text in said)


def test_what_never_arrived_is_said_plainly(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise MlflowException("no route to host")

    ref = new_run()
    monkeypatch.setattr(MlflowClient, "log_batch", broken)
    log = logger(ref, close_timeout_s=0.3)
    for step in (10, 20, 30):
        log.log_metrics(step, {"train/loss": 1.0})
    with caplog.at_level(logging.WARNING, "orchestrator.tracking.live.run_logger"):
        lost = log.close()
    assert len(lost) == 3
    assert "3 rows of metrics (steps 10 to 30) never reached MLflow" in caplog.text


def test_a_refused_row_takes_no_other_with_it(
    new_run: NewRun, caplog: pytest.LogCaptureFixture
) -> None:
    ref = new_run()
    log = logger(ref, poll_interval_s=0.3)
    log.log_metrics(1, {"train/loss": 1.0})
    log.log_metrics(2, {"no?such*name": 2.0})
    log.log_metrics(3, {"train/loss": 3.0})
    (lost,) = log.close()
    assert metric_history(ref, "train/loss") == [(1, 1.0), (3, 3.0)]
    assert "refuses" in caplog.text
    assert getattr(lost, "step", None) == 2


def test_a_broken_picture_store_does_not_hold_up_rows(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    ref = new_run()
    monkeypatch.setattr(MlflowClient, "log_artifact", full)
    log = logger(ref, close_timeout_s=0.5)
    log.log_picture(1, "masks", Image.new("RGB", (8, 8)))
    log.log_metrics(1, {"train/loss": 1.0})
    wait_until(lambda: len(log.metric_queue) == 0)
    log.log_metrics(2, {"train/loss": 2.0})
    wait_until(lambda: len(log.metric_queue) == 0)
    assert len(log.close()) == 1
    assert metric_history(ref, "train/loss") == [(1, 1.0), (2, 2.0)]


def test_two_loggers_write_one_run(new_run: NewRun) -> None:
    ref = new_run()
    both = [logger(ref, node_id=f"node-{i}", sample_interval_s=0.1) for i in range(2)]
    both[0].log_metrics(1, {"train/loss": 1.0})
    sampled = {f"system/node-{i}/cpu_utilization_percentage" for i in range(2)}
    wait_until(
        lambda: sampled <= mlflow_client(ref.tracking_uri).get_run(ref.run_id).data.metrics.keys()
    )
    assert [log.close() for log in both] == [[], []]
    metrics = mlflow_client(ref.tracking_uri).get_run(ref.run_id).data.metrics
    assert metric_history(ref, "train/loss") == [(1, 1.0)]
    assert "replayed_steps" not in metrics


def test_pictures_are_named_by_step_and_drawn_once(new_run: NewRun) -> None:
    ref = new_run()
    frames = [Image.new("RGB", (8, 8), (i * 60, 0, 0)) for i in range(4)]
    for mask in (frames[0], frames[3]):  # the second time is a replay
        log = logger(ref)
        log.log_picture(500, "masks", mask)
        log.log_picture(500, "features", frames)
        log.close()
    client = mlflow_client(ref.tracking_uri)
    paths = [path for path in artifact_paths(client, ref) if path.startswith("pictures/")]
    assert paths == ["pictures/features/step-00000500.gif", "pictures/masks/step-00000500.png"]
    local = client.download_artifacts(ref.run_id, "pictures/masks/step-00000500.png")
    assert Image.open(local).getpixel((0, 0)) == (0, 0, 0)
    moving = Image.open(client.download_artifacts(ref.run_id, paths[0]))
    assert len(list(ImageSequence.Iterator(moving))) == 4


def test_a_kept_checkpoint_is_a_logged_model_until_it_is_dropped(new_run: NewRun) -> None:
    ref = new_run()
    client = mlflow_client(ref.tracking_uri)
    for _ in range(2):  # told twice, made once
        log = logger(ref)
        log.log_checkpoint(200, "/runs/tiny/checkpoints/step-00000200", {"rankme": 12.0})
        log.log_checkpoint(400, "/runs/tiny/checkpoints/step-00000400", {"rankme": 14.0})
        log.close()
    mine = f"source_run_id = '{ref.run_id}'"
    models = client.search_logged_models([ref.experiment_id], mine)
    assert sorted(model.name for model in models) == ["step-00000200", "step-00000400"]
    newest = max(models, key=lambda model: str(model.name))
    assert newest.status == "READY"
    assert newest.tags["checkpoint.uri"].endswith("step-00000400")
    assert [(m.key, m.value) for m in newest.metrics] == [("checkpoint/rankme", 14.0)]
    outputs = client.get_run(ref.run_id).outputs.model_outputs
    assert {(o.model_id, o.step) for o in outputs} >= {(newest.model_id, 400)}

    log = logger(ref)
    log.log_checkpoint_deleted(200)
    log.close()
    models = client.search_logged_models([ref.experiment_id], mine)
    assert [model.name for model in models] == ["step-00000400"]

    # A start that was killed dropped 400 and wrote 600, and told of neither.
    log = logger(ref)
    log.log_checkpoint_list([600])
    log.log_checkpoint(600, "/runs/tiny/checkpoints/step-00000600", {})
    log.close()
    models = client.search_logged_models([ref.experiment_id], mine)
    assert [model.name for model in models] == ["step-00000600"]
