"""One trial: a training of ours, paused at each rung, scored, and continued from its checkpoint."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from orchestrator.errors import OrchestratorError
from orchestrator.evaluation.in_training.scheduler import EvaluationScheduler
from orchestrator.jepa.model_files import load_folder
from orchestrator.job import TrainJob, TuneJob, build_job
from orchestrator.job.loading.search_space import trial_job_data
from orchestrator.progress import SilentProgress
from orchestrator.storage import Storage
from orchestrator.tracking.mlflow_errors import MLFLOW_ERRORS, MlflowUnavailable, MlflowWriteFailed
from orchestrator.tracking.server import mlflow_client
from orchestrator.training.checkpoints.export import export_model
from orchestrator.training.checkpoints.manager import (
    checkpoint_name,
    checkpoint_step,
    list_complete_checkpoints,
)
from orchestrator.training.control.coordinator import ClusterLost
from orchestrator.training.control.signals import Stopped
from orchestrator.training.driver import run_train
from orchestrator.training.run_record import RunRecord, read_record
from orchestrator.tuning.slot_broker import TrialSlot
from orchestrator.tuning.trial_scoring import Holdout, load_holdout, score_trial
from orchestrator.tuning.trial_store import TrialRecord, TrialStore


@dataclass(frozen=True)
class Trial:
    """What a trial needs to know; everything else is in its run's folder and in the ledger."""

    job: TuneJob
    number: int
    folder: Storage
    """The sweep's."""

    cpus_per_worker: float
    """Cores that each worker reserves."""

    parent_run_id: str
    """The sweep's MLflow run."""

    local: bool = False

    slot: TrialSlot | None = None
    """Where it waits for room, beside other trials."""

    @cached_property
    def train(self) -> TrainJob:
        """The training of this trial's values."""
        entry = self.ledger.read(self.number)
        assert entry is not None, "the driver writes a trial down before it starts"
        job = build_job(trial_job_data(self.job, self.number, entry.point))
        assert isinstance(job, TrainJob)
        scale = job.scale.model_copy(update={"cpus": self.cpus_per_worker})
        return job.model_copy(update={"scale": scale})

    @cached_property
    def ledger(self) -> TrialStore:
        """The sweep's ledger."""
        return TrialStore(self.folder)

    @cached_property
    def run_folder(self) -> Storage:
        """The run's folder."""
        return Storage(self.train.storage).subfolder("runs", self.train.name)

    @cached_property
    def holdout(self) -> Holdout:
        """What it is judged on."""
        return load_holdout(self.job, self.train)

    def train_to_next_rung(self) -> TrialRecord:
        """Train to the next rung, score, and write it down.

        Raises:
            Stopped: the sweep ends, or a signal asked for it; what the trial had done is saved.
            ClusterLost: Ray went away.
        MlflowAway, NotRecorded: MLflow did; the trial goes on another time.
        """
        entry = self.ledger.read(self.number)
        assert entry is not None
        if entry.is_final:
            return entry
        began, legs = time.time(), list(entry.legs)
        try:
            steps = self.job.rungs[len(entry.rungs)]
            self._train_to(steps, legs)
            self._report_phase("is scored")
            row = self._scored(steps) | {"seconds": time.time() - began}
        except Stopped:
            self.ledger.write(replace(entry, legs=legs, run_id=self._run_id()))
            raise
        except (ClusterLost, MlflowUnavailable, MlflowWriteFailed):  # no fault of the trial's
            raise
        except OrchestratorError as error:
            entry = replace(entry, state="failed", error=str(error))
        else:
            state = entry.state
            if row["shut"]:
                state = "collapsed"
            elif steps == self.job.steps:
                state = "done"
            entry = replace(entry, state=state, rungs=[*entry.rungs, row])
        entry = replace(entry, legs=legs, run_id=self._run_id())
        self.ledger.write(entry)
        self._report_phase("")
        return entry

    def _train_to(self, steps: int, legs: list[dict[str, float]]) -> None:
        """Go on from the newest checkpoint; nothing is trained where it is there already.

        Adds to `legs` what it took.
        """
        if steps == self.job.steps:
            self._training_span(None, legs)
        elif self._latest_step() < steps:
            try:
                self._training_span(steps, legs)
            except Stopped:
                if self._latest_step() < steps:
                    raise

    def _training_span(self, until: int | None, legs: list[dict[str, float]]) -> None:
        gate = self.slot
        if gate is not None:
            gate.step, gate.span_times = self._latest_step(), {}
            gate.wait_for_nodes()
        try:
            run_train(
                self.train,
                gate or SilentProgress(),
                fresh=False,
                local=self.local,
                profile=False,
                open_evaluations=EvaluationScheduler,
                stop_after_step=until,
                parent_run_id=self.parent_run_id,
                slot=gate,
            )
        finally:
            if gate is not None and gate.span_times:
                legs.append(gate.span_times | self._first_step(gate.span_times["granted"]))

    def _first_step(self, granted: float) -> dict[str, float]:
        """When the first step after `granted` was done, by rank 0's clock."""
        if not self.run_folder.exists("workers.json"):
            return {}
        at = self.run_folder.read_json("workers.json")["first_step_at"]
        return {"first_step": at} if at > granted else {}

    def _report_phase(self, doing: str) -> None:
        if self.slot is not None:
            self.slot.report_phase(doing)

    def _latest_step(self) -> int:
        names = list_complete_checkpoints(self.run_folder.subfolder("checkpoints"))
        return checkpoint_step(names[-1]) if names else 0

    def _scored(self, steps: int) -> dict[str, Any]:
        torch.set_num_threads(max(1, int(self.cpus_per_worker)))
        with tempfile.TemporaryDirectory() as temporary:
            out = Path(temporary) / "model"
            export_model(
                self._resolved_job(),
                self.run_folder.subfolder("checkpoints"),
                checkpoint_name(steps),
                out,
            )
            found = score_trial(load_folder(out), self.job.gates, self.holdout)
        return {"steps": steps, "loss": self._loss(), **found}

    def _resolved_job(self) -> TrainJob:
        """The trial's job with what was read when its training began: a teacher, statistics."""
        record = self._record()
        known = self.train if record is None else build_job(record.job)
        assert isinstance(known, TrainJob)
        return known

    def _record(self) -> RunRecord | None:
        return read_record(self.run_folder)

    def _run_id(self) -> str:
        record = self._record()
        return record.mlflow_run_id if record else ""

    def _loss(self) -> float | None:
        """The newest training loss that MLflow has; it is shown, and ranks nothing."""
        record = self._record()
        if record is None:
            return None
        try:
            metrics = mlflow_client(record.mlflow_uri).get_run(record.mlflow_run_id).data.metrics
        except (MlflowUnavailable, *MLFLOW_ERRORS):
            return None
        loss: float | None = metrics.get("train/loss")
        return loss
