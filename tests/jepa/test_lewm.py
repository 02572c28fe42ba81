"""LeWorldModel against a reference in words, and what its model gives and refuses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from orchestrator.errors import RequestError
from orchestrator.evaluation.measures.surprise import ContextSpec, context_specs, encode_windows
from orchestrator.jepa.model_files import load_folder, save_model
from orchestrator.jepa.objectives import LeWMObjective, build_objective
from orchestrator.jepa.objectives.lewm.predictor import LeWMPredictor
from orchestrator.jepa.pixel_normalization import normalise

LEWM = (
    "objective={kind: lewm, slices: 8, hidden: 20, weight: 0.3}",
    "model.encoder.attention=moment",
    "model.tubelet=1",
)


def layer_norm(x: Tensor) -> Tensor:
    spread = ((x - x.mean(-1, keepdim=True)) ** 2).mean(-1, keepdim=True)
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(spread + 1e-6)


def projected(projection: Any, x: Tensor) -> Tensor:
    inner = layer_norm(x @ projection.fc1.weight.T + projection.fc1.bias)
    inner = inner * projection.norm.weight + projection.norm.bias
    inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
    return inner @ projection.fc2.weight.T + projection.fc2.bias


def naive(objective: LeWMObjective, video: Tensor, seed: int) -> Tensor:
    """The mean loss of a whole set, float64: one frame, one prediction, one moment at a time."""
    z = []
    for clip in video.double():
        frames = [objective.encoder.patches(clip[None, :, t : t + 1]) for t in range(len(clip[0]))]
        z.append(
            torch.stack([projected(objective.encoder.projection, f[0].mean(0)) for f in frames])
        )
    embeddings = torch.stack(z)
    clips, moments, dim = embeddings.shape
    errors = []
    for t in range(1, moments):  # what follows t moments, from these alone
        guess = objective.predictor.predict_one_step(embeddings[:, :t])[:, -1]
        errors.append(((guess - embeddings[:, t]) ** 2).mean())
    draw = torch.Generator().manual_seed(seed)
    directions = torch.randn(dim, objective.slices, generator=draw, dtype=torch.float64)
    directions = directions / directions.norm(dim=0)
    t = torch.linspace(-3, 3, 33, dtype=torch.float64)
    normal = torch.exp(-t * t / 2)
    statistic = []
    for moment in range(moments):
        x = embeddings[:, moment] @ directions
        phi = torch.exp(1j * x[..., None] * t).mean(0)
        gap = (phi - normal).abs() ** 2 * normal
        statistic.append(clips * torch.trapezoid(gap, t, dim=-1).mean())
    return torch.stack(errors).mean() + objective.sigreg_weight * torch.stack(statistic).mean()


def test_loss_and_gradients_against_a_naive_float64_reference(make_job: Any, video: Tensor) -> None:
    objective = build_objective(make_job(*LEWM))
    assert isinstance(objective, LeWMObjective)
    assert (objective.averaged, objective.momentum) == (None, None)
    x = normalise(video, torch.float32)
    output = objective(x, [], None)
    assert output.features.shape == (2, 8, 48)
    loss = output.loss.mean()
    loss.backward()
    exact = copy.deepcopy(objective).double()
    exact.zero_grad()
    wanted = naive(exact, x, 0)
    wanted.backward()
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    for (name, ours), theirs in zip(objective.named_parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None, name
        assert theirs.grad is not None
        gap = float((ours.grad - theirs.grad).norm())
        assert gap < 1e-3 * float(theirs.grad.norm()) + 1e-6, name


def test_no_moment_sees_a_later_one(make_job: Any, video: Tensor) -> None:
    objective = build_objective(make_job(*LEWM))
    x = normalise(video, torch.float32)
    changed = x.clone()
    changed[:, :, 5:] += 1
    z, other = objective.encoder(x), objective.encoder(changed)
    assert torch.equal(z[:, :5], other[:, :5])
    ahead, there = (
        objective.predictor.predict_one_step(z),
        objective.predictor.predict_one_step(other),
    )
    assert torch.allclose(ahead[:, :5], there[:, :5], atol=1e-6)
    assert not torch.allclose(ahead[:, 5:], there[:, 5:], atol=1e-3)


def test_a_saved_model_encodes_moments_and_can_be_surprised(
    tmp_path: Path, make_job: Any, video: Tensor
) -> None:
    job = make_job(*LEWM)
    objective = build_objective(job)
    save_model(tmp_path, objective, None, job, {})
    model = load_folder(tmp_path)
    z = model.encode(video)
    assert z.shape == (2, 8, 48)
    assert torch.allclose(z, objective.encoder(normalise(video, torch.float32)), atol=1e-6)
    assert torch.allclose(model.encode(video, seen=3), z[:, :3], atol=1e-6)
    assert model.clip.grid == (8, 1, 1)
    assert isinstance(model.predictor, LeWMPredictor)

    far = model.foresee(z[:, :6])
    first = model.predictor.predict_one_step(z[:, :6])[:, -1:]
    again = model.predictor.predict_one_step(torch.cat([z[:, :6], first], 1))[:, -1:]
    assert torch.allclose(far, torch.cat([first, again], 1), atol=1e-6)

    views = context_specs(model, [4])
    assert views == [ContextSpec(4, 0, 1)]
    errors = encode_windows(model, video, views).errors[views[0]]
    assert errors.shape == (2, 8)
    came = (model.predictor.predict_one_step(z)[:, 3:-1] - z[:, 4:]).abs().mean(-1)
    assert torch.allclose(errors[:, 4:], came, atol=1e-6)
    assert bool(errors[:, :4].isnan().all())
    untaught = model.untaught(1)
    assert untaught.encode(video).shape == z.shape
    assert not torch.allclose(untaught.encode(video), z)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (LEWM[:1], "write moment"),
        ((*LEWM, "data.frames=1"), "nothing comes after it"),
        ((*LEWM, "objective.statistic_clips=5"), "do not divide scale.global_batch"),
    ],
)
def test_what_cannot_be_is_refused(make_job: Any, overrides: tuple[str, ...], text: str) -> None:
    with pytest.raises(RequestError, match=text):
        make_job(*overrides)
