"""What came of the evaluations of a training: in its storage, each once, and then in MLflow."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from orchestrator.evaluation.in_training.queue import PendingEvaluation
from orchestrator.storage import Storage, with_retries
from orchestrator.tracking.results.evaluation import REPORT_FILE, SCORES_FILE, SUMMARY_FILE
from orchestrator.tracking.results.in_training import (
    link_metrics_to_checkpoint,
    record_checkpoint_evaluation,
)
from orchestrator.tracking.run import RunRef
from orchestrator.training.checkpoints.eval_exports import (
    EVALUATIONS_FOLDER,
    MODEL_FOLDER,
    RESULT_FILE,
    evaluation_folder,
    is_exported,
)
from orchestrator.training.checkpoints.manager import checkpoint_name, checkpoint_step

FILES = (REPORT_FILE, SUMMARY_FILE, SCORES_FILE)

OutcomeState = Literal["done", "failed", "skipped"]


@dataclass
class EvaluationOutcome:
    """What came of one evaluation of one checkpoint (`result.json`)."""

    state: OutcomeState
    at_ms: int
    """When it ended, ms since 1970: the time of its metrics, however often they are sent."""

    seconds: float
    """How long it took."""

    metrics: dict[str, float]
    """As MLflow has them; of a failed or skipped one, how many there are by now."""

    error: str = ""
    told: bool = False
    """MLflow has it."""

    linked: bool = False
    """The checkpoint's LoggedModel has it too."""


class EvaluationOutcomes:
    """The results of a run's evaluations, earlier launches' too."""

    def __init__(self, folder: Storage, evaluations: list[str]) -> None:
        self._folder = folder
        self._by_evaluation: dict[PendingEvaluation, EvaluationOutcome] = {}
        self.pending: list[PendingEvaluation] = []
        """Models that an earlier launch cut and did not judge, oldest first."""

        self._unlinked: list[PendingEvaluation] = []
        for evaluation in evaluations:
            for name in folder.folders(f"{EVALUATIONS_FOLDER}/{evaluation}"):
                self._load(PendingEvaluation(evaluation, checkpoint_step(name)))

    def _load(self, turn: PendingEvaluation) -> None:
        place = self.folder_of(turn)
        if place.exists(RESULT_FILE):
            self._remember(turn, EvaluationOutcome(**place.read_json(RESULT_FILE)))
        elif is_exported(place):
            self.pending.append(turn)

    def folder_of(self, turn: PendingEvaluation) -> Storage:
        """Where the turn's model and result are."""
        return evaluation_folder(self._folder, turn.evaluation, turn.step)

    def get(self, turn: PendingEvaluation) -> EvaluationOutcome | None:
        """What came of it, once something has."""
        return self._by_evaluation.get(turn)

    def count(self, evaluation: str, state: OutcomeState) -> int:
        """How many of an evaluation's turns ended so."""
        return sum(
            turn.evaluation == evaluation and result.state == state
            for turn, result in self._by_evaluation.items()
        )

    def write(
        self, turn: PendingEvaluation, result: EvaluationOutcome, files: Mapping[str, str]
    ) -> None:
        """Keep a result for good, and drop the model that it is about. The first one stays."""
        place = self.folder_of(turn)
        for name, text in files.items():
            with_retries(place.write_bytes, name, text.encode())
        text = json.dumps(asdict(result), indent=2)
        if not with_retries(place.write_if_absent, RESULT_FILE, text.encode()):
            result = EvaluationOutcome(**place.read_json(RESULT_FILE))
        self._remember(turn, result)
        with_retries(place.delete_tree, MODEL_FOLDER)

    def _remember(self, turn: PendingEvaluation, result: EvaluationOutcome) -> None:
        self._by_evaluation[turn] = result
        if result.state == "done" and not result.linked:
            self._unlinked.append(turn)

    @property
    def has_unsent(self) -> bool:
        """Whether MLflow lacks something."""
        return any(not result.told for result in self._by_evaluation.values())

    def send_to_mlflow(self, ref: RunRef) -> None:
        """MLflow gets what it has not got.

        Raises:
            MlflowException: the server is away, or refuses.
            OSError: its artifact store does, or the run's own storage.
        """
        for turn, result in self._by_evaluation.items():
            if result.told:
                continue
            place = self.folder_of(turn)
            files = FILES if result.state == "done" else ()
            texts = {name: place.read_bytes(name).decode() for name in files}
            path = f"{turn.evaluation}/{checkpoint_name(turn.step)}"
            record_checkpoint_evaluation(ref, path, turn.step, result.at_ms, result.metrics, texts)
            result.told = True
            place.write_json(RESULT_FILE, asdict(result))

    def link_to_logged_models(self, ref: RunRef, existing_steps: Collection[int]) -> None:
        """The LoggedModels of checkpoints get what was found of them, as far as they are there.

        Those of checkpoints that do not stand any more are not waited for.

        Raises:
            MlflowException: the server is away, or refuses.
        """
        for turn in list(self._unlinked):
            result = self._by_evaluation[turn]
            result.linked = link_metrics_to_checkpoint(ref, turn.step, result.at_ms, result.metrics)
            if result.linked:
                self.folder_of(turn).write_json(RESULT_FILE, asdict(result))
            if result.linked or turn.step not in existing_steps:
                self._unlinked.remove(turn)
