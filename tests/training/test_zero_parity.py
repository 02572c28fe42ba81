"""Every world size and ZeRO stage trains what one process with plain torch trains."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from orchestrator.jepa.objectives import build_objective
from orchestrator.jepa.pixel_normalization import normalise
from orchestrator.training.engine.schedule import learning_rate, weight_decay
from tests.support.ranks import (
    STEPS,
    gather_slices,
    make_engine,
    random_batch,
    rank_micro_batches,
    run_ranks,
    tiny_job,
)

pytestmark = pytest.mark.integration

Tensors = dict[str, torch.Tensor]


@dataclass
class Trained:
    """What a run is judged by. `copy` is the teacher that gives the targets."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    gradient: Tensors = field(default_factory=dict)
    student: Tensors = field(default_factory=dict)
    teacher: Tensors = field(default_factory=dict)
    copy: Tensors = field(default_factory=dict)


@functools.cache
def plain_torch(steps: int = STEPS) -> Trained:
    """The reference: one process, the whole batch in one forward, torch's own AdamW."""
    job = tiny_job()
    model = build_objective(job)
    teacher = copy.deepcopy(model.encoder)
    decay = [p for p in model.parameters() if p.ndim > 1]
    fixed = [p for p in model.parameters() if p.ndim <= 1]
    adamw = torch.optim.AdamW([{"params": decay}, {"params": fixed}], foreach=False)
    out = Trained()
    for step in range(steps):
        adamw.param_groups[0]["weight_decay"] = weight_decay(job.optim, step)
        adamw.param_groups[1]["weight_decay"] = 0.0
        for group in adamw.param_groups:
            group["lr"] = learning_rate(job.optim, step)
        batch = random_batch(step)
        video = normalise(batch.video, torch.float32)
        with torch.no_grad():
            targets = model.targets(teacher, video)
        clips = model(video, batch.masks, targets).loss
        loss = (clips * batch.weight).sum() / batch.weight.sum()
        adamw.zero_grad()
        loss.backward()
        out.norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        if step == 0:
            out.gradient = {n: p.grad.clone() for n, p in model.named_parameters()}
        adamw.step()
        with torch.no_grad():
            for theirs, mine in zip(teacher.parameters(), model.encoder.parameters(), strict=True):
                theirs.mul_(0.99).add_(mine, alpha=0.01)
        out.losses.append(float(loss.detach()))
    out.student = {n: p.detach().clone() for n, p in model.named_parameters()}
    out.teacher = out.copy = {n: p.detach().clone() for n, p in teacher.named_parameters()}
    return out


