"""`model.from`: the weights that a training begins with, kept beside its checkpoints."""

from __future__ import annotations

from orchestrator.errors import RequestError
from orchestrator.jepa.model_files import CONFIG, check_start, load_start
from orchestrator.jepa.objectives import Objective
from orchestrator.job import TrainJob
from orchestrator.storage import Storage
from orchestrator.tracking.model_uri import model_folder
from orchestrator.tracking.server import tracking_uri
from orchestrator.training.resolve.frozen_teacher import fetched, keep_folder
from orchestrator.training.run_record import RunRecord

FOLDER = "start"


def keep_start(
    job: TrainJob, storage: Storage, folder: Storage, record: RunRecord
) -> Storage | None:
    """Copy the model that the job starts from to `runs/NAME/start`, at the run's first launch.

    An alias may point at another model when the run is continued, and every node reads it there.
    None: the job starts from random weights.

    Raises:
        RequestError: there is no such model, or its weights do not fit the job's.
        DataError: its folder is damaged.
    """
    if job.model.start is None:
        return None
    start = folder.sub(FOLDER)
    if record.launches > 0 and start.exists(CONFIG):
        return start
    if record.launches > 0:
        raise RequestError(
            f"'{job.name}' began without the weights of model.from, which was not obeyed then",
            where=folder.root,
            mend="choose another name, or start again under this one with --fresh",
        )
    with model_folder(job.model.start, tracking=looked_up_at(job, storage)) as source:
        check_start(job, source)
        keep_folder(source, start)
    return start


def begin_with(objective: Objective, start: Storage) -> None:
    """Put the kept weights into the objective of rank 0, from which every rank gets them."""
    with fetched(start) as folder:
        load_start(objective, folder)


def looked_up_at(job: TrainJob, storage: Storage) -> str | None:
    """Where the model is looked up; a folder is found without MLflow."""
    named = str(job.model.start).startswith(("models:/", "runs:/"))
    return tracking_uri(job.track.uri, storage) if named else None
