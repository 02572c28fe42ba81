"""Evaluations of checkpoints on the run of their training."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.tracking.live.sender import METRICS_PER_BATCH, find_checkpoint_model
from orchestrator.tracking.metrics import to_mlflow_metrics
from orchestrator.tracking.run import RunRef
from orchestrator.tracking.server import mlflow_client

EVALUATIONS_FOLDER = "evaluations"


def record_checkpoint_evaluation(
    ref: RunRef,
    artifact_folder: str,
    step: int,
    timestamp_ms: int,
    metrics: Mapping[str, float],
    files: Mapping[str, str],
) -> None:
    """Metrics at a step of the run, and files as artifacts in `evaluations/PLACE`.

    Safe to repeat: equal rows of one time (`timestamp_ms`, since 1970) are one row.

    Raises:
        MlflowException: the server is away, or refuses.
        OSError: its artifact store does.
    """
    client = mlflow_client(ref.tracking_uri)
    for name, text in files.items():
        client.log_text(ref.run_id, text, f"{EVALUATIONS_FOLDER}/{artifact_folder}/{name}")
    rows = to_mlflow_metrics(metrics, timestamp_ms, step)
    for first in range(0, len(rows), METRICS_PER_BATCH):
        client.log_batch(ref.run_id, metrics=rows[first : first + METRICS_PER_BATCH])


def link_metrics_to_checkpoint(
    ref: RunRef, step: int, timestamp_ms: int, metrics: Mapping[str, float]
) -> bool:
    """The same metrics on the LoggedModel of the step's checkpoint; False where there is none.

    Raises:
        MlflowException: the server is away, or refuses.
    """
    client = mlflow_client(ref.tracking_uri)
    model = find_checkpoint_model(client, ref, step)
    if model is None:
        return False
    known = {metric.key for metric in model.metrics or []}
    fresh = {key: value for key, value in metrics.items() if key not in known}
    # With their own time they are the run's rows, which the store does not write twice.
    rows = to_mlflow_metrics(fresh, timestamp_ms, step, model.model_id)
    for first in range(0, len(rows), METRICS_PER_BATCH):
        client.log_batch(ref.run_id, metrics=rows[first : first + METRICS_PER_BATCH])
    return True
