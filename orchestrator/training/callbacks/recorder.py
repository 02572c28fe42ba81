"""What MLflow and the terminal learn of a training: metrics, pictures, checkpoints, progress."""

from __future__ import annotations

import math
import re
import time
from typing import TYPE_CHECKING, Any

import torch

from orchestrator.data.loader.batch import StepBatch
from orchestrator.estimate import estimate_job, peak_flops
from orchestrator.jepa import visualization as pictures
from orchestrator.jepa.pixel_normalization import normalise
from orchestrator.job import TrainJob
from orchestrator.tracking.live.run_logger import RunLogger
from orchestrator.tracking.live.spool import Spool
from orchestrator.tracking.run import RunRef
from orchestrator.training import health
from orchestrator.training.callbacks.base import Callback, CheckpointPart
from orchestrator.training.checkpoints.manager import checkpoint_step
from orchestrator.training.distributed import DistributedContext
from orchestrator.training.engine.engine import Engine
from orchestrator.training.engine.step import StepResult
from orchestrator.training.step_meter import StepMeter

if TYPE_CHECKING:
    from orchestrator.training.trainer import Trainer

RESERVED_GROUPS = (
    "train", "speed", "data", "memory", "health", "bucket", "system", "checkpoint", "eval",
    "replayed_steps",
)  # fmt: skip
"""First parts of the names of metrics that are not a callback's to log."""

_METRIC_NAME = re.compile(r"[\w.:-][\w.: /-]*", re.ASCII)


