"""Speed of a training step, with data in memory and one process.

Ours is timed beside a bare DeepSpeed loop of the same model and, where a checkout is given,
beside V-JEPA 2's published step. They take turns, so that what else the machine does weighs on
all of them alike.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from orchestrator.bench.vjepa2_reference import vjepa2_step
from orchestrator.data.loader.action_data import require_resolved
from orchestrator.data.loader.batch import Batch
from orchestrator.estimate import BatchSizes, estimate_job, peak_flops
from orchestrator.jepa.action_batch import ActionBatch
from orchestrator.jepa.masks import build_mask_samplers
from orchestrator.jepa.objectives import build_objective, randomly_initialized_teacher
from orchestrator.jepa.pixel_normalization import normalise
from orchestrator.job import Actions, TrainJob
from orchestrator.randomness import generator
from orchestrator.training.distributed import local_context
from orchestrator.training.engine.deepspeed_config import deepspeed_config, initialize_deepspeed
from orchestrator.training.engine.engine import Engine
from orchestrator.training.engine.optimizer import apply_schedule, build_optimizer
from orchestrator.training.engine.step import StepModule

StepContender = Callable[[Batch], float]

WARMUP = 3
NUM_BATCHES = 4
"""Number of batches in memory, used cyclically."""


def bench_step(job: TrainJob, against: Path | None = None, steps: int = 20) -> dict[str, Any]:
    """Seconds, clips/s and MFU of a step of `micro_batch` clips; ratios to the others.

    A ratio is theirs over ours, round by round, and its median: above 1, ours is faster.

    Args:
        job: its scale says stage, precision, micro-batch and device; one process runs it.
        against: a checkout of facebookresearch/vjepa2.
        steps: rounds that are timed, after a warm-up.
    """
    job = single_process_job(job)
    device = local_context(job.scale.device).device
    contenders: dict[str, StepContender] = {"ours": engine_step(job, device)}
    contenders["deepspeed"] = deepspeed_step(job, device)
    if against is not None:
        contenders["vjepa2"] = vjepa2_step(against, build_objective(job), job, device)
    batches = [random_batch(job, i, device) for i in range(NUM_BATCHES)]
    seconds, losses = time_contenders(contenders, batches, steps, device)
    return summarize(job, device, seconds, losses)


def single_process_job(job: TrainJob) -> TrainJob:
    """The job for one process: one micro-batch per step."""
    scale = job.scale.model_copy(update={"workers": 1, "global_batch": job.scale.micro_batch})
    return job.model_copy(update={"scale": scale})


def time_contenders(
    contenders: dict[str, StepContender], batches: list[Batch], steps: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of every timed step, and the first losses. The order turns with every round."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    first: dict[str, float] = {}
    names = list(contenders)
    for turn in range(WARMUP + steps):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            _wait(device)
            began = time.perf_counter()
            loss = contenders[name](batches[turn % len(batches)])
            _wait(device)
            first.setdefault(name, loss)
            if turn >= WARMUP:
                seconds[name].append(time.perf_counter() - began)
    return seconds, first


def summarize(
    job: TrainJob,
    device: torch.device,
    seconds: dict[str, list[float]],
    losses: dict[str, float],
) -> dict[str, Any]:
    """Medians, rates, ratios."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    flops = estimate_job(job).flops
    peak = peak_flops(name)
    result: dict[str, Any] = {
        "device": name,
        "threads": torch.get_num_threads(),
        "steps": len(seconds["ours"]),
        "clips": job.scale.micro_batch,
        "zero": job.scale.zero,
        "precision": job.scale.precision,
        "compile": job.scale.compile,
        "first_loss": losses,
        "step_s": {who: statistics.median(times) for who, times in seconds.items()},
    }
    ours = result["step_s"]["ours"]
    result["clips_per_s"] = job.scale.micro_batch / ours
    if flops is not None:
        result["flops"] = flops.total
        result["flops_per_s"] = flops.total / ours
        result["mfu"] = flops.total / ours / peak if peak else None
    if device.type == "cuda":
        result["memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    for who, times in seconds.items():
        if who != "ours":
            rounds = [a / b for a, b in zip(times, seconds["ours"], strict=True)]
            result[f"{who}_over_ours"] = statistics.median(rounds)
    return result


def engine_step(job: TrainJob, device: torch.device) -> StepContender:
    """The engine's step."""
    batch, fixed = BatchSizes.from_scale(job.scale, 1), randomly_initialized_teacher(job)
    engine = Engine(build_objective(job), job, batch, device, fixed)

    def step(batch: Batch) -> float:
        return engine.train_step([batch]).loss

    return step


def deepspeed_step(job: TrainJob, device: torch.device) -> StepContender:
    """A step written with DeepSpeed alone, for the same objective and optimizer.

    The moving average follows the weights that DeepSpeed computes with, so that it is right
    in fp32 only (at stage 3 it also needs them whole: none is kept there).
    """
    objective = build_objective(job).to(device).train()
    stage, followed = job.scale.zero, objective.averaged
    teacher, average, momentum = None, [], 0.0
    dtype = torch.bfloat16 if job.scale.precision == "bf16" else torch.float32
    if followed is not None and objective.momentum is not None:
        teacher = copy.deepcopy(objective.get_submodule(followed)).requires_grad_(False)
        average = [p.detach().float().clone() for p in teacher.parameters()]
        teacher.to(dtype)
        momentum = objective.momentum
    fixed = randomly_initialized_teacher(job)
    if fixed is not None:
        teacher = fixed.to(device, dtype).requires_grad_(False)
    optimizer = build_optimizer(
        objective.named_parameters(), job.optim, ema_module=followed, zero_stage=stage
    )
    if job.scale.compile:
        objective.compile_blocks()
    elements = sum(parameter.numel() for parameter in objective.parameters())
    config = deepspeed_config(job, BatchSizes.from_scale(job.scale, 1), device, elements)
    module = StepModule(objective, autocast=dtype != torch.float32 and stage == 0)
    engine = initialize_deepspeed(module, optimizer, config, device)
    counter = iter(range(2**62))

    def step(batch: Batch) -> float:
        apply_schedule(optimizer, job.optim, next(counter))
        video = normalise(batch.video.to(device, non_blocking=True), dtype)
        masks = [(c.to(device), t.to(device)) for c, t in batch.masks]
        weight = torch.full((len(video),), 1 / len(video), device=device)
        targets = objective.labels(batch.keys)
        if teacher is not None:
            targets = objective.targets(teacher, video)
        motion = batch.actions and ActionBatch(*(part.to(device) for part in batch.actions))
        loss, _ = engine(video, masks, targets, weight, motion)
        engine.backward(loss)
        engine.step()
        if teacher is not None and followed is not None and stage < 3:
            with torch.no_grad():
                student = [p.float() for p in objective.get_submodule(followed).parameters()]
                torch._foreach_lerp_(average, student, 1 - momentum)
                torch._foreach_copy_(list(teacher.parameters()), average)
        return float(loss.detach())

    return step


def random_batch(job: TrainJob, index: int, device: torch.device) -> Batch:
    """Random pixels and the job's own masks, in host memory (pinned for a GPU); beside
    `data.actions` random actions and states of its widths.

    Raises:
        RequestError: the job's `data.actions` does not say how wide they are.
    """
    rows, shape = job.scale.micro_batch, job.data
    draw = generator(job.seed, index, "clip")
    size = (rows, shape.frames, shape.size, shape.size, 3)
    video = torch.from_numpy(draw.integers(0, 256, size, dtype=np.uint8))
    masks = []
    for part, sampler in enumerate(build_mask_samplers(job)):
        pairs = [
            sampler(generator(job.seed, index * rows + row, "masks", part)) for row in range(rows)
        ]
        masks.append(
            (
                torch.from_numpy(np.stack([context for context, _ in pairs])),
                torch.from_numpy(np.stack([target for _, target in pairs])),
            )
        )
    motion = None if shape.actions is None else _made_motion(job, shape.actions, draw)
    if device.type == "cuda":
        video = video.pin_memory()
        masks = [(context.pin_memory(), target.pin_memory()) for context, target in masks]
        motion = motion and ActionBatch(*(part.pin_memory() for part in motion))
    names = [""] * rows
    return Batch(video, torch.ones(rows), np.arange(rows), masks, names, names, [], motion)


def _made_motion(job: TrainJob, act: Actions, draw: np.random.Generator) -> ActionBatch:
    statistics, _, width = require_resolved(act)
    rows, frames = job.scale.micro_batch, job.data.frames
    shapes = (rows, frames - 1, width), (rows, frames, len(statistics.state_mean))
    return ActionBatch(
        *(torch.from_numpy(draw.standard_normal(s, dtype=np.float32)) for s in shapes)
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
