"""What is remembered of a run while it trains: metrics, pictures, checkpoints, progress."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from orchestrator.data.loader.batch import StepBatch
from orchestrator.estimate import peak_flops, plan
from orchestrator.jepa import visualization as pictures
from orchestrator.jepa.pixel_normalization import normalise
from orchestrator.job import TrainJob
from orchestrator.tracking.live.run_logger import RunLogger
from orchestrator.tracking.live.spool import Spool
from orchestrator.tracking.run import RunRef
from orchestrator.training import health
from orchestrator.training.checkpoints.manager import Checkpoints, step_of
from orchestrator.training.control.coordinator import Board
from orchestrator.training.distributed import Group
from orchestrator.training.engine.engine import Engine
from orchestrator.training.engine.step import StepResult
from orchestrator.training.step_meter import Meter


class Recorder:
    """Rank 0 measures and logs; other ranks only log their node's system metrics."""

    def __init__(
        self,
        job: TrainJob,
        tracking: RunRef,
        engine: Engine,
        group: Group,
        start: int,
        board: Board,
        checkpoints: Checkpoints,
        spool: Spool,
    ) -> None:
        self.job, self.engine, self.group, self.board = job, engine, group, board
        # One process per node writes: rank 0 everything, the others' first rank its system metrics.
        self.logger = (
            RunLogger(
                tracking,
                start_step=start,
                node_id=f"node-{group.rank}",
                spool=spool,
                takes_over=group.leads,
            )
            if group.local_rank == 0
            else None
        )
        self.meter = Meter(
            job.scale.global_batch,
            {one.bucket: one.flops for one in plan(job).buckets if one.flops is not None},
            _peak(group),
            group.device,
            apart=len(job.data.buckets) > 1,
        )
        self._health: dict[str, float] = {}
        self._last: StepResult | None = None
        self._seen: StepResult | None = None
        """The last step of data's own clips: of others health would jump to and fro."""
        self._posted = 0.0
        self.checkpoints = checkpoints
        self._announced: dict[str, int] = {}
        self._collapse_told = False
        if group.leads and self.logger is not None:
            # An earlier start may have died before it told of them; telling twice is harmless.
            there = checkpoints.complete()
            self.logger.checkpoints_standing(map(step_of, there))
            for name in there:
                uri, metrics = checkpoints.storage.uri(name), checkpoints.metrics(name)
                self.logger.checkpoint(step_of(name), uri, metrics)
                self._announced[name] = step_of(name)

    def step(self, data: StepBatch, result: StepResult) -> None:
        """One optimizer step is done."""
        self._last = result
        if data.micro[0].bucket == self.job.data.own.bucket:
            self._seen = result
        if not self.group.leads:
            return
        self.meter.add(data, result)
        if not result.applied:
            self.board.message(
                f"step {data.step} is not applied: loss {result.loss:.4g}, gradient norm"
                f" {result.grad_norm:.4g}, learning rate {result.lr:.3g}"
            )
        step, job = self.engine.step, self.job
        if step % job.track.every == 0 or step == job.optim.steps:
            self._log_row(step)
        if step == job.optim.steps or (job.track.pictures and step % job.track.pictures == 0):
            self._draw(step, data)
        if time.monotonic() - self._posted > 0.5 or step == job.optim.steps:
            self._posted = time.monotonic()
            self.board.post(step, self.meter.facts())

    def health(self) -> dict[str, float]:
        """Health of the student's features at the last step of data's own clips (empty before it,
        and on other ranks); what is not finite is left out."""
        return health.finite(self._measured())

    def blown_up(self) -> bool:
        """Whether features of the last step of data's own clips are not finite; False on other
        ranks than the first."""
        seen = self._seen if self.group.leads else None
        return seen is not None and not bool(seen.features.isfinite().all())

    def _measured(self) -> dict[str, float]:
        if self.group.leads and self._seen is not None:
            self._health = _health(self._seen, self.engine)
        return self._health

    def checkpoint(self) -> None:
        """A checkpoint is being written: MLflow hears of the kept ones, and of dropped ones."""
        if self.group.leads and self.logger is not None:
            for name, step, metrics in self.checkpoints.committed():
                self.logger.checkpoint(step, self.checkpoints.storage.uri(name), metrics)
                self._announced[name] = step
            for name in self._announced.keys() - set(self.checkpoints.complete()):
                self.logger.checkpoint_dropped(self._announced.pop(name))

    def sealed(self) -> Callable[[], None]:
        """Keeps what MLflow has not yet got; to be done before a checkpoint counts."""
        return self.logger.sealed() if self.logger is not None else lambda: None

    def summary(self) -> dict[str, Any]:
        """Final numbers for the driver."""
        return {"metrics": dict(self.meter.last), "totals": self.meter.totals()}

    def close(self) -> None:
        """Send what is still queued."""
        if self.logger is not None:
            self.logger.close()

    def _log_row(self, step: int) -> None:
        values = self._measured()
        momentum = self.engine.objective.momentum
        rate = self._last.lr if self._last is not None else 0.0
        told = values and health.collapse(
            values, objective=self.job.objective.kind, lr=rate, momentum=momentum
        )
        if told and not self._collapse_told:
            self._collapse_told = True
            self.board.message(f"step {step}: {told}")
        row = self.meter.row({f"health/{k}": v for k, v in health.finite(values).items()})
        if momentum is not None:
            row["train/momentum"] = momentum
        if self.logger is not None:
            self.logger.metrics(step, row)

    @torch.no_grad()
    def _draw(self, step: int, data: StepBatch) -> None:
        micro = data.micro[0]
        if self.logger is None or float(micro.weight[0]) == 0:
            return
        clip, grid = micro.video[:1], self.job.grid_of(micro.bucket)
        encoder = self.engine.seen_encoder
        if micro.masks:
            masks = [(context[0], target[0]) for context, target in micro.masks]
            self.logger.picture(step, "masks", pictures.mask_overlay(clip[0], masks, grid))
        if encoder is not None:
            dtype = next(encoder.parameters()).dtype
            tokens = encoder(normalise(clip.to(self.group.device), dtype))
            # An encoder of moments gives one token for all places of each.
            time, height, width = grid
            grid = grid if tokens.shape[1] == time * height * width else (time, 1, 1)
            if not tokens.isfinite().all():
                return  # there is nothing to see; `health` says so
            strip, frames = pictures.feature_pca(clip[0], tokens[0].float().cpu(), grid)
            self.logger.picture(step, "features", strip)
            self.logger.picture(step, "features_over_time", frames)


def _health(result: StepResult, engine: Engine) -> dict[str, float]:
    features = result.features.float()
    values = {
        "feature_std": health.feature_std(features),
        "rankme": health.rankme(features),
        "token_cosine": health.token_cosine(features),
    }
    if engine.follower is not None:
        values["teacher_distance"] = engine.teacher_distance
    return values


def _peak(group: Group) -> float | None:
    if group.device.type != "cuda":
        return None
    peak = peak_flops(torch.cuda.get_device_name(group.device))
    return None if peak is None else peak * group.world
