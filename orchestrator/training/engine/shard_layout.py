"""Where DeepSpeed keeps this rank's fp32 masters and moments, stage by stage.

Everything that must know it (teacher, checkpoint) works on `Shard`s, and only this module
knows DeepSpeed's attributes. `verify_compute_weights` compares what was read with what the model
computes with, so that another DeepSpeed that lays out its buffers otherwise is found at the start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from orchestrator.errors import JobFailed
from orchestrator.training.engine.optimizer import adam_state

TENSOR_KINDS = ("student", "exp_avg", "exp_avg_sq", "teacher")
"""What is kept of every parameter: the fp32 weight, Adam's moments, the teacher's weight."""


@dataclass(frozen=True)
class ParameterSlice:
    """A run of one parameter's elements inside a shard of this rank."""

    name: str
    """Name in the objective, `encoder.blocks.0.attn.qkv.weight`."""

    shape: tuple[int, ...]
    """Shape of the whole parameter."""

    parameter_offset: int
    """First element, counted in the flattened parameter."""

    shard_offset: int
    """The same element, counted in the shard."""

    numel: int


@dataclass(frozen=True)
class GatheredRange:
    """Where a parameter stands in what all ranks' shards make together.

    Stages 1 and 2: `start` counts in the concatenation of the shards. Stage 3: every rank holds
    `width` elements (the last ones padding) from `start` of its own shard.
    """

    name: str
    shape: torch.Size
    start: int
    width: int


@dataclass
class Shard:
    """One fp32 master buffer of this rank with Adam's moments, all flat and of one length."""

    master: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: Tensor
    has_ema_teacher: bool
    """The teacher follows every parameter of this shard."""

    slices: list[ParameterSlice]
    gathered_ranges: list[GatheredRange]
    compute_slices: list[tuple[ParameterSlice, Tensor]] = field(default_factory=list)
    """What the model computes with, for each piece: flat, in the compute dtype."""

    teacher: Tensor | None = None
    """The EMA teacher's fp32 values, cut like `master`; set by `training/engine/ema_teacher.py`."""

    def buffer(self, kind: str) -> Tensor | None:
        """The buffer that a kind of slice is stored from: one of `TENSOR_KINDS`."""
        buffers = {
            "student": self.master,
            "exp_avg": self.exp_avg,
            "exp_avg_sq": self.exp_avg_sq,
            "teacher": self.teacher,
        }
        return buffers[kind]


def read_shards(
    engine: Any, optimizer: torch.optim.Optimizer, names: dict[int, str]
) -> list[Shard]:
    """The shards of this rank. `names` gives a parameter's name by its id.

    Every element of every trained parameter is in exactly one rank's pieces, except at
    stage 0, where every rank holds all of them.
    """
    stage = int(engine.zero_optimization_stage())
    if stage == 0:
        return [
            _stage0_shard(parameter, optimizer, group["followed"], names)
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]
    read = _stage3_shard if stage == 3 else _stage1_2_shard
    count = len(engine.optimizer.fp16_groups) if stage == 3 else len(optimizer.param_groups)
    return [read(engine.optimizer, optimizer, index, names) for index in range(count)]


def _stage0_shard(
    parameter: nn.Parameter,
    optimizer: torch.optim.Optimizer,
    followed: bool,
    names: dict[int, str],
) -> Shard:
    """Stage 0: the fp32 parameter is its own master, whole on every rank."""
    state = adam_state(optimizer, parameter)
    shape = parameter.shape
    piece = ParameterSlice(names[id(parameter)], tuple(shape), 0, 0, parameter.numel())
    return Shard(
        parameter.data.view(-1),
        state["exp_avg"].view(-1),
        state["exp_avg_sq"].view(-1),
        state["step"],
        followed,
        [piece],
        [GatheredRange(piece.name, shape, 0, piece.numel)],
    )


