"""Models cut from checkpoints, to be judged while training goes on.

    runs/NAME/evaluations/EVALUATION/step-00000500/model/        until it is judged
    runs/NAME/evaluations/EVALUATION/step-00000500/result.json   what came of it, once

A checkpoint of which a model is wanted is not dropped before one of the two is there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.jepa.model_files import CONFIG_FILE
from orchestrator.job import TrainJob
from orchestrator.storage import Storage, with_retries
from orchestrator.training.checkpoints.export import export_model
from orchestrator.training.checkpoints.manager import checkpoint_name, checkpoint_step

EVALUATIONS_FOLDER = "evaluations"
MODEL_FOLDER = "model"
RESULT_FILE = "result.json"


def evaluation_folder(folder: Storage, evaluation: str, step: int) -> Storage:
    """What an evaluation keeps of one step of the run in `folder`."""
    return folder.subfolder(EVALUATIONS_FOLDER, evaluation, checkpoint_name(step))


def is_exported(folder: Storage) -> bool:
    """Whether the whole model is there."""
    return folder.exists(f"{MODEL_FOLDER}/{CONFIG_FILE}")


class PendingEvaluationGuard:
    """Asked by a checkpoint's name: does an evaluation still need it?"""

    def __init__(self, job: TrainJob, folder: Storage) -> None:
        self._job, self._folder = job, folder
        self._handled: set[tuple[str, int]] = set()

    def __call__(self, name: str) -> bool:
        step, last = checkpoint_step(name), self._job.optim.steps
        due = [one.job.name for one in self._job.evaluate if one.is_due(step, last)]
        return not all(self._is_handled(evaluation, step) for evaluation in due)

    def _is_handled(self, evaluation: str, step: int) -> bool:
        if (evaluation, step) not in self._handled:
            place = evaluation_folder(self._folder, evaluation, step)
            if not (is_exported(place) or place.exists(RESULT_FILE)):
                return False
            self._handled.add((evaluation, step))
        return True


def export_for_evaluation(job: TrainJob, checkpoints: Storage, name: str, target: Storage) -> None:
    """Write the model of checkpoint `name` into `target`; its config comes last.

    Raises:
        DataError: the checkpoint is damaged, or not there any more.
    """
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / MODEL_FOLDER
        export_model(job, checkpoints, name, out)
        for file in sorted(out.iterdir(), key=lambda file: file.name == CONFIG_FILE):
            with_retries(target.write_bytes, f"{MODEL_FOLDER}/{file.name}", file.read_bytes())


@contextmanager
def exported_model_folder(folder: Storage) -> Iterator[Path]:
    """The folder of a model that was cut, on this machine for as long as the context lasts."""
    if not folder.is_remote:
        yield Path(folder.uri(MODEL_FOLDER))
        return
    with tempfile.TemporaryDirectory() as temporary:
        for entry in folder.files(MODEL_FOLDER):
            file = Path(temporary) / Path(entry.path).name
            file.write_bytes(with_retries(folder.read_bytes, entry.path))
        yield Path(temporary)
