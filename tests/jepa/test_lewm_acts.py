"""LeWorldModel with actions: its loss in words, what its model predicts, and what it refuses."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from orchestrator.errors import RequestError
from orchestrator.evaluation.measures.surprise import context_specs
from orchestrator.jepa.action_batch import ActionBatch
from orchestrator.jepa.action_conditioned import ActionConditionedModel
from orchestrator.jepa.model_files import load_folder, save_model
from orchestrator.jepa.objectives import ClipSets, LeWMObjective, build_objective
from orchestrator.jepa.pixel_normalization import normalise
from orchestrator.jepa.rope import rotary_for_tokens
from orchestrator.planning.base import PlannableModel

MEAN, STD = (0.5, -2.0), (3.0, 0.25)
ACTS = (
    "objective={kind: lewm, slices: 8, hidden: 20, weight: 0.3}",
    "model.encoder.attention=moment",
    "model.tubelet=1",
    "data.actions={block: 3, statistics: {action_mean: [0.5, -2.0], action_std: [3.0, 0.25]}}",
)


def opened(objective: Any) -> LeWMObjective:
    """With gates as training leaves them: at zero no block would do anything."""
    torch.manual_seed(3)
    for block in objective.predictor.blocks:
        torch.nn.init.normal_(block.modulation.weight, std=0.3)
        torch.nn.init.normal_(block.modulation.bias, std=0.3)
    assert isinstance(objective, LeWMObjective)
    return objective


def done(clips: int = 2, steps: int = 7) -> Tensor:
    """What is done in clips, in a world's units: [clips, steps, 6]."""
    draw = torch.Generator().manual_seed(11)
    return torch.randn(clips, steps, 6, generator=draw) * 2 + 1


def normed(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, correction=0)[..., None] + 1e-6)


def naive_next(predictor: Any, z: Tensor, actions: Tensor) -> Tensor:
    """What follows the last of z's moments [n, dim], in words; actions [n, 6]."""
    x = predictor.embed(z)
    scaled = torch.stack(
        [
            torch.stack([(row[i] - MEAN[i % 2]) / STD[i % 2] for i in range(6)]).to(z.dtype)
            for row in actions
        ]
    )
    inner = scaled @ predictor.action.fc1.weight.T + predictor.action.fc1.bias
    told = (inner * torch.sigmoid(inner)) @ predictor.action.fc2.weight.T
    told = told + predictor.action.fc2.bias
    turned = told * torch.sigmoid(told)
    rotation = rotary_for_tokens((len(z), 1, 1), None, predictor.head_dim, x)
    dim = x.shape[-1]
    for block in predictor.blocks:
        turns = turned @ block.modulation.weight.T + block.modulation.bias
        part = [turns[:, i * dim : (i + 1) * dim] for i in range(6)]
        x = x + part[2] * block.attn((normed(x) * (1 + part[1]) + part[0])[None], rotation)[0]
        x = x + part[5] * block.mlp(normed(x) * (1 + part[4]) + part[3])
    return predictor.projection(predictor.norm(x[-1:]))[0]


def naive(objective: Any, x: Tensor, actions: Tensor, states: Tensor) -> Tensor:
    """The mean loss without its statistic: one clip, one moment at a time."""
    errors = []
    for clip, acts, at in zip(objective.encoder(x), actions, states, strict=True):
        predicted = [
            naive_next(objective.predictor, clip[:n], acts[:n]) for n in range(1, len(clip))
        ]
        steps = [((guess - clip[i + 1]) ** 2).mean() for i, guess in enumerate(predicted)]
        errors.append(torch.stack(steps).mean())
        if objective.rollout == 2:
            again = [
                naive_next(objective.predictor, torch.stack(predicted[:n]), acts[1 : n + 1])
                for n in range(1, len(predicted))
            ]
            steps = [((guess - clip[i + 2]) ** 2).mean() for i, guess in enumerate(again)]
            errors[-1] = (errors[-1] + torch.stack(steps).mean()) / 2
        if objective.inverse_dynamics_weight:
            errors[-1] = errors[-1] + objective.inverse_dynamics_weight * naive_inverse(
                objective, clip, acts
            )
        if objective.told is not None:
            errors[-1] = errors[-1] + objective.state_weight * naive_states(objective, clip, at)
    return torch.stack(errors).mean()


