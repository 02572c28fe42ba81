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

from orchestrator.jepa.model_files import CONFIG
from orchestrator.job import TrainJob
from orchestrator.storage import Storage, patiently
from orchestrator.training.checkpoints.export import export_model
from orchestrator.training.checkpoints.manager import folder_name, step_of

FOLDER = "evaluations"
MODEL = "model"
RESULT = "result.json"


def folder_of(folder: Storage, evaluation: str, step: int) -> Storage:
    """What an evaluation keeps of one step of the run in `folder`."""
    return folder.sub(FOLDER, evaluation, folder_name(step))


def is_cut(place: Storage) -> bool:
    """Whether the whole model is there."""
    return place.exists(f"{MODEL}/{CONFIG}")


class Unread:
    """Asked by a checkpoint's name: does an evaluation still need it?"""

    def __init__(self, job: TrainJob, folder: Storage) -> None:
        self._job, self._folder = job, folder
        self._read: set[tuple[str, int]] = set()

    def __call__(self, name: str) -> bool:
        step, last = step_of(name), self._job.optim.steps
        due = [one.job.name for one in self._job.evaluate if one.due_after(step, last)]
        return not all(self._is_read(evaluation, step) for evaluation in due)

    def _is_read(self, evaluation: str, step: int) -> bool:
        if (evaluation, step) not in self._read:
            place = folder_of(self._folder, evaluation, step)
            if not (is_cut(place) or place.exists(RESULT)):
                return False
            self._read.add((evaluation, step))
        return True


def cut(job: TrainJob, checkpoints: Storage, name: str, place: Storage) -> None:
    """Write the model of checkpoint `name` into `place`; its config comes last.

    Raises:
        DataError: the checkpoint is damaged, or not there any more.
    """
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / MODEL
        export_model(job, checkpoints, name, out)
        for file in sorted(out.iterdir(), key=lambda file: file.name == CONFIG):
            patiently(place.write_bytes, f"{MODEL}/{file.name}", file.read_bytes())


@contextmanager
def cut_model(place: Storage) -> Iterator[Path]:
    """The folder of a model that was cut, on this machine for as long as the context lasts."""
    if not place.remote:
        yield Path(place.uri(MODEL))
        return
    with tempfile.TemporaryDirectory() as temporary:
        for entry in place.files(MODEL):
            file = Path(temporary) / Path(entry.path).name
            file.write_bytes(patiently(place.read_bytes, entry.path))
        yield Path(temporary)
