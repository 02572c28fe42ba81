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
from orchestrator.training.engine.shard_layout import Shard, Span
from orchestrator.training.health import squared_distance


class Teacher:
    """Follows the shards marked `followed`.

    `module` is a copy of the student's submodule `prefix`, made before DeepSpeed touched it; it
    becomes the frozen copy in `dtype` on `device`.
    """

    def __init__(
        self,
        module: nn.Module,
        shards: list[Shard],
        *,
        prefix: str,
        momentum: float,
        dtype: torch.dtype,
        device: torch.device,
        stage: int,
    ) -> None:
        self.module = module.to(device).requires_grad_(False).eval()
        self.momentum, self.dtype, self.device, self.stage = momentum, dtype, device, stage
        self.shards = [shard for shard in shards if shard.followed]
        for shard in self.shards:
            shard.teacher = shard.master.detach().clone()
        self._parameters = {
            f"{prefix}.{name}": parameter for name, parameter in module.named_parameters()
        }
        for parameter in self._parameters.values():
            parameter.data = parameter.data.to(dtype)
        self._whole: list[Tensor] = []
        if stage in (1, 2):
            self._view_flat_buffers()
        elif stage == 0 and dtype == torch.float32:
            for span, value in self._entries():
                # The accumulator is whole and in the compute dtype: it is the copy.
                self._parameters[span.name].data = value.view(span.shape)
        self.refresh()

    @property
    def values(self) -> list[Tensor]:
        """The fp32 values of this rank's shards."""
        return [shard.teacher for shard in self.shards if shard.teacher is not None]

    @torch.no_grad()
    def update(self) -> None:
        """Follow the student by one applied step, then refresh the copy. A collective."""
        masters = [shard.master for shard in self.shards]
        torch._foreach_lerp_(self.values, masters, 1 - self.momentum)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the fp32 shards into the frozen module. A collective at stages 1, 2 and 3."""
        if self.stage == 0:
            if self.dtype != torch.float32:
                copies = [self._parameters[span.name].view(-1) for span, _ in self._entries()]
                torch._foreach_copy_(copies, self.values)
        elif self.stage == 3:
            for shard, value in zip(self.shards, self.values, strict=True):
                self._unpack_columns(shard.spans, value)
        else:
            for whole, value in zip(self._whole, self.values, strict=True):
                self._gather(whole, value)

    def squared_distance(self) -> Tensor:
        """This rank's sums of (teacher - student)^2 and of student^2: float64 [2]."""
        masters = [shard.master for shard in self.shards]
        return torch.stack(squared_distance(self.values, masters))

    def check(self) -> None:
        """The copy holds this rank's fp32 values, cast to the compute dtype.

        Raises:
            JobFailed: the copy was gathered into the wrong places.
        """
        for shard, value in zip(self.shards, self.values, strict=True):
            for piece in shard.pieces:
                whole = self._parameters[piece.name].detach().reshape(-1)
                copy = whole[piece.offset : piece.offset + piece.numel]
                wanted = value[piece.start : piece.start + piece.numel]
                if not torch.equal(wanted.to(copy.device, copy.dtype), copy):
                    raise JobFailed(
                        "the teacher's copy differs from its fp32 shards",
                        where=f"{piece.name}, rank {dist.get_rank()}",
                        mend="report this: the layout of the shards is not what it is taken to be",
                    )

    def _entries(self) -> list[tuple[Span, Tensor]]:
        """At stage 0 a shard is one parameter."""
        return [(s.spans[0], v) for s, v in zip(self.shards, self.values, strict=True)]

    def _view_flat_buffers(self) -> None:
        """Stages 1 and 2: parameters become views where the gathered shards put their values."""
        for shard in self.shards:
            size = shard.master.numel() * dist.get_world_size()
            whole = torch.zeros(size, dtype=self.dtype, device=self.device)
            self._whole.append(whole)
            for span in shard.spans:
                run = whole[span.start : span.start + span.width]
                self._parameters[span.name].data = run.view(span.shape)

    def _unpack_columns(self, spans: list[Span], value: Tensor) -> None:
        """Stage 3: rank by rank, a parameter's parts are the same columns of the gathered rows."""
        world = dist.get_world_size()
        rows = torch.empty(world, value.numel(), dtype=self.dtype, device=self.device)
        self._gather(rows.view(-1), value)
        for span in spans:
            parts = rows[:, span.start : span.start + span.width].reshape(-1)
            self._parameters[span.name].copy_(parts[: span.shape.numel()].view(span.shape))

    def _gather(self, whole: Tensor, value: Tensor) -> None:
        """Every rank's `value`, in the compute dtype, one after the other in `whole`."""
        mine = value.to(self.device, self.dtype)
        if dist.get_world_size() == 1:
            whole.copy_(mine)
        else:
            dist.all_gather_into_tensor(whole, mine)
