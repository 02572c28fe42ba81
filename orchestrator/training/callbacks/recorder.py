"""What is remembered of a run while it trains: metrics, pictures, checkpoints, progress."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

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
from orchestrator.training.checkpoints.manager import CheckpointManager, checkpoint_step
from orchestrator.training.control.coordinator import RunCoordinator
from orchestrator.training.distributed import DistributedContext
from orchestrator.training.engine.engine import Engine
from orchestrator.training.engine.step import StepResult
from orchestrator.training.step_meter import StepMeter


class Recorder:
    """Rank 0 measures and logs; other ranks only log their node's system metrics."""

    def __init__(
        self,
        job: TrainJob,
        run_ref: RunRef,
        engine: Engine,
        group: DistributedContext,
        start_step: int,
        board: RunCoordinator,
        checkpoints: CheckpointManager,
        spool: Spool,
    ) -> None:
        self.job, self.engine, self.dist_context, self.coordinator = job, engine, group, board
        # One process per node writes: rank 0 everything, the others' first rank its system metrics.
        self.logger = (
            RunLogger(
                run_ref,
                start_step=start_step,
                node_id=f"node-{group.rank}",
                spool=spool,
                collect_earlier=group.is_main,
            )
            if group.local_rank == 0
            else None
        )
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
        self._reported_at = 0.0
        self.checkpoints = checkpoints
        self._logged_checkpoints: dict[str, int] = {}
        self._collapse_reported = False
        if group.is_main and self.logger is not None:
            # An earlier start may have died before it told of them; telling twice is harmless.
            there = checkpoints.complete_names()
            self.logger.log_checkpoint_list(map(checkpoint_step, there))
            for name in there:
                uri, metrics = checkpoints.storage.uri(name), checkpoints.metrics(name)
                self.logger.log_checkpoint(checkpoint_step(name), uri, metrics)
                self._logged_checkpoints[name] = checkpoint_step(name)

    def on_step_end(self, data: StepBatch, result: StepResult) -> None:
        """One optimizer step is done."""
        self._last = result
        if data.micro_batches[0].bucket == self.job.data.default_clip_spec.bucket:
            self._own_bucket_result = result
        if not self.dist_context.is_main:
            return
        self.meter.add(data, result)
        if not result.applied:
            self.coordinator.notify(
                f"step {data.step} is not applied: loss {result.loss:.4g}, gradient norm"
                f" {result.grad_norm:.4g}, learning rate {result.lr:.3g}"
            )
        step, job = self.engine.step, self.job
        if step % job.track.every == 0 or step == job.optim.steps:
            self._log_row(step)
        if step == job.optim.steps or (job.track.pictures and step % job.track.pictures == 0):
            self._log_pictures(step, data)
        if time.monotonic() - self._reported_at > 0.5 or step == job.optim.steps:
            self._reported_at = time.monotonic()
            self.coordinator.report_progress(step, self.meter.progress_facts())

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
            self._health = _health_metrics(self._own_bucket_result, self.engine)
        return self._health

    def on_saved(self) -> None:
        """A checkpoint is being written: MLflow hears of the kept ones, and of dropped ones."""
        if self.dist_context.is_main and self.logger is not None:
            for name, step, metrics in self.checkpoints.pop_committed():
                self.logger.log_checkpoint(step, self.checkpoints.storage.uri(name), metrics)
                self._logged_checkpoints[name] = step
            for name in self._logged_checkpoints.keys() - set(self.checkpoints.complete_names()):
                self.logger.log_checkpoint_deleted(self._logged_checkpoints.pop(name))

    def pending_writer(self) -> Callable[[], None]:
        """Keeps what MLflow has not yet got; to be done before a checkpoint counts."""
        return self.logger.pending_writer() if self.logger is not None else lambda: None

    def summary(self) -> dict[str, Any]:
        """Final numbers for the driver."""
        return {"metrics": dict(self.meter.last_row), "totals": self.meter.totals()}

    def close(self) -> None:
        """Send what is still queued."""
        if self.logger is not None:
            self.logger.close()

    def _log_row(self, step: int) -> None:
        values = self._measure_health()
        momentum = self.engine.objective.momentum
        rate = self._last.lr if self._last is not None else 0.0
        told = values and health.collapse_warning(
            values, objective=self.job.objective_config, lr=rate, momentum=momentum
        )
        if told and not self._collapse_reported:
            self._collapse_reported = True
            self.coordinator.notify(f"step {step}: {told}")
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
        encoder = self.engine.encoder_for_visualization
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
