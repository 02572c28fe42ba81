"""Small trainings in this process, with clips in memory: what benches of sweeps are made of.

The engine, masks, schedule and model are those of a run. Clips are made once and used again, so
that a step costs its arithmetic and no decoding; nothing is saved, and MLflow hears nothing.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from orchestrator.data.loader.action_data import ClipActions, required_arrays
from orchestrator.data.loader.batch import Batch
from orchestrator.data.loader.batch_assembler import stack_actions
from orchestrator.data.loader.clip_decoder import TrainDecodeConfig, rows_to_encoded_clips
from orchestrator.data.loader.order import Order
from orchestrator.data.packing.prepare import prepare_data
from orchestrator.data.store.clip_reader import ClipLocations, ClipReader
from orchestrator.errors import RequestError
from orchestrator.estimate import BatchSizes
from orchestrator.jepa.masks import build_mask_samplers
from orchestrator.jepa.model_files import WorldModel, load_folder, save_model
from orchestrator.jepa.objectives import build_objective
from orchestrator.job import (
    Actions,
    TrainJob,
    TuneJob,
    build_job,
    differences,
    identity,
    require_single_clip_spec,
)
from orchestrator.job.loading.search_space import Point, trial_job_data
from orchestrator.progress import Progress
from orchestrator.randomness import generator
from orchestrator.training.distributed import local_context
from orchestrator.training.engine.engine import Engine
from orchestrator.training.resolve.actions import resolve_actions
from orchestrator.tuning.trial_scoring import Holdout, load_holdout

DECODE_BATCH = 64
NUM_CLIPS = 800
"""Clips of a training, used again and again."""

LOSS_WINDOW = 20
"""Steps whose mean loss is told."""


def require_same_job(out: Path | None, job: TuneJob) -> None:
    """What a folder holds must be of this job; the number of trials may differ.

    Raises:
        RequestError: it is of another.
    """
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    mine = {key: value for key, value in identity(job).items() if key != "trials"}
    mine = json.loads(json.dumps(mine))
    file = out / "job.json"
    if not file.exists():
        file.write_text(json.dumps(mine))
    changed = differences(json.loads(file.read_text()), mine)
    if changed:
        raise RequestError(
            f"results of another job are kept here: {changed[0]}",
            where=str(out),
            hint="name another folder",
        )


def cached_result(
    out: Path | None, name: str, make: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What `make` gives; kept as `out/NAME.json`, and not made again where that is there."""
    if out is None:
        return make()
    file = out / f"{name}.json"
    if not file.exists():
        found = make()
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(found))
        partial.replace(file)
    known: dict[str, Any] = json.loads(file.read_text())
    return known


@dataclass(frozen=True)
class RungResult:
    """A training at a rung."""

    steps: int
    loss: float
    model: WorldModel


@dataclass(frozen=True)
class ClipsInMemory:
    """Clips of a job's first positions."""

    video: np.ndarray
    """uint8 [count, T, size, size, 3]."""

    action_config: Actions | None
    """The job's `data.actions`, completed from the data."""

    clip_actions: list[ClipActions]
    """What was done in each; none where the job does not ask."""


def load_clips(job: TrainJob, count: int, progress: Progress) -> ClipsInMemory:
    """The clips of the job's first `count` positions, those that fail left out.

    Raises:
        As `prepare_data`, and as `resolve_actions`; a mixture of several kinds of clips.
    """
    prepared = prepare_data(require_single_clip_spec(job, "this bench"), progress, local=True)
    job = resolve_actions(job, prepared, progress, local=True)
    counts = [index.clips_per_shard for index in prepared.indexes]
    order = Order.from_job(job, counts, prepared.weights)
    reader = ClipReader(prepared.indexes, 2 * job.data.window, required_arrays(job.data))
    maker, made = TrainDecodeConfig.from_job(job).build_decoder(DECODE_BATCH), []
    moved: list[ClipActions] = []
    for first in range(0, count, DECODE_BATCH):
        positions = np.arange(first, min(first + DECODE_BATCH, count))
        rows = rows_to_encoded_clips(reader.read(ClipLocations.from_order(order, positions)))
        canvas = maker.new_buffer()
        clips = maker.decode(rows, canvas, 0)
        made.append(canvas.array[: len(rows)][[clip.reason is None for clip in clips]])
        moved += [clip.actions for clip in clips if clip.actions and clip.reason is None]
    return ClipsInMemory(np.concatenate(made), job.data.actions, moved)