class Recorder(Callback):
    """Rank 0 measures and logs; other ranks only log their node's system metrics."""

    def __init__(
        self, job: TrainJob, run_ref: RunRef, spool: Spool, group: DistributedContext
    ) -> None:
        super().__init__()
        self.job, self.dist_context = job, group
        self._run_ref, self._spool = run_ref, spool
        self.logger: RunLogger | None = None
        self.meter = StepMeter(
            job.scale.global_batch,
            {one.bucket: one.flops for one in estimate_job(job).buckets if one.flops is not None},
            _peak_flops(group),
            group.device,
            per_bucket=len(job.data.buckets) > 1,
        )
        self._health: dict[str, float] = {}
        self._last: StepResult | None = None
        self._own_bucket_result: StepResult | None = None
        """The last step of data's own clips: of others health would jump to and fro."""
        self._reported_at = self._save_began = 0.0
        self._logged_checkpoints: dict[str, int] = {}
        self._collapse_reported = False
        self._trainer: Trainer

    def on_start(self, trainer: Trainer) -> None:
        """Begin to log; on rank 0 the checkpoints that are there, first of all."""
        self._trainer, group = trainer, self.dist_context
        # One process per node writes: rank 0 everything, the others' first rank its system metrics.
        if group.local_rank == 0:
            self.logger = RunLogger(
                self._run_ref,
                start_step=trainer.start_step,
                node_id=f"node-{group.rank}",
                spool=self._spool,
                collect_earlier=group.is_main,
            )
        if group.is_main and self.logger is not None:
            # An earlier start may have died before it told of them; telling twice is harmless.
            checkpoints = trainer.checkpoints
            there = checkpoints.complete_names()
            self.logger.log_checkpoint_list(map(checkpoint_step, there))
            for name in there:
                uri, metrics = checkpoints.storage.uri(name), checkpoints.metrics(name)
                self.logger.log_checkpoint(checkpoint_step(name), uri, metrics)
                self._logged_checkpoints[name] = checkpoint_step(name)

    def on_step_end(self, trainer: Trainer, batch: StepBatch, result: StepResult) -> None:
        """Measure the step; log a row or pictures where they are due."""
        self._last = result
        if batch.micro_batches[0].bucket == self.job.data.default_clip_spec.bucket:
            self._own_bucket_result = result
        if not self.dist_context.is_main:
            return
        self.meter.add(batch, result)
        if not result.applied:
            trainer.coordinator.notify(
                f"step {batch.step} is not applied: loss {result.loss:.4g}, gradient norm"
                f" {result.grad_norm:.4g}, learning rate {result.lr:.3g}"
            )
        step, job = trainer.step, self.job
        if step % job.track.every == 0 or step == job.optim.steps:
            self._log_row(step)
        if step == job.optim.steps or (job.track.pictures and step % job.track.pictures == 0):
            self._log_pictures(step, batch)
        if time.monotonic() - self._reported_at > 0.5 or step == job.optim.steps:
            self._reported_at = time.monotonic()
            trainer.coordinator.report_progress(step, self.meter.progress_facts())

    def health_metrics(self) -> dict[str, float]:
        """Health of the student's features at the last step of data's own clips (empty before it,
        and on other ranks); what is not finite is left out."""
        return health.finite_values(self._measure_health())

    def features_not_finite(self) -> bool:
        """Whether features of the last step of data's own clips are not finite; False on other
        ranks than the first."""
        seen = self._own_bucket_result if self.dist_context.is_main else None
        return seen is not None and not bool(seen.features.isfinite().all())

    def _measure_health(self) -> dict[str, float]:
        if self.dist_context.is_main and self._own_bucket_result is not None:
            self._health = _health_metrics(self._own_bucket_result, self._trainer.engine)
        return self._health

    def log(self, name: str, value: float) -> None:
        """A metric of a callback, at the present step (`Trainer.log`).

        Raises:
            ValueError: the name cannot be used.
        """
        if not _METRIC_NAME.fullmatch(name) or name.endswith("/"):
            raise ValueError(f"MLflow takes no metric named '{name}': use letters, digits, _ - . /")
        if name.partition("/")[0] in RESERVED_GROUPS:
            raise ValueError(f"'{name}': names under {name.partition('/')[0]}/ are the trainer's")
        if self.dist_context.is_main and self.logger is not None and math.isfinite(value):
            self.logger.log_metrics(self._trainer.step, {name: value})

    def on_save(self, trainer: Trainer) -> CheckpointPart:
        """The last row, the model's health, and what MLflow has not got yet."""
        self._save_began = time.perf_counter()
        return CheckpointPart(
            state={"row": dict(self.meter.last_row)},
            metrics=self.health_metrics(),
            before_commit=() if self.logger is None else (self.logger.pending_writer(),),
        )

    def on_saved(self, trainer: Trainer) -> None:
        """Log the checkpoints that are complete by now."""
        self._log_checkpoints()
        self.meter.add_save_seconds(time.perf_counter() - self._save_began)

    def on_end(self, trainer: Trainer) -> None:
        """Log the last checkpoint, and send what is still queued."""
        try:
            self._log_checkpoints()
        finally:
            self._close()

    def on_error(self, trainer: Trainer, error: BaseException) -> None:
        """Send what is still queued."""
        self._close()

    def summary(self) -> dict[str, Any]:
        """Final numbers for the driver."""
        return {"metrics": dict(self.meter.last_row), "totals": self.meter.totals()}

    def _log_checkpoints(self) -> None:
        """MLflow learns which checkpoints are complete, and which are deleted."""
        checkpoints = self._trainer.checkpoints
        if self.dist_context.is_main and self.logger is not None:
            for name, step, metrics in checkpoints.pop_committed():
                self.logger.log_checkpoint(step, checkpoints.storage.uri(name), metrics)
                self._logged_checkpoints[name] = step
            for name in self._logged_checkpoints.keys() - set(checkpoints.complete_names()):
                self.logger.log_checkpoint_deleted(self._logged_checkpoints.pop(name))

    def _close(self) -> None:
        if self.logger is not None:
            self.logger.close()

    def _log_row(self, step: int) -> None:
        values = self._measure_health()
        momentum = self._trainer.engine.objective.momentum
        rate = self._last.lr if self._last is not None else 0.0
        told = values and health.collapse_warning(
            values, objective=self.job.objective_config, lr=rate, momentum=momentum
        )
        if told and not self._collapse_reported:
            self._collapse_reported = True
            self._trainer.coordinator.notify(f"step {step}: {told}")
        row = self.meter.flush_row(
            {f"health/{k}": v for k, v in health.finite_values(values).items()}
        )
        if momentum is not None:
            row["train/momentum"] = momentum
        if self.logger is not None:
            self.logger.log_metrics(step, row)

    @torch.no_grad()
    def _log_pictures(self, step: int, data: StepBatch) -> None:
        micro = data.micro_batches[0]
        if self.logger is None or float(micro.weight[0]) == 0:
            return
        clip, grid = micro.video[:1], self.job.token_grid_of(micro.bucket)
        encoder = self._trainer.engine.encoder_for_visualization
        if micro.masks:
            masks = [(context[0], target[0]) for context, target in micro.masks]
            self.logger.log_picture(step, "masks", pictures.mask_overlay(clip[0], masks, grid))
        if encoder is not None:
            dtype = next(encoder.parameters()).dtype
            tokens = encoder(normalise(clip.to(self.dist_context.device), dtype))
            # An encoder of moments gives one token for all places of each.
            time, height, width = grid
            grid = grid if tokens.shape[1] == time * height * width else (time, 1, 1)
            if not tokens.isfinite().all():
                return  # there is nothing to see; `health` says so
            strip, frames = pictures.feature_pca(clip[0], tokens[0].float().cpu(), grid)
            self.logger.log_picture(step, "features", strip)
            self.logger.log_picture(step, "features_over_time", frames)


def _health_metrics(result: StepResult, engine: Engine) -> dict[str, float]:
    features = result.features.float()
    values = {
        "feature_std": health.feature_std(features),
        "rankme": health.rankme(features),
        "token_cosine": health.token_cosine(features),
    }
    if engine.ema_teacher is not None:
        values["teacher_distance"] = engine.teacher_distance
    return values


def _peak_flops(group: DistributedContext) -> float | None:
    if group.device.type != "cuda":
        return None
    peak = peak_flops(torch.cuda.get_device_name(group.device))
    return None if peak is None else peak * group.world_size
