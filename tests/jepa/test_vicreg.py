"""VICReg for video against a naive reference, its statistic however clips are dealt, its models."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from orchestrator import load_model
from orchestrator.errors import RequestError
from orchestrator.estimate import estimate_job
from orchestrator.jepa.action_batch import ActionBatch
from orchestrator.jepa.action_conditioned import ActionConditionedModel
from orchestrator.jepa.model_files import load_folder, save_model
from orchestrator.jepa.objectives import ClipSets, Objective, build_objective
from orchestrator.jepa.objectives.lewm.predictor import LeWMPredictor
from orchestrator.jepa.objectives.vicreg.objective import VICRegObjective
from orchestrator.jepa.pixel_normalization import normalise
from orchestrator.job import build_job, job_dict
from orchestrator.runner import run
from tests.support.estimates import planned_job
from tests.support.objectives import global_batch, rank_micro_batches_with_keys
from tests.support.ranks import make_engine, run_ranks, tiny_job

VICREG = (
    "objective={kind: vicreg, hidden: 20, embed: 6, rollout: 2, epsilon: 0.001}",
    "model.encoder.attention=moment",
    "model.tubelet=1",
)
STATISTICS = "{action_mean: [0.5, -2], action_std: [3, 0.25]}"
ACTIONS = f"data.actions={{frameskip: 1, statistics: {STATISTICS}}}"
EACH = "objective.statistic_timesteps=each"


def spread(built: Objective) -> VICRegObjective:
    """With embeddings and gates as training leaves them: at first nearly all are the same."""
    objective: Any = built
    assert isinstance(built, VICRegObjective)
    torch.manual_seed(3)
    torch.nn.init.normal_(objective.encoder.projection.fc2.weight, std=0.5)
    for name, parameter in objective.predictor.named_parameters():
        if "modulation" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return built


def clips(count: int = 6) -> Tensor:
    """Normalised video [count, 3, 8, 32, 32]: clips unlike each other."""
    draw = torch.Generator().manual_seed(5)
    coarse = torch.rand(count, 3, 4, 2, 2, generator=draw)
    fine = torch.nn.functional.interpolate(coarse, (8, 32, 32), mode="trilinear")
    video = (fine * 255).round().to(torch.uint8).permute(0, 2, 3, 4, 1)
    return normalise(video.contiguous(), torch.float32)


def motion(count: int = 6) -> ActionBatch:
    draw = torch.Generator().manual_seed(11)
    return ActionBatch(torch.randn(count, 7, 2, generator=draw), torch.zeros(count, 8, 0))


def naive_terms(x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Variance and covariance terms of samples [n, D], one number and one pair at a time."""
    count, dim = x.shape
    x = x - x.sum(0) / count
    short, off = torch.zeros((), dtype=x.dtype), torch.zeros((), dtype=x.dtype)
    for i in range(dim):
        std = torch.sqrt((x[:, i] ** 2).sum() / (count - 1) + epsilon)
        short = short + torch.relu(1 - std) / dim
        for j in range(dim):
            if i != j:
                off = off + ((x[:, i] * x[:, j]).sum() / (count - 1)) ** 2 / (dim * (dim - 1))
    return short, off


def naive(objective: VICRegObjective, x: Tensor, actions: Tensor | None, each: bool) -> Tensor:
    """The loss of one whole set, in words."""
    z = objective.encoder(x)
    count, steps = z.shape[:2]
    predict, read = objective.predictor.predict_one_step, objective.done
    first = [
        predict(z[:, :t], None if actions is None else actions[:, :t])[:, -1]
        for t in range(1, steps)
    ]
    ahead = torch.stack(first, 1)
    second = [
        predict(ahead[:, :t], None if actions is None else actions[:, 1 : t + 1])[:, -1]
        for t in range(1, steps - 1)
    ]
    errors = [((ahead - z[:, 1:]) ** 2).mean(), ((torch.stack(second, 1) - z[:, 2:]) ** 2).mean()]
    loss: Tensor = torch.stack(errors).mean()
    groups = [z[:, t] for t in range(steps)] if each else [z.reshape(count * steps, -1)]
    for group in groups:
        short, off = naive_terms(group, 0.001)
        loss = loss + (16 * short + 8 * off) / len(groups)
    loss = loss + 12 * sum(((z[:, t + 1] - z[:, t]) ** 2).mean() for t in range(7)) / 7
    if read is not None and actions is not None:
        told = read.read(torch.cat([z[:, :-1], z[:, 1:]], -1))
        mean, std = actions.new_tensor([0.5, -2]), actions.new_tensor([3, 0.25])
        loss = loss + ((told - (actions - mean) / std) ** 2).mean()
    return loss