def train_cases(rank: int, world: int, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """On a rank: each case in turn, in one process group."""
    return [train_case(rank, world, **case) for case in cases]


def train_case(
    rank: int,
    world: int,
    scale: dict[str, Any],
    steps: int = STEPS,
    persist: int | None = None,
    fault: str = "",
) -> dict[str, Any]:
    """Train; `persist` is ZeRO-3's threshold for parameters that stay whole."""
    from orchestrator.training.engine import engine as engine_module

    # World 1 and 2 accumulate two micro-batches, 3 pads four rows, 4 does neither.
    scale = {"micro_batch": 4 if world == 1 else 2} | scale
    configure = engine_module.deepspeed_config
    if persist is not None:

        def with_threshold(*arguments: Any) -> dict[str, Any]:
            config = configure(*arguments)
            config["zero_optimization"]["stage3_param_persistence_threshold"] = persist
            return config

        engine_module.deepspeed_config = with_threshold
    try:
        engine = make_engine(tiny_job(scale=scale), world)
    finally:
        engine_module.deepspeed_config = configure
    plant(engine, fault)
    out: dict[str, Any] = {"losses": [], "norms": []}
    for step in range(steps):
        batch = random_batch(step)
        if fault == "clip dropped":
            batch.weight[7] = 0.0
        result = engine.train_step(rank_micro_batches(batch, engine.batch_plan, rank))
        assert result.applied
        out["losses"].append(result.loss)
        out["norms"].append(result.grad_norm)
        if step == 0:
            out["first"] = engine.take_snapshot().slices
    out["last"] = engine.take_snapshot().slices
    out["copy"] = {n: p.float().clone() for n, p in engine.teacher.named_parameters()}
    return out


def plant(engine: Any, fault: str) -> None:
    """Break the engine in one place."""
    if fault == "no all-reduce":
        engine.deepspeed.enable_backward_allreduce = False
    elif fault == "teacher frozen":
        engine.ema_teacher.update = lambda: None
    elif fault == "teacher not refreshed":
        engine.ema_teacher.refresh = lambda: None


def assembled(ranks: list[list[dict[str, Any]]], index: int, agree: bool = True) -> Trained:
    """One case's tensors from all ranks' slices; the ranks `agree` on loss and teacher."""
    first = [s for rank in ranks for s in rank[index]["first"]]
    last = [s for rank in ranks for s in rank[index]["last"]]
    case = ranks[0][index]
    # After one step Adam's first moment is 0.1 times the gradient, whatever the stage.
    gradient = {n: v / (1 - 0.9) for n, v in gather_slices(first, "exp_avg").items()}
    for other in ranks if agree else []:
        assert other[index]["losses"] == case["losses"]
        assert all(torch.equal(v, other[index]["copy"][n]) for n, v in case["copy"].items())
    return Trained(
        case["losses"],
        case["norms"],
        gradient,
        gather_slices(last, "student"),
        gather_slices(last, "teacher"),
        case["copy"],
    )


def apart(mine: Tensors, reference: Tensors) -> float:
    """Norm of the difference of two whole models."""
    assert mine.keys() == reference.keys()
    return (
        sum(
            float((mine[name].reshape(-1) - values.reshape(-1)).double().square().sum())
            for name, values in reference.items()
        )
        ** 0.5
    )


def size(tensors: Tensors) -> float:
    return apart({n: torch.zeros_like(v) for n, v in tensors.items()}, tensors)


def misses(mine: Trained, reference: Trained) -> dict[str, float]:
    """How far each quantity is from the reference, as a multiple of its bound."""
    job = tiny_job()
    start = {n: p.detach() for n, p in build_objective(job).named_parameters()}
    encoder = {n.removeprefix("encoder."): v for n, v in start.items() if n.startswith("encoder.")}
    losses = [abs(a - b) for a, b in zip(mine.losses, reference.losses, strict=True)]
    out = {
        "gradient": apart(mine.gradient, reference.gradient) / size(reference.gradient) / 1e-6,
        "norm": abs(mine.norms[0] / reference.norms[0] - 1) / 1e-6,
        "loss": max(losses) / 1e-5,
    }
    for part, begin in (("student", start), ("teacher", encoder), ("copy", encoder)):
        ours, theirs = getattr(mine, part), getattr(reference, part)
        out[part] = apart(ours, theirs) / size(theirs) / 1e-5
        out[f"{part} moved"] = apart(ours, theirs) / apart(begin, theirs) / 1e-3
    return out


SMALL = 10
CASES: dict[str, dict[str, Any]] = {
    f"zero {stage}": {"scale": {"zero": stage}} for stage in (0, 1, 2, 3)
}
MORE: dict[str, dict[str, Any]] = {
    "zero 1, offload": {"scale": {"zero": 1, "offload": True}, "steps": SMALL},
    "zero 2, offload": {"scale": {"zero": 2, "offload": True}, "steps": SMALL},
    "zero 3, offload": {"scale": {"zero": 3, "offload": True}, "steps": SMALL},
    "zero 3, nothing stays whole": {"scale": {"zero": 3}, "steps": SMALL, "persist": 0},
    "zero 3, activation checkpointing": {
        "scale": {"zero": 3, "activation_checkpointing": True},
        "steps": SMALL,
        "persist": 0,
    },
}
UNEVEN = {name: {**case, "steps": SMALL} for name, case in CASES.items()}
BY_WORLD = {1: CASES, 2: CASES | MORE, 3: UNEVEN, 4: CASES}


@functools.cache
def trained(world: int) -> dict[str, Trained]:
    """All cases of a world size, trained in one set of processes."""
    cases = BY_WORLD[world]
    ranks = run_ranks(world, train_cases, list(cases.values()))
    return {name: assembled(ranks, index) for index, name in enumerate(cases)}


@pytest.mark.parametrize(
    ("world", "name"), [(world, name) for world, cases in BY_WORLD.items() for name in cases]
)
def test_trains_what_plain_torch_trains(world: int, name: str) -> None:
    steps = BY_WORLD[world][name].get("steps", STEPS)
    found = misses(trained(world)[name], plain_torch(steps))
    assert max(found.values()) < 1, found


# At stage 0 in fp32 the teacher's accumulator is its copy: there is nothing to refresh.
FAULTS = {"no all-reduce": 0, "clip dropped": 0, "teacher frozen": 1, "teacher not refreshed": 1}


@functools.cache
def faulty() -> dict[str, Trained]:
    """What the engine trains when it is broken in one place."""
    cases = [{"scale": {"zero": stage}, "fault": fault} for fault, stage in FAULTS.items()]
    ranks = run_ranks(2, train_cases, cases)
    return {fault: assembled(ranks, index, agree=False) for index, fault in enumerate(FAULTS)}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_misses_the_bound_a_hundredfold(fault: str) -> None:
    found = misses(faulty()[fault], plain_torch())
    assert max(found.values()) > 100, found
