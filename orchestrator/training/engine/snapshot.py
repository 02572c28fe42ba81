"""What a rank owns of the training state, copied to the host and put back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from orchestrator.errors import JobFailed
from orchestrator.storage import with_retries
from orchestrator.training.engine import shard_layout as layout
from orchestrator.training.engine.shard_layout import TENSOR_KINDS, ParameterSlice, Shard
from orchestrator.training.engine.tensor_slices import SliceReader, TensorSlice

if TYPE_CHECKING:
    from orchestrator.training.engine.engine import Engine


@dataclass(frozen=True)
class Snapshot:
    """This rank's share of the state after `step` steps, on the host."""

    step: int
    adam_step: int
    """Applied steps, as AdamW counts them for its bias correction."""

    slices: list[TensorSlice]


def take_snapshot(engine: Engine) -> Snapshot:
    """Copy what this rank owns to the host. Training may go on as soon as this returns.

    At stage 0 every rank holds everything: each then owns an equal run of all elements.
    """
    slices = []
    if dist.get_rank() == 0:
        for name, values in engine.untrained_parameters.items():
            slices.append(
                TensorSlice("student", name, tuple(values.shape), 0, values.float().reshape(-1))
            )
    pieces = (
        _stage0_share(engine.shards)
        if engine.zero_stage == 0
        else [s.slices for s in engine.shards]
    )
    for kind in TENSOR_KINDS:
        for shard, owned in zip(engine.shards, pieces, strict=True):
            buffer = shard.buffer(kind)
            if buffer is not None and owned:
                # One copy off the device for a shard, not one for each of its parameters.
                low = owned[0].shard_offset
                high = owned[-1].shard_offset + owned[-1].numel
                host = buffer[low:high].detach().to("cpu", copy=True)
                for piece in owned:
                    data = host[piece.shard_offset - low : piece.shard_offset - low + piece.numel]
                    slices.append(_make_slice(engine, kind, piece, data))
    return Snapshot(engine.step, engine.adam_step, slices)


def restore_snapshot(engine: Engine, reader: SliceReader, step: int, adam_step: int) -> None:
    """Put a checkpoint's elements where this rank keeps them, whatever layout wrote them.

    Raises:
        JobFailed: what DeepSpeed holds afterwards is not what was read.
        DataError: the checkpoint does not hold what this model needs.
    """
    held = list(_owned_views(engine, engine.shards))
    wanted = [_make_slice(engine, kind, piece, torch.empty(piece.numel)) for kind, piece, _ in held]
    with_retries(reader.read, wanted)
    with torch.no_grad():
        for (_, _, values), slice_ in zip(held, wanted, strict=True):
            values.copy_(slice_.data)
        for shard in engine.shards:
            shard.step.fill_(float(adam_step))
        layout.refresh_compute_weights(engine.deepspeed)
        if engine.ema_teacher is not None:
            engine.ema_teacher.refresh()
    engine.step = step
    _verify_restored(engine, wanted, adam_step)


def _verify_restored(engine: Engine, wanted: list[TensorSlice], adam_step: int) -> None:
    """Read everything back from where DeepSpeed holds it now."""
    fresh = engine.read_shards()
    for now, before in zip(fresh, engine.shards, strict=True):
        now.teacher = before.teacher
    for (kind, piece, values), slice_ in zip(_owned_views(engine, fresh), wanted, strict=True):
        if not torch.equal(values.detach().cpu(), slice_.data):
            raise JobFailed(
                f"{kind} of {piece.name} did not take the checkpoint's values",
                where=f"rank {dist.get_rank()}, ZeRO stage {engine.zero_stage}",
                hint="report this: the run's files are as they were",
            )
    layout.verify_compute_weights(fresh)
    if engine.ema_teacher is not None:
        engine.ema_teacher.verify()
    if engine.adam_step != adam_step:
        raise JobFailed(f"AdamW holds step {engine.adam_step}, the checkpoint {adam_step}")


def write_exact_masters(shards: list[Shard], fp32_parameters: dict[str, Tensor]) -> None:
    """Give the masters their exact fp32 values: DeepSpeed makes them from bf16 weights."""
    with torch.no_grad():
        for shard in shards:
            for piece in shard.slices:
                run = fp32_parameters[piece.name].view(-1)[
                    piece.parameter_offset : piece.parameter_offset + piece.numel
                ]
                shard.master[piece.shard_offset : piece.shard_offset + piece.numel].copy_(run)


def _owned_views(
    engine: Engine, shards: list[Shard]
) -> Iterator[tuple[str, ParameterSlice, Tensor]]:
    """Every run of elements that this rank holds, as a view."""
    for kind in TENSOR_KINDS:
        for shard in shards:
            buffer = shard.buffer(kind)
            if buffer is not None:
                for piece in shard.slices:
                    yield kind, piece, buffer[piece.shard_offset : piece.shard_offset + piece.numel]


def _make_slice(engine: Engine, kind: str, piece: ParameterSlice, data: Tensor) -> TensorSlice:
    """The teacher's tensors are named as in the module that it copies."""
    name = piece.name.removeprefix(f"{engine.ema_module}.") if kind == "teacher" else piece.name
    return TensorSlice(kind, name, piece.shape, piece.parameter_offset, data)


def _stage0_share(shards: list[Shard]) -> list[list[ParameterSlice]]:
    """Stage 0: this rank's equal run of the concatenation of all parameters."""
    rank, world = dist.get_rank(), dist.get_world_size()
    total = sum(shard.master.numel() for shard in shards)
    low, high = total * rank // world, total * (rank + 1) // world
    out, at = [], 0
    for shard in shards:
        (piece,) = shard.slices
        begin, end = max(low - at, 0), min(high - at, piece.numel)
        mine = ParameterSlice(piece.name, piece.shape, begin, begin, end - begin)
        out.append([mine] if begin < end else [])
        at += piece.numel
    return out
