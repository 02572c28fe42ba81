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
from orchestrator.evaluation.during import Evaluations
from orchestrator.jepa.hub import load_folder
from orchestrator.job import TrainJob, TuneJob, build_job
from orchestrator.job.space import trial_data
from orchestrator.progress import Silent
from orchestrator.storage import Storage
from orchestrator.tracking.server import client_of
from orchestrator.training.board import ClusterLost
from orchestrator.training.checkpoint import complete_checkpoints, folder_name, step_of
from orchestrator.training.driver import Stopped, run_train
from orchestrator.training.export import export_model
from orchestrator.training.run_record import RunRecord, read_record
from orchestrator.tuning.ledger import Entry, Ledger
from orchestrator.tuning.scoring import HeldOut, held_out, score


@dataclass(frozen=True)
class Trial:
    """What a trial needs to know; everything else is in its run's folder and in the ledger."""

    job: TuneJob
    number: int
    folder: Storage
    """The sweep's."""

    cpus: float
    """Cores that each worker reserves."""

    parent: str
    """The sweep's MLflow run."""

    local: bool = False

    @cached_property
    def train(self) -> TrainJob:
        """The training of this trial's values."""
        entry = self.ledger.read(self.number)
        assert entry is not None, "the driver writes a trial down before it starts"
        job = build_job(trial_data(self.job, self.number, entry.point))
        assert isinstance(job, TrainJob)
        scale = job.scale.model_copy(update={"cpus": self.cpus})
        return job.model_copy(update={"scale": scale})

    @cached_property
    def ledger(self) -> Ledger:
        """The sweep's ledger."""
        return Ledger(self.folder)

    @cached_property
    def run(self) -> Storage:
        """The run's folder."""
        return Storage(self.train.storage).sub("runs", self.train.name)

    @cached_property
    def videos(self) -> HeldOut:
        """What it is judged on."""
        return held_out(self.job, self.train)

    def advance(self) -> Entry:
        """Train to the next rung, score, and write it down.

        Raises:
            Stopped: a signal ended it before the rung; what it had done is saved.
            ClusterLost: Ray went away.
        """
        entry = self.ledger.read(self.number)
        assert entry is not None
        if entry.final:
            return entry
        began = time.time()
        try:
            steps = self.job.rungs[len(entry.rungs)]
            self._train_to(steps)
            row = self._scored(steps) | {"seconds": time.time() - began}
        except (Stopped, ClusterLost):
            raise
        except OrchestratorError as error:
            entry = replace(entry, state="failed", error=str(error), run_id=self._run_id())
        else:
            rungs = [*entry.rungs, row]
            state = entry.state
            if row["shut"]:
                state = "collapsed"
            elif steps == self.job.budget:
                state = "done"
            entry = replace(entry, state=state, rungs=rungs, run_id=self._run_id())
        self.ledger.write(entry)
        return entry

    def _train_to(self, steps: int) -> None:
        """Go on from the newest checkpoint; nothing is trained where it is there already."""
        if steps == self.job.budget:
            self._leg(None)
        elif self._newest() < steps:
            try:
                self._leg(steps)
            except Stopped:
                if self._newest() < steps:
                    raise

    def _leg(self, until: int | None) -> None:
        run_train(
            self.train,
            Silent(),
            fresh=False,
            local=self.local,
            profile=False,
            open_evaluations=Evaluations,
            until=until,
            parent=self.parent,
        )

    def _newest(self) -> int:
        names = complete_checkpoints(self.run.sub("checkpoints"))
        return step_of(names[-1]) if names else 0

    def _scored(self, steps: int) -> dict[str, Any]:
        torch.set_num_threads(max(1, int(self.cpus)))
        with tempfile.TemporaryDirectory() as temporary:
            out = Path(temporary) / "model"
            export_model(self.train, self.run.sub("checkpoints"), folder_name(steps), out)
            found = score(load_folder(out), self.job.gates, self.videos)
        return {"steps": steps, "loss": self._loss(), **found}

    def _record(self) -> RunRecord | None:
        return read_record(self.run)

    def _run_id(self) -> str:
        record = self._record()
        return record.mlflow_run_id if record else ""

    def _loss(self) -> float | None:
        """The newest training loss that MLflow has; it is shown, and ranks nothing."""
        record = self._record()
        if record is None:
            return None
        metrics = client_of(record.mlflow_uri).get_run(record.mlflow_run_id).data.metrics
        loss: float | None = metrics.get("train/loss")
        return loss