@pytest.mark.parametrize("more", [(), (EACH,), (ACTIONS,), (ACTIONS, EACH)])
def test_loss_and_gradients_against_a_naive_float64_reference(
    make_job: Any, more: tuple[str, ...]
) -> None:
    objective, x = spread(build_objective(make_job(*VICREG, *more))), clips()
    done = motion() if ACTIONS in more else None
    output = objective(x, [], None, done)
    assert output.loss.shape == (6,)
    assert output.features.shape == (6, 8, 6)
    loss = output.loss.mean()
    loss.backward()
    exact = copy.deepcopy(objective).double()
    exact.zero_grad()
    wanted = naive(exact, x.double(), None if done is None else done.actions.double(), EACH in more)
    wanted.backward()
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    for (name, ours), theirs in zip(objective.named_parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None, name
        assert theirs.grad is not None
        assert float(theirs.grad.norm()) > 0, name
        gap = float((ours.grad - theirs.grad).norm())
        assert gap < 1e-3 * float(theirs.grad.norm()) + 1e-6, name


def parts_of_a_batch(objective: VICRegObjective, x: Tensor) -> list[tuple[Tensor, ClipSets]]:
    """Micro-batches of 2 clips in sets of 4, the seventh clip failed, after their first pass."""
    sets = torch.arange(len(x)) // 4
    weight = torch.tensor([1.0, 1, 1, 1, 1, 1, 0, 1])
    rows = torch.stack([weight * (sets == number) for number in range(2)])
    count = rows.sum(1)
    pools = [
        ClipSets(sets[at], (rows / count[:, None])[:, at], count, 0, lambda sums: sums)
        for at in torch.arange(len(x)).split(2)
    ]
    parts = list(zip(x.split(2), pools, strict=True))
    with torch.no_grad():
        sums = torch.stack([objective.partial_sums(*part) for part in parts]).sum(0)
    return [(video, replace(pool, precomputed_sums=sums)) for video, pool in parts]


@pytest.mark.parametrize("more", [(), (EACH,)])
def test_the_statistic_is_that_of_whole_sets_however_clips_are_dealt(
    make_job: Any, more: tuple[str, ...]
) -> None:
    objective, x = spread(build_objective(make_job(*VICREG, *more))), clips(8)
    weight, losses = torch.tensor([1.0, 1, 1, 1, 1, 1, 0, 1]), []
    for video, pool in parts_of_a_batch(objective, x):
        losses.append(objective(video, [], pool).loss)
    dealt = (torch.cat(losses) * weight).sum() / 7
    dealt.backward()
    found = {name: p.grad for name, p in objective.named_parameters()}
    objective.zero_grad(set_to_none=True)
    whole = [objective(x[rows], [], None).loss.sum() for rows in ([0, 1, 2, 3], [4, 5, 7])]
    (sum(whole) / 7).backward()
    assert float(dealt.detach()) == pytest.approx(float((sum(whole) / 7).detach()), rel=1e-5)
    for name, parameter in objective.named_parameters():
        ours, wanted = found[name], parameter.grad
        assert (ours is None) == (wanted is None) == ("action" in name), name
        if ours is not None and wanted is not None:
            assert torch.allclose(ours, wanted, rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize("more", [(), (EACH,)])
def test_collapse_is_penalised_and_pushed_apart(make_job: Any, more: tuple[str, ...]) -> None:
    objective = build_objective(make_job(*VICREG, *more))
    assert isinstance(objective, VICRegObjective)
    draw, pool = torch.Generator().manual_seed(1), ClipSets.single_set(torch.zeros(64))
    wide = 2 * torch.randn(64, 8, 6, generator=draw)
    same = 100 + 1e-3 * wide  # a mean that single precision could not square away
    alike = wide[..., :1].expand(-1, -1, 6)
    found = [float(objective.regularisation(z, pool).mean()) for z in (wide, same, alike)]
    # sqrt(4e-6 + epsilon) is short of 1 by 0.968; numbers that are all the same have covariance 4.
    assert found[1] == pytest.approx(16 * 0.968, rel=1e-3)
    assert found[2] > 8 * 10
    assert found[0] < 0.2 * found[1]  # 64 samples of covariance 0 have 4^2 / 64, times 8
    same.requires_grad_()
    (slope,) = torch.autograd.grad(objective.regularisation(same, pool).mean(), same)
    assert float((slope * (same - same.mean((0, 1)))).sum().detach()) < 0


def test_what_it_states_and_what_it_refuses(make_job: Any) -> None:
    config = make_job(*VICREG).objective_config
    assert (config.autoregressive, config.one_token_per_timestep) == (True, True)
    assert config.predicts_without_actions()
    for overrides, text in (
        (VICREG[:1], "write moment"),
        ((*VICREG, "data.frames=1"), "nothing comes after it"),
        ((*VICREG, "objective.rollout=8"), "8 moments ahead of a clip of 8"),
        ((*VICREG, "objective.statistic_clips=5"), "do not divide scale.global_batch"),
        ((*VICREG[:2], ACTIONS, "model.tubelet=2"), "write 1 beside data.actions"),
        ((*VICREG, "objective.slices=8"), "slices"),
    ):
        with pytest.raises(RequestError, match=text):
            make_job(*overrides)


@pytest.mark.parametrize("more", [(), (ACTIONS, EACH), ("objective.statistic_clips=2",)])
def test_a_step_costs_what_torch_counts(more: tuple[str, ...]) -> None:
    job = planned_job(*VICREG, *more)
    objective, planned = spread(build_objective(job)), estimate_job(job)
    video, done = torch.randn(4, 3, 8, 32, 32), motion(4) if ACTIONS in more else None
    assert planned.parameters is not None
    assert planned.parameters.trained == sum(p.numel() for p in objective.parameters())
    sets = 4 // objective.statistic_clips
    member = torch.arange(4) // (4 // sets)
    rows = torch.eye(sets)[member].T.contiguous() * sets / 4
    pool = replace(
        ClipSets.single_set(video),
        set_index=member,
        mean_weight=rows,
        clips_per_set=torch.full((sets,), 4.0 / sets),
    )
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        objective(video, [], pool, motion=done).loss.sum().backward()
    assert planned.flops is not None
    assert planned.flops.total == counter.get_total_flops()
    assert planned.flops.first_pass == 0
    again = estimate_job(planned_job(*VICREG, *more, "scale.micro_batch=2"))
    assert again.flops is not None
    assert again.flops.first_pass > 0


@pytest.mark.parametrize("more", [(), (ACTIONS,)])
def test_a_saved_model_loads_and_predicts(
    tmp_path: Path, make_job: Any, video: Tensor, more: tuple[str, ...]
) -> None:
    job = make_job(*VICREG, *more)
    objective = spread(build_objective(job))
    save_model(tmp_path, objective, None, job, {})
    model = load_folder(tmp_path)
    z = model.encode(video)
    assert z.shape == (2, 8, 6)
    assert torch.allclose(z, objective.encoder(normalise(video, torch.float32)), atol=1e-6)
    assert isinstance(model.predictor, LeWMPredictor)
    if not more:
        assert model.foresee(z[:, :6]).shape == (2, 2, 6)
        return
    assert isinstance(model, ActionConditionedModel)
    actions = motion(2).actions
    wanted = objective.predictor.predict_one_step(z, torch.cat([actions, actions[:, :1]], 1))
    found = model.predict(z[:, :7], actions)
    assert torch.allclose(found[:, 0], wanted[:, 6], atol=1e-5)


def train_ranks(rank: int, world: int) -> list[list[float]]:
    """Losses of three steps: of several micro-batches, of one, and with sharded weights."""
    found = []
    for scale in ({"micro_batch": 2}, {"micro_batch": 4, "zero": 3}):
        data = job_dict(tiny_job(scale=scale))
        data["objective"] = {"kind": "vicreg", "hidden": 24, "statistic_timesteps": "each"}
        data["model"]["encoder"] |= {"attention": "moment"}
        engine = make_engine(build_job(data), world)  # type: ignore[arg-type]
        plan = engine.batch_plan
        parts = [rank_micro_batches_with_keys(global_batch(step), plan, rank) for step in range(3)]
        found.append([engine.train_step(part).loss for part in parts])
    return found


@pytest.mark.integration
def test_every_world_size_and_accumulation_trains_the_same() -> None:
    one, two = run_ranks(1, train_ranks)[0], run_ranks(2, train_ranks)[0]
    for losses in (*one, *two):
        assert losses == pytest.approx(one[0], rel=1e-5)


@pytest.mark.integration
def test_two_steps_with_actions_from_a_world_to_a_model(tmp_path: Path) -> None:
    job = build_job(
        {
            "kind": "train",
            "name": "tiny",
            "storage": str(tmp_path),
            "data": {
                "source": "world://two-rooms?episodes=8&steps=40&seed=3&size=32",
                "frames": 4,
                "fps": 2.0,
                "size": 32,
                "actions": {"representation": "given"},
            },
            "model": {
                "encoder": {"kind": "conv", "dim": 16, "width": 8},
                "patch": 8,
                "tubelet": 1,
                "predictor": {"depth": 1, "dim": 16, "heads": 2},
            },
            "objective": {"kind": "vicreg", "hidden": 24, "embed": 8, "rollout": 3},
            "optim": {"steps": 2, "lr": 1e-3},
            "scale": {"global_batch": 4, "micro_batch": 2, "precision": "fp32", "cpus": 1},
            "track": {"register": "tiny", "every": 1, "pictures": 0},
        }
    )
    summary = run(job, local=True)
    metrics = MlflowClient(summary.tracking_uri).get_run(summary.run_id).data.metrics
    assert np.isfinite(metrics["train/loss"])
    model = load_model(summary.model_uri, tracking_uri=summary.tracking_uri)
    seen = np.random.default_rng(0).integers(0, 256, (2, 4, 32, 32, 3), dtype=np.uint8)
    assert model.encode(seen).shape == (2, 4, 8)
