"""What MLflow is told, and told only once: the side of the logger that speaks to the server."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.exceptions import MlflowException

from orchestrator.job.config.train import EVAL_METRIC_PREFIX
from orchestrator.tracking.live.queue import Dropped, Kept, LogEntry, Picture, Row, Sample, Standing
from orchestrator.tracking.mlflow_errors import is_permanent
from orchestrator.tracking.run import PICTURES_FOLDER, RunRef
from orchestrator.tracking.server import is_server, mlflow_client

log = logging.getLogger(__name__)
T = TypeVar("T", bound=LogEntry)

METRICS_PER_BATCH = 1000  # MLflow's limit of one request
REPLAYED_STEPS = "replayed_steps"
SYSTEM_PREFIX = "system/"
CHECKPOINT_STEP_TAG = "checkpoint.step"


class MlflowSender:
    """Sends entries of one run. Made when the run can be reached: it asks for the last steps.

    A metric keeps its first value at a step: what is at or below the last step of its name
    is not sent again. Sending the same entries twice after an error is safe, since rows keep
    the timestamp they were made with and MLflow's store drops equal rows.

    Raises (here and in `send`):
        MlflowException: the server is away; nothing of the entries is lost, try again.
    """

    def __init__(self, ref: RunRef, start_step: int) -> None:
        self.ref, self.start_step = ref, start_step
        self.client = mlflow_client(ref.tracking_uri)
        run = self.client.get_run(ref.run_id)
        self._run_start_ms = int(run.info.start_time)
        # The last step per name is in the run itself; its history would be read as a whole.
        last = {metric.key: int(metric.step) for metric in run.data._metric_objs}
        trained = [step for key, step in last.items() if _is_training_metric(key)]
        self._last = last
        self._last_logged_step = max(trained, default=start_step)
        self._replayed_before = int(run.data.metrics.get(REPLAYED_STEPS, 0))
        self._replayed = 0
        self._sent_pictures: dict[str, set[str]] = {}

    def send(self, entries: Sequence[LogEntry]) -> list[LogEntry]:
        """Send entries in order; returns those that the server refuses for good."""
        rows = [entry for entry in entries if isinstance(entry, (Row, Sample))]
        losses = self._send_or_split(rows, self._send_rows)
        for entry in entries:
            if isinstance(entry, Picture):
                losses += self._send_or_split([entry], lambda one: self._send_picture(one[0]))
            elif isinstance(entry, Kept):
                losses += self._send_or_split(
                    [entry], lambda one: self._send_checkpoint_added(one[0])
                )
            elif isinstance(entry, Dropped):
                losses += self._send_or_split(
                    [entry], lambda one: self._send_checkpoint_deleted(one[0])
                )
            elif isinstance(entry, Standing):
                losses += self._send_or_split(
                    [entry], lambda one: self._send_checkpoint_list(one[0])
                )
        return losses

    def _send_or_split(
        self, entries: Sequence[T], send: Callable[[Sequence[T]], None]
    ) -> list[LogEntry]:
        """Send together; when that is refused, one by one, so that only the culprit is lost."""
        if not entries:
            return []
        try:
            send(entries)
        except MlflowException as error:
            if not is_permanent(error, by_server=is_server(self.ref.tracking_uri)):
                raise
            if len(entries) > 1:
                return [lost for entry in entries for lost in self._send_or_split([entry], send)]
            log.warning("MLflow refuses %s: %s", entries[0], error.message)
            return list(entries)
        return []

    # -- rows ------------------------------------------------------------------------------

    def _send_rows(self, rows: Sequence[Row | Sample]) -> None:
        last, replayed, metrics = dict(self._last), self._replayed, []
        for row in rows:
            step = row.step if isinstance(row, Row) else self._seconds_since_start(row.timestamp)
            for key, value in row.values.items():
                if step > last.get(key, -1):
                    last[key] = step
                    metrics.append(Metric(key, float(value), row.timestamp, step))
            if isinstance(row, Row) and row.step <= self._last_logged_step:
                again = row.step - self.start_step
                if again > replayed:
                    replayed = again
                    total = float(self._replayed_before + replayed)
                    metrics.append(
                        Metric(REPLAYED_STEPS, total, row.timestamp, self._last_logged_step)
                    )
        for first in range(0, len(metrics), METRICS_PER_BATCH):
            batch = metrics[first : first + METRICS_PER_BATCH]
            self.client.log_batch(self.ref.run_id, metrics=batch)
        # Only now: a batch that failed must find its steps unsent when it comes again.
        self._last, self._replayed = last, replayed

    def _seconds_since_start(self, timestamp: int) -> int:
        """System metrics are charted by second of the run: the same after any restart."""
        return max(0, (timestamp - self._run_start_ms) // 1000)

    # -- pictures --------------------------------------------------------------------------

    def _send_picture(self, picture: Picture) -> None:
        folder = f"{PICTURES_FOLDER}/{picture.name}"
        file = f"step-{picture.step:08d}.{picture.suffix}"
        if folder not in self._sent_pictures:
            listed = self.client.list_artifacts(self.ref.run_id, folder)
            self._sent_pictures[folder] = {Path(info.path).name for info in listed}
        if file in self._sent_pictures[folder]:
            return
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / file
            path.write_bytes(picture.data)
            self.client.log_artifact(self.ref.run_id, str(path), folder)
        self._sent_pictures[folder].add(file)

    # -- checkpoints -----------------------------------------------------------------------

    def _send_checkpoint_added(self, kept: Kept) -> None:
        """A LoggedModel whose files stay in the storage; made once however often it is told."""
        model = self._model_of(kept.step)
        if model is None:
            model = self.client.create_logged_model(
                self.ref.experiment_id,
                name=_model_name(kept.step),
                source_run_id=self.ref.run_id,
                tags={
                    "mlflow.model.isExternal": "true",
                    "checkpoint.uri": kept.uri,
                    CHECKPOINT_STEP_TAG: str(kept.step),
                },
                model_type="checkpoint",
            )
        if model.status == LoggedModelStatus.READY:
            return
        known = {metric.key for metric in model.metrics or []}
        metrics = [
            Metric(f"checkpoint/{key}", value, kept.timestamp, kept.step, model_id=model.model_id)
            for key, value in kept.metrics.items()
            if f"checkpoint/{key}" not in known
        ]
        if metrics:
            self.client.log_batch(self.ref.run_id, metrics=metrics)
        self.client.log_outputs(self.ref.run_id, [LoggedModelOutput(model.model_id, kept.step)])
        self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)

    def _send_checkpoint_deleted(self, dropped: Dropped) -> None:
        model = self._model_of(dropped.step)
        if model is not None:
            self.client.delete_logged_model(model.model_id)

    def _send_checkpoint_list(self, standing: Standing) -> None:
        token: str | None = None
        gone = []
        while True:
            page = self.client.search_logged_models(
                [self.ref.experiment_id],
                f"source_run_id = '{self.ref.run_id}'",
                page_token=token,
            )
            steps = [(model, model.tags.get(CHECKPOINT_STEP_TAG)) for model in page]
            gone += [m for m, step in steps if step and int(step) not in standing.steps]
            token = page.token
            if not token:
                break
        for model in gone:
            self.client.delete_logged_model(model.model_id)

    def _model_of(self, step: int) -> LoggedModel | None:
        return find_checkpoint_model(self.client, self.ref, step)


def find_checkpoint_model(client: MlflowClient, ref: RunRef, step: int) -> LoggedModel | None:
    """The LoggedModel of a run's checkpoint, where it has been told of and not dropped."""
    found = client.search_logged_models(
        [ref.experiment_id],
        f"source_run_id = '{ref.run_id}' AND name = '{_model_name(step)}'",
        max_results=1,
    )
    return found[0] if found else None


def _model_name(step: int) -> str:
    return f"step-{step:08d}"


def _is_training_metric(key: str) -> bool:
    return (
        not key.startswith((SYSTEM_PREFIX, "checkpoint/", EVAL_METRIC_PREFIX))
        and key != REPLAYED_STEPS
    )
