"""Evaluations of checkpoints on the run of their training."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.tracking.live.sender import METRICS_PER_BATCH, model_of_checkpoint
from orchestrator.tracking.metrics import metric_rows
from orchestrator.tracking.run import RunRef
from orchestrator.tracking.server import client_of

FOLDER = "evaluations"


def record_judged(
    ref: RunRef,
    place: str,
    step: int,
    at_ms: int,
    metrics: Mapping[str, float],
    files: Mapping[str, str],
) -> None:
    """Metrics at a step of the run, and files as artifacts in `evaluations/PLACE`.

    Safe to repeat: equal rows of one time (`at_ms`, since 1970) are one row.

    Raises:
        MlflowException: the server is away, or refuses.
        OSError: its artifact store does.
    """
    client = client_of(ref.uri)
    for name, text in files.items():
        client.log_text(ref.run_id, text, f"{FOLDER}/{place}/{name}")
    rows = metric_rows(metrics, at_ms, step)
    for first in range(0, len(rows), METRICS_PER_BATCH):
        client.log_batch(ref.run_id, metrics=rows[first : first + METRICS_PER_BATCH])


def link_judged(ref: RunRef, step: int, at_ms: int, metrics: Mapping[str, float]) -> bool:
    """The same metrics on the LoggedModel of the step's checkpoint; False where there is none.

    Raises:
        MlflowException: the server is away, or refuses.
    """
    client = client_of(ref.uri)
    model = model_of_checkpoint(client, ref, step)
    if model is None:
        return False
    known = {metric.key for metric in model.metrics or []}
    fresh = {key: value for key, value in metrics.items() if key not in known}
    # With their own time they are the run's rows, which the store does not write twice.
    rows = metric_rows(fresh, at_ms, step, model.model_id)
    for first in range(0, len(rows), METRICS_PER_BATCH):
        client.log_batch(ref.run_id, metrics=rows[first : first + METRICS_PER_BATCH])
    return True
