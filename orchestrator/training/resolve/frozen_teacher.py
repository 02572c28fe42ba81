"""A teacher that stays as it is (`objective.kind: frozen`, `vjepa2ac`): found, kept, loaded.

Codes that are found in the data (`dynamics`, `training/resolve/pca.py`) are kept and loaded
alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from orchestrator.errors import DataError, JobFailed, RequestError
from orchestrator.jepa.model_files import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    WorldModel,
    load_folder,
    weights_digest,
)
from orchestrator.job import Model, TrainJob
from orchestrator.job.config.base import CustomComponent
from orchestrator.job.config.objective_base import PretrainedTeacherObjective
from orchestrator.storage import Storage, with_retries
from orchestrator.tracking.model_uri import model_folder
from orchestrator.tracking.server import tracking_uri

TEACHER_FOLDER = "teacher"


def resolve_teacher(job: TrainJob, storage: Storage) -> TrainJob:
    """The job with its teacher's shape and digest written in, so that they are part of its
    identity; a job without a frozen teacher as it is.

    Raises:
        RequestError: there is no such teacher, its tokens are not those of the job, or it is
            not the one that the job describes.
        DataError: its folder is damaged.
    """
    config = job.objective_config.pretrained_teacher
    if config is None:
        return job
    with _teacher_folder(config, job, storage) as folder:
        model, digest = load_folder(folder), weights_digest(folder)
    _check_token_grid(config, model, job)
    found = model.config.model.encoder
    if config.encoder is not None and config.encoder != found:
        raise RequestError(
            f"the teacher '{config.teacher}' has another encoder than the job says",
            where="objective.encoder",
            hint=f"write {found.model_dump(exclude={'kind'})}, leave it out, or name another one",
        )
    if config.digest is not None and config.digest != digest:
        raise RequestError(
            f"the teacher '{config.teacher}' has the digest {digest}, the job asks for"
            f" {config.digest}",
            where="objective.digest",
            hint="name the teacher that was meant, or leave the digest out",
        )
    known = job.objective.model_copy(update={"encoder": found, "digest": digest})
    update: dict[str, Any] = {"objective": known}
    if not config.trains_encoder:
        update["model"] = _with_teacher_encoder(model.config.model, job)
    return job.model_copy(update=update)


def _with_teacher_encoder(theirs: Model, job: TrainJob) -> Model:
    """The job's model, whose encoder is the teacher.

    Raises:
        RequestError: the job describes another encoder.
    """
    for key in ("encoder", "rope", "levels"):
        own, found = getattr(job.model, key), getattr(theirs, key)
        if key in job.model.model_fields_set and own != found:
            raise RequestError(
                f"the model's encoder is the teacher, and the job describes another (model.{key})",
                where=f"model.{key}",
                hint="leave it out, or name another teacher",
            )
    update = {key: getattr(theirs, key) for key in ("encoder", "rope", "levels")}
    return job.model.model_copy(update=update)


def materialize_teacher(job: TrainJob, storage: Storage, folder: Storage) -> None:
    """Copy the teacher to `runs/NAME/teacher`, where every node and every later launch reads it.

    Raises:
        JobFailed: it has changed since `resolve_teacher` looked at it.
    """
    config, kept = job.objective_config.pretrained_teacher, folder.subfolder(TEACHER_FOLDER)
    if config is None or kept.exists(CONFIG_FILE):
        return
    with _teacher_folder(config, job, storage) as source:
        if weights_digest(source) != config.digest:
            raise JobFailed(
                f"the teacher '{config.teacher}' changed while it was read",
                where=job.name,
                hint="run it again",
            )
        copy_model_folder(source, kept)


def copy_model_folder(source: Path, place: Storage) -> None:
    """Copy a model's folder, its config last: a folder with one is whole."""
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        place.write_bytes(name, (source / name).read_bytes())


@contextmanager
def local_copy(place: Storage) -> Iterator[Path]:
    """A kept folder on this disk, for as long as it is looked at."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            (folder / name).write_bytes(with_retries(place.read_bytes, name))
        yield folder


def load_teacher(job: TrainJob, folder: Storage) -> nn.Module | None:
    """The kept teacher's encoder in float32 on the CPU; None where the job has no such teacher.

    Raises:
        DataError: its files are damaged, or are not those that the run began with.
    """
    config, kept = job.objective_config, folder.subfolder(TEACHER_FOLDER)
    if config.teacher_type not in ("frozen", "fitted"):
        return None
    with local_copy(kept) as place:
        if weights_digest(place) != config.teacher_digest:
            raise DataError(
                "the teacher's weights are not those that the run began with",
                where=kept.uri(WEIGHTS_FILE),
                hint="remove this folder, so that the teacher is copied again",
            )
        return load_folder(place).encoder


def _check_token_grid(config: PretrainedTeacherObjective, model: WorldModel, job: TrainJob) -> None:
    made = model.config
    theirs, ours = made.model, job.model
    if made.objective_config_class.one_token_per_timestep:
        text, mend = "its tokens are whole moments", "choose a teacher whose tokens are patches"
    elif (theirs.patch, theirs.tubelet) != (ours.patch, ours.tubelet):
        text = (
            f"its tokens are patches of {theirs.patch} pixels and {theirs.tubelet} frames, the"
            f" job's {ours.patch} and {ours.tubelet}"
        )
        mend = f"set model.patch={theirs.patch} model.tubelet={theirs.tubelet}"
    elif isinstance(theirs.encoder, CustomComponent) and len(job.data.buckets) > 1:
        text = "its encoder is somebody's own, built for clips of one shape, and data has several"
        mend = "give all sources the frames and size of data, or name another teacher"
    elif config.encodes_single_frames and made.size != job.data.size:
        side, own = made.size // theirs.patch, job.grid[1]
        text = (
            f"its frames are {side} x {side} patches ({made.size} pixels), the job's {own} x {own}"
            f" ({job.data.size})"
        )
        mend = f"set data.size={made.size}"
    else:
        return
    raise RequestError(
        f"'{config.teacher}' cannot teach this job: {text}", where="objective.teacher", hint=mend
    )


@contextmanager
def _teacher_folder(
    config: PretrainedTeacherObjective, job: TrainJob, storage: Storage
) -> Iterator[Path]:
    """Its folder; one on this disk is found without MLflow."""
    named = config.teacher.startswith(("models:/", "runs:/"))
    server = tracking_uri(job.track.uri, storage) if named else None
    with model_folder(config.teacher, tracking_uri=server) as folder:
        yield folder
