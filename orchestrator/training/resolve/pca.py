"""Codes of the data (`model.encoder: {kind: codes}`): found before the first step, kept, given.

They are kept among the datasets, by what decides them, so that the trials of a sweep find them; a
run has its own copy, as of a frozen teacher (`orchestrator.training.resolve.frozen_teacher`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from orchestrator.data.loader.clip_decoder import (
    InProcessDecoder,
    TrainDecodeConfig,
    rows_to_encoded_clips,
)
from orchestrator.data.loader.order import Order
from orchestrator.data.packing.prepare import PreparedData
from orchestrator.data.store.clip_reader import ClipLocations, ClipReader
from orchestrator.errors import JobFailed, RequestError
from orchestrator.jepa.encoders.pca import PCAPatchEncoder
from orchestrator.jepa.encoders.vision_transformer import build_encoder
from orchestrator.jepa.model_files import (
    CONFIG_FILE,
    ModelConfig,
    check_initial_weights,
    load_folder,
    weights_digest,
    write_model,
)
from orchestrator.jepa.pixel_normalization import normalise
from orchestrator.job import PCAEncoderConfig, TrainJob, identity, job_dict
from orchestrator.progress import Progress, SilentProgress
from orchestrator.storage import Storage
from orchestrator.tracking.model_uri import model_folder
from orchestrator.training.resolve.frozen_teacher import (
    TEACHER_FOLDER,
    copy_model_folder,
    local_copy,
)
from orchestrator.training.resolve.initial_model import tracking_uri_for_model
from orchestrator.training.run_record import RunRecord

_DECIDING = ("seed", "data.", "model.encoder", "model.patch", "model.tubelet")
"""Keys of a job that decide which codes are found."""

CLIPS_PER_BATCH = 16
"""Clips that are read and decoded together."""


def resolve_pca(
    job: TrainJob,
    prepared: PreparedData,
    storage: Storage,
    progress: Progress,
    *,
    existing_record: RunRecord | None,
) -> TrainJob:
    """The job with its codes' digest written in, so that they are part of its identity; a job that
    needs none as it is. A run that goes on keeps those that it began with.

    Raises:
        RequestError: the job asks for others than are found, or begins with a model without codes.
        JobFailed: no clip can be decoded.
    """
    config = job.objective_config
    if config.teacher_type != "fitted":
        return job
    digest = (
        (existing_record.job.get("objective") or {}) if existing_record is not None else {}
    ).get("digest")
    if digest is None:
        with local_copy(_pca_folder(job, prepared, storage, progress)) as folder:
            digest = weights_digest(folder)
    if config.teacher_digest not in (None, digest):
        raise RequestError(
            f"the codes have the digest {digest}, the job asks for {config.teacher_digest}",
            where="objective.digest",
            hint="leave it out, or name the data (and model.from) that they were found in",
        )
    return job.model_copy(update={"objective": job.objective.model_copy(update={"digest": digest})})


def materialize_pca(
    job: TrainJob, prepared: PreparedData, storage: Storage, folder: Storage
) -> None:
    """Copy the codes to `runs/NAME/teacher`, where every node and every later launch reads them.

    Raises:
        JobFailed: those that are found now are not those of the job.
    """
    kept, config = folder.subfolder(TEACHER_FOLDER), job.objective_config
    if config.teacher_type != "fitted" or kept.exists(CONFIG_FILE):
        return
    with local_copy(_pca_folder(job, prepared, storage, SilentProgress())) as source:
        if weights_digest(source) != config.teacher_digest:
            raise JobFailed(
                f"the codes that are found are not those of the job ({config.teacher_digest})",
                where=job.name,
                hint="start again with --fresh",
            )
        copy_model_folder(source, kept)


def _pca_folder(
    job: TrainJob, prepared: PreparedData, storage: Storage, progress: Progress
) -> Storage:
    """Where a job's codes are: those of the model that it begins with, or found in its data."""
    datasets = storage.subfolder("datasets")
    if job.model.start is not None:
        with model_folder(
            job.model.start, tracking_uri=tracking_uri_for_model(job, storage)
        ) as source:
            check_initial_weights(job, source)
            place = datasets.subfolder(f"codes-{weights_digest(source)}")
            if not place.exists(CONFIG_FILE):
                encoder = load_folder(source).encoder
                assert isinstance(encoder, PCAPatchEncoder)
                _write_pca_model(encoder, job, place)
        return place
    place = datasets.subfolder(f"codes-{_pca_key(job, prepared)}")
    if not place.exists(CONFIG_FILE):
        encoder = fit_pca(job, prepared, progress)
        _write_pca_model(encoder, job, place)
    return place


def fit_pca(job: TrainJob, prepared: PreparedData, progress: Progress) -> PCAPatchEncoder:
    """The principal components of some of the clips that the job will train on.

    Raises:
        JobFailed: none of them can be decoded.
    """
    encoder = build_encoder(job.model, size=job.data.size, frames=job.data.frames)
    assert isinstance(encoder, PCAPatchEncoder)
    share = encoder.fit(_sample_clips(job, prepared))
    progress.message(
        f"codes of {encoder.dim} numbers a patch hold {100 * share:.2f}% of its variance"
    )
    return encoder


def _sample_clips(job: TrainJob, prepared: PreparedData) -> Iterator[Tensor]:
    """Clips from the first to the last position of the training, as it will see them."""
    config, indexes = job.model.encoder, prepared.indexes
    assert isinstance(config, PCAEncoderConfig)
    order = Order.from_job(job, [index.clips_per_shard for index in indexes], prepared.weights)
    reader = ClipReader(indexes, job.data.window + 2)
    maker = InProcessDecoder(TrainDecodeConfig.from_job(job), CLIPS_PER_BATCH)
    last = job.optim.steps * job.scale.global_batch - 1
    positions = np.unique(np.linspace(0, last, config.clips).astype(np.int64))
    reason: str | None = None
    found = False
    for at in range(0, len(positions), CLIPS_PER_BATCH):
        rows = rows_to_encoded_clips(
            reader.read(ClipLocations.from_order(order, positions[at : at + CLIPS_PER_BATCH]))
        )
        canvas = maker.new_buffer()
        clips = maker.decode(rows, canvas, 0)
        good = [i for i, clip in enumerate(clips) if clip.reason is None]
        reason = next((clip.reason for clip in clips if clip.reason is not None), reason)
        if good:
            found = True
            yield normalise(torch.from_numpy(canvas.array[good]), torch.float32)
    if not found:
        raise JobFailed(
            f"no clip can be decoded to find codes in: {reason}",
            where=", ".join(index.uri for index in indexes),
            hint="orchestrator data verify lists what is wrong",
        )


def _pca_key(job: TrainJob, prepared: PreparedData) -> str:
    """Of what decides the codes, 16 hex digits."""
    what = [
        prepared.digest,
        prepared.weights,
        job.optim.steps * job.scale.global_batch,
        {key: value for key, value in identity(job).items() if key.startswith(_DECIDING)},
    ]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def _write_pca_model(encoder: PCAPatchEncoder, job: TrainJob, place: Storage) -> None:
    config = ModelConfig(
        model=job.model.model_copy(update={"start": None}),
        size=job.data.size,
        frames=job.data.frames,
        objective="codes",
        job=job_dict(job),
        extra={},
    )
    state = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "codes"
        write_model(folder, state, config)
        copy_model_folder(folder, place)
