"""An evaluation that MLflow did not take is sent by the next run, and is not measured again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import RequestError
from orchestrator.evaluation.result_store import (
    PENDING_UPLOAD,
    EvaluationResult,
    EvaluationResultLike,
    SavedEvaluation,
    evaluate_once,
)
from orchestrator.job import EvaluateJob
from orchestrator.progress import SilentProgress
from orchestrator.tracking.mlflow_errors import MlflowUnavailable, MlflowWriteFailed
from orchestrator.tracking.run import RunRef

REF = RunRef("sqlite:///x.db", "0" * 32, "1")


class Evaluation:
    """One whose MLflow can be away; counts how often it measures."""

    def __init__(self, storage: Path) -> None:
        self.storage, self.measured, self.away = storage, 0, False
        self.sent: list[EvaluationResultLike] = []

    def run(self, **changes: Any) -> SavedEvaluation:
        job = EvaluateJob.model_validate(
            {
                "kind": "evaluate",
                "name": "judged",
                "model": "models:/m/1",
                "storage": str(self.storage),
                **changes,
            }
        )
        return evaluate_once(job, self._measure, self._record, SilentProgress())

    def _measure(self) -> EvaluationResult:
        self.measured += 1
        return EvaluationResult(
            {"number": self.measured, "rows": [1.5]}, {"quad": [0.5]}, "<p>é</p>"
        )

    def _record(self, found: EvaluationResultLike) -> RunRef:
        if self.away:
            raise MlflowWriteFailed("MLflow did not take the evaluation: away")
        self.sent.append(found)
        return REF


@pytest.fixture
def evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluation:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Evaluation(tmp_path)


def test_what_was_measured_is_sent_by_the_next_run(evaluation: Evaluation) -> None:
    evaluation.away = True
    with pytest.raises(MlflowWriteFailed):
        evaluation.run()
    evaluation.away = False
    found = evaluation.run()
    assert evaluation.measured == 1
    assert found == SavedEvaluation({"number": 1, "rows": [1.5]}, REF, found.report_uri)
    assert evaluation.sent == [
        EvaluationResult({"number": 1, "rows": [1.5]}, {"quad": [0.5]}, "<p>é</p>")
    ]
    assert not (evaluation.storage / "evaluations/judged" / PENDING_UPLOAD).exists()


def test_what_was_sent_is_measured_again(evaluation: Evaluation) -> None:
    evaluation.run()
    assert evaluation.run().summary["number"] == 2


def test_another_job_of_the_name_is_measured(evaluation: Evaluation) -> None:
    evaluation.away = True
    with pytest.raises(MlflowWriteFailed):
        evaluation.run()
    evaluation.away = False
    assert evaluation.run(model="models:/m/2").summary["number"] == 2


def test_a_server_that_is_away_is_told_before_anything_is_measured(evaluation: Evaluation) -> None:
    with pytest.raises(MlflowUnavailable) as caught:
        evaluation.run(track={"uri": "http://127.0.0.1:9"})
    assert isinstance(caught.value, RequestError)
    assert evaluation.measured == 0
