"""The result of an evaluation: measured once, kept in the storage, and then told to MLflow."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.job import EvaluateJob, job_dict
from orchestrator.progress import Progress
from orchestrator.storage import Storage
from orchestrator.tracking.results.evaluation import REPORT, SCORES, VERDICT
from orchestrator.tracking.run import RunRef
from orchestrator.tracking.server import require_usable, tracking_uri

UNSENT = "unsent.json"
"""In an evaluation's folder while MLflow lacks the result: the job that it is of."""


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation leaves."""

    verdict: dict[str, Any]
    tracking: RunRef
    report: str
    """Path or URI of the page."""


class Measured(Protocol):
    """What an evaluation has found."""

    @property
    def verdict(self) -> dict[str, Any]: ...
    @property
    def scores(self) -> dict[str, Any]: ...
    @property
    def page(self) -> str: ...


@dataclass(frozen=True)
class Kept:
    """What an evaluation has found, in the storage or about to be."""

    verdict: dict[str, Any]
    scores: dict[str, Any]
    """Case by case; empty where a kind of evaluation keeps none."""

    page: str
    """The report, HTML."""


def measure_once(
    job: EvaluateJob,
    measure: Callable[[], Measured],
    record: Callable[[Measured], RunRef],
    progress: Progress,
) -> Evaluated:
    """Keep what `measure` finds in `evaluations/NAME`, then have it recorded.

    Where an earlier run of the same job measured and MLflow did not take it, nothing is measured.

    Raises:
        MlflowAway: MLflow does not answer; nothing was measured.
        NotRecorded: MLflow did not take the result; the next run of the same job sends it.
    """
    storage = Storage(job.storage)
    out = storage.sub("evaluations", job.name)
    require_usable(tracking_uri(job.track.uri, storage), nodes=1)
    found = _unsent(out, job)
    if found is not None:
        progress.message(
            "measured before, and MLflow lacks it: it is sent now"
            f" (to measure again, delete {out.uri(UNSENT)})"
        )
    else:
        found = measure()
        _keep(out, job, found)
    tracking = record(found)
    out.delete(UNSENT)
    return Evaluated(found.verdict, tracking, out.uri(REPORT))


def _keep(out: Storage, job: EvaluateJob, found: Measured) -> None:
    out.delete(UNSENT)  # it is of another job than the files below
    out.write_bytes(REPORT, found.page.encode())
    out.write_json(VERDICT, found.verdict)
    if found.scores:
        out.write_json(SCORES, found.scores)
    out.write_json(UNSENT, {"job": job_dict(job)})


def _unsent(out: Storage, job: EvaluateJob) -> Measured | None:
    """What an earlier run of this very job found, while MLflow lacks it."""
    if not out.exists(UNSENT):
        return None
    if out.read_json(UNSENT)["job"] != json.loads(json.dumps(job_dict(job))):
        return None
    verdict: dict[str, Any] = out.read_json(VERDICT)
    scores: dict[str, Any] = out.read_json(SCORES) if out.exists(SCORES) else {}
    return Kept(verdict, scores, out.read_bytes(REPORT).decode())
