"""Memory of a rank by ZeRO stage: measured tensor by tensor, and as `plan` estimates it.

Ranks train a few steps over gloo (NCCL where there are GPUs), without Ray, on random pixels in
memory. Every storage that an operation returns is counted for as long as it is alive. That is
exact where a process's resident size is not; what a library takes for itself is not in it.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from orchestrator.bench.ranks import join_process_group, run_ranks
from orchestrator.bench.training_step import random_batch
from orchestrator.data.loader.batch import Batch
from orchestrator.errors import RequestError
from orchestrator.estimate import BatchSizes, MemoryEstimate, estimate_job
from orchestrator.estimate.memory import ZERO_STAGES, ZeroStage
from orchestrator.jepa.objectives import build_objective, randomly_initialized_teacher
from orchestrator.job import TrainJob, job_dict, load_job, require_kind
from orchestrator.training.engine.engine import Engine

STEPS = 3
"""Steps of each stage; the moments are made in the first, and the last one is measured."""


def bench_memory(job: TrainJob, ranks: int = 2) -> dict[str, Any]:
    """Bytes of a rank at every ZeRO stage: measured, estimated, and their ratio.

    On a CPU the host's part of an offload is in the sum, measured and planned.

    Raises:
        RequestError: a part of the job is a user's own, so that it has no plan.
        JobFailed: a rank failed.
    """
    if estimate_job(job).parameters is None:
        raise RequestError(
            "a part of the job is your own: there is no plan to compare with", where=job.name
        )
    scale = job.scale.model_copy(update={"workers": ranks})
    job = job.model_copy(update={"scale": scale})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "job.yaml"
        file.write_text(yaml.safe_dump(job_dict(job)))
        rows = [json.loads(line) for line in run_ranks(ranks, __name__, str(file))]
    # The rank that holds most: parts are padded, and not every rank has the same.
    stages = [
        max(stage, key=lambda row: row["measured"]["peak"]) for stage in zip(*rows, strict=True)
    ]
    return {"ranks": ranks, "precision": scale.precision, "stages": stages}


class TensorMemoryTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's hook has no types
    """Counts the bytes of every storage that operations return, until it is freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.peak = 0
        self._live_storages: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        # Arguments too: what numpy gave was made by no operation.
        tree_map_only(Tensor, self._count, (args, out))
        return out

    def _count(self, tensor: Tensor) -> Tensor:
        if tensor.device.type == "meta":
            return tensor
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if size and key not in self._live_storages:

            def freed(_: object) -> None:
                del self._live_storages[key]
                self.bytes -= size

            self._live_storages[key] = weakref.ref(storage, freed)
            self.bytes += size
            self.peak = max(self.peak, self.bytes)
        return tensor


def _measure(job: TrainJob, rank: int, device: torch.device) -> dict[str, Any]:
    """This rank's bytes at the stage of `job`."""
    batch = BatchSizes.from_scale(job.scale)
    alive = TensorMemoryTracker()
    with alive:
        engine = Engine(build_objective(job), job, batch, device, randomly_initialized_teacher(job))
        micro = [random_batch(job, rank * batch.accum + i, device) for i in range(batch.accum)]
        for _ in range(STEPS):
            alive.peak = alive.bytes
            engine.train_step(micro)
            gc.collect()
        kept, peak = alive.bytes, alive.peak
    parts = _persistent_bytes(engine)
    rest = kept - sum(parts.values()) - sum(_bytes(_tensors(one)) for one in micro)
    measured = {**parts, "gradients": rest, "kept": kept, "peak": peak}
    planned = _planned(estimate_job(job).memory[job.scale.zero])
    return {
        "stage": job.scale.zero,
        "offload": job.scale.offload,
        "measured": measured,
        "planned": planned,
        "planned_over_measured": planned["peak"] / peak,
    }


def _persistent_bytes(engine: Engine) -> dict[str, int]:
    """What is kept between steps, by what it is for; the rest is gradients and their buffers."""
    parameters: list[Any] = list(engine.objective.parameters())
    whole = [p.data for p in parameters]
    if engine.zero_stage == 3:
        whole += [p.ds_tensor.data for p in parameters]
    follower = engine.ema_teacher
    copied = engine.teacher.parameters() if engine.teacher is not None else ()
    teacher = [*copied, *(follower.shard_values if follower else ())]
    state = [t for s in engine.shards for t in (s.master, s.exp_avg, s.exp_avg_sq)]
    weights = _storages(whole)
    return {
        "parameters": sum(weights.values()),
        # At stage 0 the parameters are the masters.
        "optimizer": sum(n for key, n in _storages(state).items() if key not in weights),
        "teacher": _bytes(teacher),
    }


def _planned(memory: MemoryEstimate) -> dict[str, float]:
    return {
        "parameters": memory.parameters,
        "optimizer": memory.optimizer,
        "teacher": memory.teacher,
        "gradients": memory.gradients,
        "kept": memory.between_steps + memory.host,
        "peak": memory.device + memory.host,
    }


def _tensors(batch: Batch) -> list[Tensor]:
    return [batch.video, batch.weight, *(ids for mask in batch.masks for ids in mask)]


def _storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    held = [tensor.untyped_storage() for tensor in tensors]
    return {storage._cdata: storage.nbytes() for storage in held}


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(_storages(tensors).values())


def _rank(file: str) -> None:
    job = require_kind(load_job(file), TrainJob)
    rank, _, device = join_process_group(job.scale)
    found = [_measure(_with_zero_stage(job, stage, device), rank, device) for stage in ZERO_STAGES]
    print(json.dumps(found))
    dist.destroy_process_group()


def _with_zero_stage(job: TrainJob, stage: ZeroStage, device: torch.device) -> TrainJob:
    update = {
        "zero": stage,
        "offload": job.scale.offload and stage > 0,
        "device": "cpu" if device.type == "cpu" else "gpu",
    }
    return job.model_copy(update={"scale": job.scale.model_copy(update=update)})


if __name__ == "__main__":
    _rank(sys.argv[1])
