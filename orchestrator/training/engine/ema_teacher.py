"""The EMA teacher: fp32 shards cut like the student's masters, and a frozen copy to compute with.

teacher = momentum * teacher + (1 - momentum) * student, in fp32, after each applied step
(V-JEPA, arXiv 2404.08471, section 3.1). A bf16 accumulator would not move at all at 0.999. No
rank ever gathers fp32 weights: each follows its own shard, and one flat all-gather per
parameter group brings the copy, which is whole on every rank, up to date.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from orchestrator.errors import JobFailed
from orchestrator.training.engine.shard_layout import GatheredRange, Shard
from orchestrator.training.health import teacher_squared_distance


class EMATeacher:
    """Follows the shards marked `followed`.

    `module` is a copy of the student's submodule `prefix`, made before DeepSpeed touched it; it
    becomes the frozen copy in `compute_dtype` on `device`.
    """

    def __init__(
        self,
        module: nn.Module,
        shards: list[Shard],
        *,
        prefix: str,
        momentum: float,
        compute_dtype: torch.dtype,
        device: torch.device,
        zero_stage: int,
    ) -> None:
        self.module = module.to(device).requires_grad_(False).eval()
        self.momentum, self.compute_dtype, self.device, self.zero_stage = (
            momentum,
            compute_dtype,
            device,
            zero_stage,
        )
        self.shards = [shard for shard in shards if shard.has_ema_teacher]
        for shard in self.shards:
            shard.teacher = shard.master.detach().clone()
        self._parameters = {
            f"{prefix}.{name}": parameter for name, parameter in module.named_parameters()
        }
        for parameter in self._parameters.values():
            parameter.data = parameter.data.to(compute_dtype)
        self._gathered: list[Tensor] = []
        if zero_stage in (1, 2):
            self._view_flat_buffers()
        elif zero_stage == 0 and compute_dtype == torch.float32:
            for span, value in self._stage0_entries():
                # The accumulator is whole and in the compute dtype: it is the copy.
                self._parameters[span.name].data = value.view(span.shape)
        self.refresh()

    @property
    def shard_values(self) -> list[Tensor]:
        """The fp32 values of this rank's shards."""
        return [shard.teacher for shard in self.shards if shard.teacher is not None]

    @torch.no_grad()
    def update(self) -> None:
        """Follow the student by one applied step, then refresh the copy. A collective."""
        masters = [shard.master for shard in self.shards]
        torch._foreach_lerp_(self.shard_values, masters, 1 - self.momentum)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the fp32 shards into the frozen module. A collective at stages 1, 2 and 3."""
        if self.zero_stage == 0:
            if self.compute_dtype != torch.float32:
                copies = [
                    self._parameters[span.name].view(-1) for span, _ in self._stage0_entries()
                ]
                torch._foreach_copy_(copies, self.shard_values)
        elif self.zero_stage == 3:
            for shard, value in zip(self.shards, self.shard_values, strict=True):
                self._unpack_columns(shard.gathered_ranges, value)
        else:
            for whole, value in zip(self._gathered, self.shard_values, strict=True):
                self._all_gather(whole, value)

    def squared_distance(self) -> Tensor:
        """This rank's sums of (teacher - student)^2 and of student^2: float64 [2]."""
        masters = [shard.master for shard in self.shards]
        return torch.stack(teacher_squared_distance(self.shard_values, masters))

    def verify(self) -> None:
        """The copy holds this rank's fp32 values, cast to the compute dtype.

        Raises:
            JobFailed: the copy was gathered into the wrong places.
        """
        for shard, value in zip(self.shards, self.shard_values, strict=True):
            for piece in shard.slices:
                whole = self._parameters[piece.name].detach().reshape(-1)
                copy = whole[piece.parameter_offset : piece.parameter_offset + piece.numel]
                wanted = value[piece.shard_offset : piece.shard_offset + piece.numel]
                if not torch.equal(wanted.to(copy.device, copy.dtype), copy):
                    raise JobFailed(
                        "the teacher's copy differs from its fp32 shards",
                        where=f"{piece.name}, rank {dist.get_rank()}",
                        hint="report this: the layout of the shards is not what it is taken to be",
                    )

    def _stage0_entries(self) -> list[tuple[GatheredRange, Tensor]]:
        """At stage 0 a shard is one parameter."""
        return [
            (s.gathered_ranges[0], v) for s, v in zip(self.shards, self.shard_values, strict=True)
        ]

    def _view_flat_buffers(self) -> None:
        """Stages 1 and 2: parameters become views where the gathered shards put their values."""
        for shard in self.shards:
            size = shard.master.numel() * dist.get_world_size()
            whole = torch.zeros(size, dtype=self.compute_dtype, device=self.device)
            self._gathered.append(whole)
            for span in shard.gathered_ranges:
                run = whole[span.start : span.start + span.width]
                self._parameters[span.name].data = run.view(span.shape)

    def _unpack_columns(self, spans: list[GatheredRange], value: Tensor) -> None:
        """Stage 3: rank by rank, a parameter's parts are the same columns of the gathered rows."""
        world = dist.get_world_size()
        rows = torch.empty(world, value.numel(), dtype=self.compute_dtype, device=self.device)
        self._all_gather(rows.view(-1), value)
        for span in spans:
            parts = rows[:, span.start : span.start + span.width].reshape(-1)
            self._parameters[span.name].copy_(parts[: span.shape.numel()].view(span.shape))

    def _all_gather(self, whole: Tensor, value: Tensor) -> None:
        """Every rank's `value`, in the compute dtype, one after the other in `whole`."""
        mine = value.to(self.device, self.compute_dtype)
        if dist.get_world_size() == 1:
            whole.copy_(mine)
        else:
            dist.all_gather_into_tensor(whole, mine)
