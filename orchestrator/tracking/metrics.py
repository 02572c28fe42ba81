"""Numbers as MLflow's rows."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mlflow.entities import Metric


def to_mlflow_metrics(
    values: Mapping[str, float], timestamp_ms: int, step: int, model_id: str | None = None
) -> list[Metric]:
    """A row for each value that is finite, at `timestamp_ms` (since 1970).

    Others are left out: MLflow keeps a model's NaN as 0, and infinity of either sign as 1.8e308.
    """
    return [
        Metric(key, value, timestamp_ms, step, model_id=model_id)
        for key, value in values.items()
        if math.isfinite(value)
    ]