def _stage1_2_shard(
    zero: Any, optimizer: torch.optim.Optimizer, index: int, names: dict[int, str]
) -> Shard:
    """Stages 1 and 2: a group's parameters lie one after the other in a flat buffer, padded at
    the end to a multiple of 2 x world and cut in `world` equal parts.

    Two classes do this: BF16_Optimizer (stage 1, bf16, no offload) and DeepSpeedZeroOptimizer.
    """
    if hasattr(zero, "bf16_groups"):
        flat, members = zero.bf16_groups_flat[index], zero.bf16_groups[index]
        master = zero.fp32_groups_flat_partition[index]
    else:
        flat, members = zero.bit16_groups_flat[index], zero.bit16_groups[index]
        master = zero.single_partition_of_fp32_groups[index]
    size = master.numel()
    low = dist.get_rank() * size
    pieces, spans, compute = [], [], []
    for parameter in members:
        # Parameters are views into the flat buffer: their addresses say where they stand.
        at = (parameter.data_ptr() - flat.data_ptr()) // flat.element_size()
        name = names[id(parameter)]
        spans.append(GatheredRange(name, parameter.shape, at, parameter.numel()))
        begin, end = max(at, low), min(at + parameter.numel(), low + size)
        if begin < end:
            shape = tuple(parameter.shape)
            pieces.append(ParameterSlice(name, shape, begin - at, begin - low, end - begin))
            compute.append((pieces[-1], parameter.data.view(-1)[begin - at : end - at]))
    state = adam_state(optimizer, master)
    return Shard(
        master.data,
        state["exp_avg"],
        state["exp_avg_sq"],
        state["step"],
        optimizer.param_groups[index]["followed"],
        pieces,
        spans,
        compute,
    )


def _stage3_shard(
    zero: Any, optimizer: torch.optim.Optimizer, index: int, names: dict[int, str]
) -> Shard:
    """Stage 3: each parameter is padded to a multiple of `world` and cut in equal parts; a
    rank's parts of a sub-group of parameters lie one after the other."""
    master = zero.fp32_partitioned_groups_flat[index]
    pieces, spans, compute = [], [], []
    for parameter in zero.fp16_groups[index]:
        _, start, width = zero.grad_position[zero.get_param_id(parameter)]
        name, shape = names[id(parameter)], parameter.ds_shape
        spans.append(GatheredRange(name, shape, start, width))
        offset = dist.get_rank() * width
        numel = min(width, parameter.ds_numel - offset)
        if numel > 0:
            pieces.append(ParameterSlice(name, tuple(shape), offset, start, numel))
            compute.append((pieces[-1], parameter.ds_tensor.data.view(-1)[:numel]))
    state = adam_state(optimizer, master)
    group = optimizer.param_groups[zero.sub_group_to_group_id[index]]
    return Shard(
        master.data,
        state["exp_avg"],
        state["exp_avg_sq"],
        state["step"],
        group["followed"],
        pieces,
        spans,
        compute,
    )


@torch.no_grad()
def refresh_compute_weights(engine: Any) -> None:
    """Bring what the model computes with up to date with the masters. A collective."""
    stage, zero = int(engine.zero_optimization_stage()), engine.optimizer
    if stage in (1, 2):
        zero.update_lp_params()
    elif stage == 3:
        # Parameters that are whole now would keep their old values.
        zero._partition_all_parameters()
        for index in range(len(zero.fp16_groups)):
            zero._reassign_or_swap_out_partitioned_parameters(index)
        if zero.persistent_parameters:
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)


def verify_compute_weights(shards: list[Shard]) -> None:
    """The model computes with its masters, cast to the compute dtype.

    Raises:
        JobFailed: a buffer is not where this module takes it to be.
    """
    for shard in shards:
        for piece, values in shard.compute_slices:
            master = shard.master[piece.shard_offset : piece.shard_offset + piece.numel]
            if not torch.equal(master.to(values.device, values.dtype), values):
                raise JobFailed(
                    "the model's weights differ from their fp32 masters",
                    where=f"{piece.name}, rank {dist.get_rank()}",
                    hint="this DeepSpeed lays out its buffers in a way that is not known here: "
                    "install the version that the project names",
                )
