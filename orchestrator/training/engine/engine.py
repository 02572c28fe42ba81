"""The training step: one objective, wrapped by DeepSpeed, followed by its teacher."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from orchestrator.errors import RequestError
from orchestrator.estimate import BatchPlan
from orchestrator.jepa.action_batch import Motion
from orchestrator.jepa.objectives import Objective, Pool
from orchestrator.jepa.pixel_normalization import normalise
from orchestrator.jepa.transformer import Transformer
from orchestrator.job import TrainJob
from orchestrator.training.engine import shard_layout as layout
from orchestrator.training.engine import snapshot as state
from orchestrator.training.engine.deepspeed_config import deepspeed_config, wrap
from orchestrator.training.engine.ema_teacher import Teacher
from orchestrator.training.engine.optimizer import build_optimizer, set_schedule
from orchestrator.training.engine.spike_guard import SpikeGuard
from orchestrator.training.engine.statistic_pools import pools_of
from orchestrator.training.engine.step import StepModule, StepResult
from orchestrator.training.engine.step_timer import StepClock

if TYPE_CHECKING:
    from orchestrator.data.loader.batch import Batch

# A step all of whose clips failed has weight 0: its loss and gradient are then 0, not 0 / 0.
NO_CLIP = 1e-6


class Engine:
    """Trains an objective. torch.distributed is initialised, and every rank makes one.

    `fixed`: a teacher that stays as it is, whole on every rank in the compute dtype.
    """

    def __init__(
        self,
        objective: Objective,
        job: TrainJob,
        batch: BatchPlan,
        device: torch.device,
        fixed: nn.Module | None = None,
    ) -> None:
        elements = sum(parameter.numel() for parameter in objective.parameters())
        config = deepspeed_config(job, batch, device, elements)
        self.job, self.batch, self.device, self.stage = job, batch, device, job.scale.zero
        self.dtype = torch.bfloat16 if job.scale.precision == "bf16" else torch.float32
        self.objective = objective.to(device).train()
        self.followed = objective.averaged
        self.step = 0
        self.teacher_distance = 0.0
        """|teacher - student| / |student| of the followed weights, at the last logged step."""
        self.guard = SpikeGuard(job.optim.spike_limit)
        self._clock = StepClock(device)

        for parameter in objective.parameters():
            dist.broadcast(parameter.data, src=0)
        exact = {name: p.data for name, p in objective.named_parameters()}
        self.frozen = {
            n: p.data.cpu() for n, p in objective.named_parameters() if not p.requires_grad
        }
        teacher = copy.deepcopy(objective.get_submodule(self.followed)) if self.followed else None
        if fixed is not None:
            fixed = fixed.to(device, self.dtype).requires_grad_(False).eval()
        self.fixed = fixed
        objective.set_activation_checkpointing(job.scale.activation_checkpointing)
        if job.scale.compile:
            objective.compile_blocks()
            for one in (teacher, fixed):
                for module in one.modules() if one is not None else ():
                    if isinstance(module, Transformer):
                        module.compile_blocks()
        self._names = {id(p): name for name, p in objective.named_parameters()}
        self.optimizer = build_optimizer(
            objective.named_parameters(), job.optim, followed=self.followed, stage=self.stage
        )
        autocast = self.dtype != torch.float32 and self.stage == 0
        self.deepspeed = wrap(StepModule(objective, autocast), self.optimizer, config, device)
        if self.stage == 0 and batch.world == 1:
            # Nothing to reduce: saves two copies of every gradient.
            self.deepspeed.enable_backward_allreduce = False
        self.shards = self.read_shards()
        state.write_masters(self.shards, exact)
        layout.check(self.shards)
        self.follower = self._follow(teacher) if teacher is not None else None

    def _follow(self, module: nn.Module) -> Teacher:
        if self.objective.momentum is None:
            raise RequestError(
                "an objective that names what its teacher follows needs a momentum",
                where=type(self.objective).__name__,
                mend="set `momentum` beside `averaged`",
            )
        teacher = Teacher(
            module,
            self.shards,
            prefix=str(self.followed),
            momentum=self.objective.momentum,
            dtype=self.dtype,
            device=self.device,
            stage=self.stage,
        )
        teacher.check()
        return teacher

    @property
    def teacher(self) -> nn.Module | None:
        """What gives the targets: compute dtype, no gradient, whole on every rank."""
        return self.follower.module if self.follower is not None else self.fixed

    @property
    def seen_encoder(self) -> nn.Module | None:
        """What pictures of features are made with: the teacher that follows the student, or the
        student's encoder where it has one, whole on a rank."""
        if self.follower is not None:
            return self.follower.module
        own = getattr(self.objective, "encoder", None)
        return own if self.stage < 3 else None

    @property
    def adam_step(self) -> int:
        """Applied steps, as AdamW counts them."""
        return int(self.shards[0].step)

    def read_shards(self) -> list[layout.Shard]:
        """This rank's masters and moments, where DeepSpeed holds them now."""
        return layout.read_layout(self.deepspeed, self.optimizer, self._names)

    def snapshot(self) -> state.Snapshot:
        """Host copies of what this rank owns."""
        return state.take_snapshot(self)

    def train_step(self, micro: list[Batch], word: float = 0.0) -> StepResult:
        """One optimizer step over all micro-batches of all ranks: a collective.

        The gradient is that of sum(w l) / sum(w) over every clip of the global batch. `word` is
        what rank 0 wants every rank to know when the step is done.

        Raises:
            Diverged: too many steps in a row could not be applied; on all ranks at once.
        """
        assert len(micro) == self.batch.accum
        self._clock.start()
        if len(self.job.data.buckets) > 1:
            self.guard.turn_to(str(micro[0].bucket))
        self.objective.at_step(self.step)
        rate, decay = set_schedule(self.optimizer, self.job.optim, self.step)
        weights = torch.stack([batch.weight.sum() for batch in micro]).sum().to(self.device)
        dist.all_reduce(weights)
        # DeepSpeed averages over ranks and micro-batches; their sum is what is wanted.
        averaged = self.batch.world * self.batch.accum
        scale = averaged / weights.clamp_min(NO_CLIP)
        losses: list[Tensor] = []
        pools = pools_of(self, micro)
        features = [
            self._micro_step(*each, scale, losses) for each in zip(micro, pools, strict=True)
        ]
        applied = bool(self.deepspeed.was_step_applied())
        if applied and self.follower is not None:
            self.follower.update()
        self.step += 1
        loss, clips, word = self._summarise(torch.stack(losses).sum(), weights, word)
        self.guard.count(loss, applied, self.step)
        norm = float(self.deepspeed.get_global_grad_norm())
        times = self._clock.seconds()
        return StepResult(loss, norm, rate, decay, clips, applied, word, features[0], times)

    def video(self, batch: Batch) -> Tensor:
        """A micro-batch's pixels on the device, as the encoder reads them."""
        return normalise(batch.video.to(self.device, non_blocking=True), self.dtype)

    def motion(self, batch: Batch) -> Motion | None:
        """What was done in a micro-batch's clips, on the device; None where nobody asked."""
        if batch.motion is None:
            return None
        # What a clip that failed says may be anything, and 0 times NaN is NaN.
        counted = (batch.weight > 0)[:, None, None]
        told = (torch.where(counted, part, 0.0) for part in batch.motion)
        return Motion(*(part.to(self.device, non_blocking=True) for part in told))

    def _micro_step(
        self, batch: Batch, pool: Pool | None, scale: Tensor, losses: list[Tensor]
    ) -> Tensor:
        """Forward, backward and, after the last micro-batch, the update. Appends the loss to
        `losses`; gives the features of the clips that count."""
        video = self.video(batch)
        weight = batch.weight.to(self.device, non_blocking=True) * scale
        masks = [
            (context.to(self.device, non_blocking=True), target.to(self.device, non_blocking=True))
            for context, target in batch.masks
        ]
        targets: Tensor | Pool | None = pool
        if self.teacher is not None:
            targets = self.objective.targets(self.teacher, video)
        elif pool is None:
            labels = self.objective.labels(batch.keys)
            targets = None if labels is None else labels.to(self.device)
        self._clock.mark("teacher")
        loss: Tensor
        features: Tensor
        loss, features = self.deepspeed(video, masks, targets, weight, self.motion(batch))
        losses.append(loss.detach())
        if len(losses) == self.batch.accum:
            loss = self._refuse_spike(loss, torch.stack(losses).sum())
        self.deepspeed.backward(loss)
        self._clock.mark("student")
        self.deepspeed.step()
        self._clock.mark("update")
        counted = batch.weight.nonzero().flatten()
        return features[counted] if len(counted) else features

    def _refuse_spike(self, loss: Tensor, total: Tensor) -> Tensor:
        """The last micro-batch's loss; NaN where the step's loss, over all ranks, is a spike.

        A NaN reaches every gradient, and no stage applies a step that is not finite: the host
        need not wait for the loss before the backward begins.
        """
        bound = self.guard.bound
        if bound is None:
            return loss
        step_loss: Tensor = total / self.batch.accum / self.batch.world
        dist.all_reduce(step_loss)
        return loss * torch.where(step_loss > bound, torch.nan, 1.0)

    def _summarise(self, loss: Tensor, weights: Tensor, word: float) -> tuple[float, float, float]:
        """Loss and clips over all ranks, rank 0's word, and now and then the teacher's distance:
        one wait."""
        sums = torch.zeros(5, dtype=torch.float64, device=self.device)
        sums[0], sums[1], sums[4] = loss / self.batch.accum, weights, word * self.batch.world
        looked_at = self.step % self.job.track.every == 0 or self.job.saved_after(self.step)
        if self.follower is not None and looked_at:
            sums[2:4] = self.follower.squared_distance()
        dist.all_reduce(sums)
        self._clock.mark("update")
        loss_sum, clips, apart, size, word = (sums / self.batch.world).tolist()
        if self.follower is not None and looked_at:
            self.teacher_distance = math.sqrt(apart / size) if size > 0 else math.nan
        return loss_sum, clips, word