def train_in_process(
    job: TrainJob, clips: ClipsInMemory, rungs: Sequence[int], model_dir: Path | None = None
) -> Iterator[RungResult]:
    """Train with one process; pauses at each rung, and goes on when asked for the next.

    Args:
        rungs: steps, rising. The schedule is that of the job's own `optim.steps`.
        model_dir: folder that the models of the rungs are kept in; None: nowhere.
    """
    alone = {"workers": 1, "micro_batch": job.scale.global_batch, "zero": 0, "offload": False}
    data = job.data.model_copy(update={"actions": clips.action_config})
    job = job.model_copy(update={"scale": job.scale.model_copy(update=alone), "data": data})
    torch.manual_seed(job.seed)
    device = local_context(job.scale.device).device
    engine = Engine(build_objective(job), job, BatchSizes.from_scale(job.scale, 1), device)
    losses: list[float] = []
    for rung in rungs:
        while engine.step < rung:
            losses.append(engine.train_step([_batch(job, clips, engine.step)]).loss)
        with tempfile.TemporaryDirectory() as temporary:
            folder = (model_dir or Path(temporary)) / f"step-{rung}"
            followed = engine.ema_teacher.module if engine.ema_teacher is not None else None
            save_model(folder, engine.objective, followed, job, {})
            model = load_folder(folder)
        yield RungResult(rung, float(np.mean(losses[-LOSS_WINDOW:])), model)


def _batch(job: TrainJob, clips: ClipsInMemory, step: int) -> Batch:
    rows = job.scale.global_batch
    positions = np.arange(step * rows, (step + 1) * rows)
    masks = []
    for part, sampler in enumerate(build_mask_samplers(job)):
        drawn = [sampler(generator(job.seed, int(at), "masks", part)) for at in positions]
        context, target = (np.stack(side) for side in zip(*drawn, strict=True))
        masks.append((torch.from_numpy(context), torch.from_numpy(target)))
    at = positions % len(clips.video)
    video = torch.from_numpy(clips.video[at])
    motion = stack_actions(
        [clips.clip_actions[i] for i in at.tolist()] if clips.clip_actions else []
    )
    names = [""] * rows
    return Batch(video, torch.ones(rows), positions, masks, names, names, [], motion)


class TrialTrainer:
    """Trains and scores points of a job's space; what they share is made once."""

    def __init__(self, job: TuneJob, progress: Progress) -> None:
        self.job, self._progress = job, progress
        self._clips: dict[str, ClipsInMemory] = {}
        self._held: dict[str, Holdout] = {}

    def train_job(self, number: int, point: Point) -> TrainJob:
        """A trial's train job; all have the first one's seed, as trials of a sweep do."""
        job = build_job(trial_job_data(self.job, number, point))
        assert isinstance(job, TrainJob)
        return job

    def clips(self, train: TrainJob) -> ClipsInMemory:
        """What it is trained on."""
        key = f"{train.seed} {train.data.model_dump_json()}"
        if key not in self._clips:
            self._clips = {key: load_clips(train, NUM_CLIPS, self._progress)}
        return self._clips[key]

    def holdout(self, train: TrainJob) -> Holdout:
        """What it is judged on."""
        key = f"{train.data.model_dump_json()} {train.model.tubelet}"
        if key not in self._held:
            self._held = {key: load_holdout(self.job, train)}
        return self._held[key]