def naive_states(objective: Any, clip: Tensor, states: Tensor) -> Tensor:
    """How far off the second and fourth number of a state are, and its third, an angle."""
    read, apart = objective.told.read, []
    for z, state in zip(clip, states, strict=True):
        told, (_, b, angle, d) = read.weight @ z + read.bias, state.tolist()
        wanted = [(b - 2) / 4, (d - 0) / 3, math.cos(angle), math.sin(angle)]
        apart += [(told[i] - wanted[i]) ** 2 for i in range(4)]
    return torch.stack(apart).mean()


def naive_inverse(objective: Any, clip: Tensor, actions: Tensor) -> Tensor:
    """How far off what was done is, as two embeddings tell it."""
    read, apart = objective.done.read, []
    for before, after, acts in zip(clip[:-1], clip[1:], actions, strict=True):
        told = read.weight @ torch.cat([before, after]) + read.bias
        wanted = [(float(acts[i]) - MEAN[i % 2]) / STD[i % 2] for i in range(6)]
        apart += [(told[i] - wanted[i]) ** 2 for i in range(6)]
    return torch.stack(apart).mean()


LEVELLED = ("objective.embed=5", "objective.pool=places", "objective.inverse=0.7")
TOLD = (
    "objective.states={weight: 0.6, numbers: [1, 3], angles: [2]}",
    "data.actions.statistics.state_mean=[1, 2, 3, 0]",
    "data.actions.statistics.state_std=[1, 4, 1, 3]",
)


