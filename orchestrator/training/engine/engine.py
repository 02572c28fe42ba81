"""The training step: one objective, wrapped by DeepSpeed, followed by its teacher."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from orchestrator.errors import RequestError
from orchestrator.estimate import BatchSizes
from orchestrator.jepa.action_batch import ActionBatch
from orchestrator.jepa.objectives import ClipSets, Objective
from orchestrator.jepa.pixel_normalization import normalise
from orchestrator.jepa.transformer import Transformer
from orchestrator.job import TrainJob
from orchestrator.training.control.control_signal import ControlSignal
from orchestrator.training.engine import shard_layout as layout
from orchestrator.training.engine import snapshot as state
from orchestrator.training.engine.deepspeed_config import deepspeed_config, initialize_deepspeed
from orchestrator.training.engine.ema_teacher import EMATeacher
from orchestrator.training.engine.optimizer import apply_schedule, build_optimizer
from orchestrator.training.engine.spike_guard import SpikeGuard
from orchestrator.training.engine.statistic_pools import build_statistic_pools
from orchestrator.training.engine.step import StepModule, StepResult
from orchestrator.training.engine.step_timer import StepTimer

if TYPE_CHECKING:
    from orchestrator.data.loader.batch import Batch

# A step all of whose clips failed has weight 0: its loss and gradient are then 0, not 0 / 0.
MIN_TOTAL_WEIGHT = 1e-6


class Engine:
    """Trains an objective. torch.distributed is initialised, and every rank makes one.

    `frozen_teacher`: a teacher that stays as it is, whole on every rank in the compute dtype.
    """

    def __init__(
        self,
        objective: Objective,
        job: TrainJob,
        batch_plan: BatchSizes,
        device: torch.device,
        frozen_teacher: nn.Module | None = None,
    ) -> None:
        elements = sum(parameter.numel() for parameter in objective.parameters())
        config = deepspeed_config(job, batch_plan, device, elements)
        self.job, self.batch_plan, self.device, self.zero_stage = (
            job,
            batch_plan,
            device,
            job.scale.zero,
        )
        self.compute_dtype = torch.bfloat16 if job.scale.precision == "bf16" else torch.float32
        self.objective = objective.to(device).train()
        self.ema_module = objective.averaged
        self.step = 0
        self.teacher_distance = 0.0
        """|teacher - student| / |student| of the followed weights, at the last logged step."""
        self.spike_guard = SpikeGuard(job.optim.spike_limit)
        self._timer = StepTimer(device)

        for parameter in objective.parameters():
            dist.broadcast(parameter.data, src=0)
        exact = {name: p.data for name, p in objective.named_parameters()}
        self.untrained_parameters = {
            n: p.data.cpu() for n, p in objective.named_parameters() if not p.requires_grad
        }
        teacher = (
            copy.deepcopy(objective.get_submodule(self.ema_module)) if self.ema_module else None
        )
        if frozen_teacher is not None:
            frozen_teacher = (
                frozen_teacher.to(device, self.compute_dtype).requires_grad_(False).eval()
            )
        self.frozen_teacher = frozen_teacher
        objective.set_activation_checkpointing(job.scale.activation_checkpointing)
        if job.scale.compile:
            objective.compile_blocks()
            for one in (teacher, frozen_teacher):
                for module in one.modules() if one is not None else ():
                    if isinstance(module, Transformer):
                        module.compile_blocks()
        self._parameter_names = {id(p): name for name, p in objective.named_parameters()}
        self.optimizer = build_optimizer(
            objective.named_parameters(),
            job.optim,
            ema_module=self.ema_module,
            zero_stage=self.zero_stage,
        )
        autocast = self.compute_dtype != torch.float32 and self.zero_stage == 0
        self.deepspeed = initialize_deepspeed(
            StepModule(objective, autocast), self.optimizer, config, device
        )
        if self.zero_stage == 0 and batch_plan.world == 1:
            # Nothing to reduce: saves two copies of every gradient.
            self.deepspeed.enable_backward_allreduce = False
        self.shards = self.read_shards()
        state.write_exact_masters(self.shards, exact)
        layout.verify_compute_weights(self.shards)
        self.ema_teacher = self._make_ema_teacher(teacher) if teacher is not None else None

    def _make_ema_teacher(self, module: nn.Module) -> EMATeacher:
        if self.objective.momentum is None:
            raise RequestError(
                "an objective that names what its teacher follows needs a momentum",
                where=type(self.objective).__name__,
                hint="set `momentum` beside `averaged`",
            )
        teacher = EMATeacher(
            module,
            self.shards,
            prefix=str(self.ema_module),
            momentum=self.objective.momentum,
            compute_dtype=self.compute_dtype,
            device=self.device,
            zero_stage=self.zero_stage,
        )
        teacher.verify()
        return teacher

    @property
    def teacher(self) -> nn.Module | None:
        """What gives the targets: compute dtype, no gradient, whole on every rank."""
        return self.ema_teacher.module if self.ema_teacher is not None else self.frozen_teacher

    @property
    def encoder_for_visualization(self) -> nn.Module | None:
        """What pictures of features are made with: the teacher that follows the student, or the
        student's encoder where it has one, whole on a rank."""
        if self.ema_teacher is not None:
            return self.ema_teacher.module
        own = getattr(self.objective, "encoder", None)
        return own if self.zero_stage < 3 else None

    @property
    def adam_step(self) -> int:
        """Applied steps, as AdamW counts them."""
        return int(self.shards[0].step)

    def read_shards(self) -> list[layout.Shard]:
        """This rank's masters and moments, where DeepSpeed holds them now."""
        return layout.read_shards(self.deepspeed, self.optimizer, self._parameter_names)

    def take_snapshot(self) -> state.Snapshot:
        """Host copies of what this rank owns."""
        return state.take_snapshot(self)

    def train_step(
        self, micro: list[Batch], control: ControlSignal = ControlSignal.NONE
    ) -> StepResult:
        """One optimizer step over all micro-batches of all ranks: a collective.

        The gradient is that of sum(w l) / sum(w) over every clip of the global batch. `control` is
        what rank 0 wants every rank to know when the step is done.

        Raises:
            TrainingDiverged: too many steps in a row could not be applied; on all ranks at once.
        """
        assert len(micro) == self.batch_plan.accum
        self._timer.start()
        if len(self.job.data.buckets) > 1:
            self.spike_guard.set_bucket(str(micro[0].bucket))
        self.objective.at_step(self.step)
        rate, decay = apply_schedule(self.optimizer, self.job.optim, self.step)
        weights = torch.stack([batch.weight.sum() for batch in micro]).sum().to(self.device)
        dist.all_reduce(weights)
        # DeepSpeed averages over ranks and micro-batches; their sum is what is wanted.
        averaged = self.batch_plan.world * self.batch_plan.accum
        scale = averaged / weights.clamp_min(MIN_TOTAL_WEIGHT)
        losses: list[Tensor] = []
        pools = build_statistic_pools(self, micro)
        features = [
            self._micro_step(*each, scale, losses) for each in zip(micro, pools, strict=True)
        ]
        applied = bool(self.deepspeed.was_step_applied())
        if applied and self.ema_teacher is not None:
            self.ema_teacher.update()
        self.step += 1
        loss, clips, control = self._reduce_step(torch.stack(losses).sum(), weights, control)
        self.spike_guard.record_step(loss, applied, self.step)
        norm = float(self.deepspeed.get_global_grad_norm())
        times = self._timer.seconds()
        return StepResult(loss, norm, rate, decay, clips, applied, control, features[0], times)

    def device_video(self, batch: Batch) -> Tensor:
        """A micro-batch's pixels on the device, as the encoder reads them."""
        return normalise(batch.video.to(self.device, non_blocking=True), self.compute_dtype)

    def device_actions(self, batch: Batch) -> ActionBatch | None:
        """What was done in a micro-batch's clips, on the device; None where nobody asked."""
        if batch.actions is None:
            return None
        # What a clip that failed says may be anything, and 0 times NaN is NaN.
        counted = (batch.weight > 0)[:, None, None]
        told = (torch.where(counted, part, 0.0) for part in batch.actions)
        return ActionBatch(*(part.to(self.device, non_blocking=True) for part in told))

    def _micro_step(
        self, batch: Batch, pool: ClipSets | None, scale: Tensor, losses: list[Tensor]
    ) -> Tensor:
        """Forward, backward and, after the last micro-batch, the update. Appends the loss to
        `losses`; gives the features of the clips that count."""
        video = self.device_video(batch)
        weight = batch.weight.to(self.device, non_blocking=True) * scale
        masks = [
            (context.to(self.device, non_blocking=True), target.to(self.device, non_blocking=True))
            for context, target in batch.masks
        ]
        targets: Tensor | ClipSets | None = pool
        if self.teacher is not None:
            targets = self.objective.targets(self.teacher, video)
        elif pool is None:
            labels = self.objective.labels(batch.keys)
            targets = None if labels is None else labels.to(self.device)
        self._timer.mark("teacher")
        loss: Tensor
        features: Tensor
        loss, features = self.deepspeed(video, masks, targets, weight, self.device_actions(batch))
        losses.append(loss.detach())
        if len(losses) == self.batch_plan.accum:
            loss = self._nan_if_spike(loss, torch.stack(losses).sum())
        self.deepspeed.backward(loss)
        self._timer.mark("student")
        self.deepspeed.step()
        self._timer.mark("update")
        counted = batch.weight.nonzero().flatten()
        return features[counted] if len(counted) else features

    def _nan_if_spike(self, loss: Tensor, total: Tensor) -> Tensor:
        """The last micro-batch's loss; NaN where the step's loss, over all ranks, is a spike.

        A NaN reaches every gradient, and no stage applies a step that is not finite: the host
        need not wait for the loss before the backward begins.
        """
        bound = self.spike_guard.threshold
        if bound is None:
            return loss
        step_loss: Tensor = total / self.batch_plan.accum / self.batch_plan.world
        dist.all_reduce(step_loss)
        return loss * torch.where(step_loss > bound, torch.nan, 1.0)

    def _reduce_step(
        self, loss: Tensor, weights: Tensor, control: ControlSignal
    ) -> tuple[float, float, ControlSignal]:
        """Loss and clips over all ranks, rank 0's signal, and now and then the teacher's distance:
        one wait."""
        sums = torch.zeros(5, dtype=torch.float64, device=self.device)
        sums[0], sums[1], sums[4] = (
            loss / self.batch_plan.accum,
            weights,
            control.encode() * self.batch_plan.world,
        )
        looked_at = self.step % self.job.track.every == 0 or self.job.is_checkpoint_step(self.step)
        if self.ema_teacher is not None and looked_at:
            sums[2:4] = self.ema_teacher.squared_distance()
        dist.all_reduce(sums)
        self._timer.mark("update")
        loss_sum, clips, apart, size, encoded = (sums / self.batch_plan.world).tolist()
        if self.ema_teacher is not None and looked_at:
            self.teacher_distance = math.sqrt(apart / size) if size > 0 else math.nan
        return loss_sum, clips, ControlSignal.decode(encoded)
