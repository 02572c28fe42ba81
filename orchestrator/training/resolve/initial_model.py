"""`model.from`: the weights that a training begins with, kept beside its checkpoints."""

from __future__ import annotations

from orchestrator.errors import RequestError
from orchestrator.jepa.model_files import CONFIG_FILE, check_initial_weights, load_weights_into
from orchestrator.jepa.objectives import Objective
from orchestrator.job import TrainJob
from orchestrator.storage import Storage
from orchestrator.tracking.model_uri import model_folder
from orchestrator.tracking.server import tracking_uri
from orchestrator.training.resolve.frozen_teacher import copy_model_folder, local_copy
from orchestrator.training.run_record import RunRecord

INITIAL_MODEL_FOLDER = "start"


def materialize_initial_model(
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
    start = folder.subfolder(INITIAL_MODEL_FOLDER)
    if record.launches > 0 and start.exists(CONFIG_FILE):
        return start
    if record.launches > 0:
        raise RequestError(
            f"'{job.name}' began without the weights of model.from, which was not obeyed then",
            where=folder.root,
            hint="choose another name, or start again under this one with --fresh",
        )
    with model_folder(job.model.start, tracking_uri=tracking_uri_for_model(job, storage)) as source:
        check_initial_weights(job, source)
        copy_model_folder(source, start)
    return start


def load_initial_weights(objective: Objective, initial_model: Storage) -> None:
    """Put the kept weights into the objective of rank 0, from which every rank gets them."""
    with local_copy(initial_model) as folder:
        load_weights_into(objective, folder)


def tracking_uri_for_model(job: TrainJob, storage: Storage) -> str | None:
    """Where the model is looked up; a folder is found without MLflow."""
    named = str(job.model.start).startswith(("models:/", "runs:/"))
    return tracking_uri(job.track.uri, storage) if named else None