@pytest.mark.parametrize("more", [(), ("objective.rollout=2",), LEVELLED, TOLD])
def test_loss_and_gradients_against_a_naive_float64_reference(
    make_job: Any, video: Tensor, more: tuple[str, ...]
) -> None:
    objective = opened(build_objective(make_job(*ACTS, *more)))
    states = torch.linspace(-7, 9, 2 * 8 * 4).view(2, 8, 4)
    x, motion = normalise(video, torch.float32), ActionBatch(done(), states)
    output = objective(x, [], None, motion)
    statistic = objective.sigreg_loss(objective.encoder(x), ClipSets.single_set(x))
    loss = (output.loss - objective.sigreg_weight * statistic).mean()
    loss.backward()
    exact = copy.deepcopy(objective).double()
    exact.zero_grad()
    wanted = naive(exact, x.double(), motion.actions, states)
    wanted.backward()
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    for (name, ours), theirs in zip(objective.named_parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None, name
        assert theirs.grad is not None
        gap = float((ours.grad - theirs.grad).norm())
        assert gap < 1e-3 * float(theirs.grad.norm()) + 1e-6, name


def test_every_block_begins_as_nothing_and_no_moment_knows_what_is_done_later(
    make_job: Any,
) -> None:
    objective = build_objective(make_job(*ACTS))
    assert isinstance(objective, LeWMObjective)
    z, actions = torch.randn(2, 7, 48), done()
    x = objective.predictor.embed(z)
    plain = objective.predictor.projection(objective.predictor.norm(x))
    assert torch.equal(objective.predictor.predict_one_step(z, actions), plain)
    predictor, other = opened(objective).predictor, actions.clone()
    other[:, 4] += 1
    told, there = predictor.predict_one_step(z, actions), predictor.predict_one_step(z, other)
    assert torch.allclose(told[:, :4], there[:, :4], atol=1e-6)
    assert not torch.allclose(told[:, 4:], there[:, 4:], atol=1e-3)


def test_a_small_embedding_knows_where_things_are(make_job: Any, tmp_path: Path) -> None:
    job = make_job(*ACTS, *LEVELLED, "data.frames=4")
    save_model(tmp_path, build_objective(job), None, job, {})
    found = load_folder(tmp_path)
    size = found.clip.size
    video = torch.zeros(2, 1, size, size, 3, dtype=torch.uint8)
    video[0, :, :8, :8], video[1, :, -8:, -8:] = 255, 255  # the same thing at two places
    there, elsewhere = found.encode(video)
    assert there.shape == (1, 5)
    assert not torch.allclose(there, elsewhere, atol=1e-4)
    assert isinstance(found, ActionConditionedModel)
    assert found.predict(there[None], done(1, 2)).shape == (1, 2, 5)


@pytest.fixture
def model(tmp_path: Path, make_job: Any) -> ActionConditionedModel:
    job = make_job(*ACTS, "data.frames=4")
    save_model(tmp_path, opened(build_objective(job)), None, job, {})
    loaded = load_folder(tmp_path)
    assert isinstance(loaded, ActionConditionedModel)
    return loaded


@pytest.mark.parametrize(("seen", "told"), [(1, 1), (1, 6), (2, 4), (3, 3), (5, 7)])
def test_what_follows_is_said_moment_by_moment(
    model: ActionConditionedModel, video: Tensor, seen: int, told: int
) -> None:
    assert isinstance(model, PlannableModel)
    assert (model.block, model.history) == (3, 3)
    z, actions = model.encode(video[:, :seen]), done(2, told)
    found = model.predict(z, actions)
    assert found.shape == (2, told - seen + 1, 48)
    for clip in range(2):
        known = list(z[clip])
        while len(known) <= told:  # from the last three, however many there are
            read, acts = torch.stack(known[-3:]), actions[clip, : len(known)][-3:]
            known.append(naive_next(model.predictor, read, acts))
        assert torch.allclose(found[clip], torch.stack(known[seen:]), atol=1e-5)


def test_what_cannot_be_told_is_refused(
    model: ActionConditionedModel, make_job: Any, tmp_path: Path
) -> None:
    z = torch.zeros(2, 3, 48)
    for wrong, actions, text in (
        (z[0], done(), r"z: got \[3, 48\]"),
        (z[..., 1:], done(), r"give what encode gives: \[B, moments \* 1, 48\]"),
        (z, done(3), r"actions: got \[3, 7, 6\]"),
        (z, done()[..., :2], "3 control steps, side by side"),
        (z, done(2, 2), "2 actions for 3 moments"),
    ):
        with pytest.raises(RequestError, match=text):
            model.predict(wrong, actions)
    with pytest.raises(RequestError, match="the model acts"):
        context_specs(model, [])
    job = make_job(*ACTS[:3])
    save_model(tmp_path / "plain", build_objective(job), None, job, {})
    plain = load_folder(tmp_path / "plain")
    assert not isinstance(plain, PlannableModel)
    with pytest.raises(RequestError, match="trained without actions"):
        plain.predict(z, done())


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ((*ACTS[:3], "data.actions={block: 3}"), r"data\.actions\.statistics is not known"),
        ((*ACTS[:3], "objective.rollout=8"), "8 moments ahead of a clip of 8"),
        ((*ACTS[:3], "objective.inverse=1.0"), r"needs the actions of data\.actions"),
        ((*ACTS[:3], "objective.states={}"), r"needs the states of data\.actions"),
        ((*ACTS, "objective.states={}"), "the data has no states"),
        ((*ACTS, *TOLD, "objective.states.angles=[4]"), "states of 4 numbers, and 4 is asked for"),
        ((*ACTS, *TOLD, "objective.states.numbers=[9]"), "states of 4 numbers, and 9 is asked for"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    make_job: Any, overrides: tuple[str, ...], text: str
) -> None:
    with pytest.raises(RequestError, match=text):
        build_objective(make_job(*overrides))
