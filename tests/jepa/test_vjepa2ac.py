"""V-JEPA 2-AC: its loss token by token in float64, its own encoder, its states, its refusals."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from orchestrator.errors import RequestError
from orchestrator.jepa.action_batch import ActionBatch
from orchestrator.jepa.action_conditioned import ActionConditionedModel
from orchestrator.jepa.model_files import (
    check_initial_weights,
    load_folder,
    load_weights_into,
    save_model,
)
from orchestrator.jepa.objectives import (
    VJEPA2ACObjective,
    build_objective,
    randomly_initialized_teacher,
)
from orchestrator.jepa.pixel_normalization import normalise
from orchestrator.planning.base import PlannableModel

SPREAD = (2.0, 0.5, 1.0)
ENCODER = "{dim: 20, depth: 1, heads: 2}"
CHANGES = (
    f"objective={{kind: vjepa2ac, teacher: t, encoder: {ENCODER}}}",
    f"model.encoder={ENCODER}",
    "data.actions={actions: change, block: 4, statistics: {action_mean: [0], action_std: [1],"
    " state_mean: [1, 0, -1], state_std: [2, 0.5, 1]}}",
    "data.frames=4",
    "data.size=16",
)
GIVEN = (
    *CHANGES[:2],
    "data.actions={block: 2, statistics: {action_mean: [1], action_std: [2]}}",
    *CHANGES[3:],
)
Objective = VJEPA2ACObjective


def built(make_job: Any, *overrides: str) -> tuple[Objective, torch.nn.Module]:
    job = make_job(*overrides)
    objective, teacher = build_objective(job), randomly_initialized_teacher(job)
    assert isinstance(objective, Objective)
    assert teacher is not None
    return objective, teacher


def clips() -> Tensor:
    draw = torch.Generator().manual_seed(4)
    return torch.randint(0, 256, (2, 4, 16, 16, 3), dtype=torch.uint8, generator=draw)


def motion(width: int = 3) -> ActionBatch:
    draw = torch.Generator().manual_seed(6)
    return ActionBatch(
        torch.randn(2, 3, width, generator=draw), torch.randn(2, 4, 3, generator=draw) + 1
    )


def normed(x: Tensor, eps: float = 1e-5) -> Tensor:
    return (x - x.mean()) / torch.sqrt(((x - x.mean()) ** 2).mean() + eps)


def affine(norm: Any, x: Tensor) -> Tensor:
    return normed(x, 1e-6) * norm.weight + norm.bias


def linear(layer: Any, x: Tensor) -> Tensor:
    return layer.weight @ x + layer.bias


def turned(x: Tensor, place: tuple[int, int, int]) -> Tensor:
    """One head of one token at its time, row and column, channel by channel; the rest stays."""
    width = 2 * (len(x) // 3 // 2)
    out = x.clone()
    for axis, position in enumerate(place):
        for j in range(0, width, 2):
            a, b = x[axis * width + j], x[axis * width + j + 1]
            for i, mine, pair in ((j, a, -b), (j + 1, b, a)):
                angle = position * 10000.0 ** -((i % (width // 2)) / (width / 2))
                out[axis * width + i] = mine * math.cos(angle) + pair * math.sin(angle)
    return out


def naive_next(predictor: Any, frames: list[Any], told: list[Any], states: Any) -> list[Any]:
    """The features after each frame: patches of the frames so far in lists, one token at a time."""
    tokens, places, of_frame = [], [], []
    for t, (frame, act) in enumerate(zip(frames, told, strict=True)):
        tokens.append(linear(predictor.action, act))
        if states is not None:
            tokens.append(linear(predictor.state, states[t]))
        places += [(t, 0, 0)] * (1 if states is None else 2)
        for number, patch in enumerate(frame):
            tokens.append(linear(predictor.embed, patch))
            places.append((t, number // 2, number % 2))
        of_frame += [t] * (len(tokens) - len(of_frame))
    heads = predictor.blocks[0].attn.heads
    for block in predictor.blocks:
        parts = [linear(block.attn.qkv, affine(block.norm1, x)).chunk(3) for x in tokens]
        after = []
        for i, x in enumerate(tokens):
            mixed = []
            for head in range(heads):
                q, *_ = (part.chunk(heads)[head] for part in parts[i])
                q, scores, values = turned(q, places[i]), [], []
                for j in range(len(tokens)):
                    if of_frame[j] <= of_frame[i]:
                        k = turned(parts[j][1].chunk(heads)[head], places[j])
                        scores.append((q @ k) / math.sqrt(len(q)))
                        values.append(parts[j][2].chunk(heads)[head])
                share = torch.stack(scores).exp()
                mixed.append((share / share.sum()) @ torch.stack(values))
            x = x + linear(block.attn.proj, torch.cat(mixed))
            inner = linear(block.mlp.fc1, affine(block.norm2, x))
            inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
            after.append(x + linear(block.mlp.fc2, inner))
        tokens = after
    said: list[list[Tensor]] = [[] for _ in frames]
    extra = 1 if states is None else 2
    each = extra + len(frames[0])
    for i, x in enumerate(tokens):
        if i % each >= extra:
            said[i // each].append(normed(linear(predictor.proj, affine(predictor.norm, x))))
    return said


def naive_frames(encoder: Any, clip: Tensor) -> list[list[Tensor]]:
    """A clip's patches frame by frame, each shown for two frames by itself."""
    return [
        [normed(patch) for patch in encoder(torch.stack([frame, frame], 1)[None])[0]]
        for frame in clip.transpose(0, 1)
    ]


def apart(said: list[Any], came: list[Any]) -> Tensor:
    errors = [
        (a - b).abs().mean()
        for mine, theirs in zip(said, came, strict=True)
        for a, b in zip(mine, theirs, strict=True)
    ]
    return torch.stack(errors).mean()


def naive(objective: Any, teacher: Any, clip: Tensor, acts: Any, stood: Any) -> Tensor:
    """The loss of one clip [3, T, H, W]."""
    frames = naive_frames(teacher, clip)
    forced = naive_next(objective.predictor, frames[:-1], acts, stood and stood[:-1])
    known = [frames[0], forced[0]]
    for n in range(2, objective.rollout + 1):
        known.append(naive_next(objective.predictor, known, acts[:n], stood and stood[:n])[-1])
    return apart(forced, frames[1:]) + apart(known[1:], frames[1 : len(known)])


@pytest.mark.parametrize(("overrides", "rollout"), [(CHANGES, 2), (GIVEN, 3)])
def test_loss_and_gradients_against_a_naive_float64_reference(
    make_job: Any, overrides: tuple[str, ...], rollout: int
) -> None:
    objective, teacher = built(make_job, *overrides, f"objective.rollout={rollout}")
    given = overrides is GIVEN
    video, done = normalise(clips(), torch.float32), motion(2 if given else 3)
    targets = objective.targets(teacher, video)
    assert targets.shape == (2, 4 * 4, 20)
    output = objective(video, [], targets, done)
    assert output.features.shape == (2, 3 * 4, 20)
    output.loss[1].backward()
    exact, encoder = copy.deepcopy(objective).double(), copy.deepcopy(teacher).double()
    exact.zero_grad()
    spread = torch.tensor(SPREAD, dtype=torch.float64)
    told, states = (done.actions[1].double() - 1) / 2, None
    if not given:
        told = done.actions[1] / spread
        states = list((done.states[1] - torch.tensor([1.0, 0.0, -1.0])) / spread)
    wanted = naive(exact, encoder, video[1].double(), list(told), states)
    wanted.backward()
    assert float(output.loss[1].detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    for (name, ours), theirs in zip(objective.named_parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None, name
        assert theirs.grad is not None, name
        gap = float((ours.grad - theirs.grad).norm())
        assert gap < 1e-3 * float(theirs.grad.norm()) + 1e-6, name


def test_a_saved_model_encodes_with_its_teacher_and_adds_up_its_states(
    make_job: Any, tmp_path: Path
) -> None:
    objective, teacher = built(make_job, *CHANGES)
    save_model(tmp_path, objective, teacher, make_job(*CHANGES), {})
    model = load_folder(tmp_path)
    assert isinstance(model, ActionConditionedModel)
    assert isinstance(model, PlannableModel)
    assert (model.block, model.history, model.clip.grid) == (4, 3, (4, 2, 2))
    z = model.encode(clips())
    assert torch.equal(z, objective.targets(teacher, normalise(clips(), torch.float32)))
    # Clips of other lengths: processors round their sums in other ways.
    torch.testing.assert_close(model.encode(clips()[:, :1]), z[:, :4])
    torch.testing.assert_close(model.encode(clips(), seen=3), z[:, :12])

    done = torch.randn(2, 6, 3)
    stood = motion().states[:, :2]
    found = model.predict(z[:, :8], done, stood)
    assert found.shape == (2, 5 * 4, 20)
    known, states = z[:, :8], list(stood.unbind(1))
    for now in range(2, 7):  # from three frames at most
        first = max(0, now - 3)
        told = torch.stack(states[first:now], 1)
        after = objective.predictor.predict_one_step(
            known[:, first * 4 :], done[:, first:now], told
        )[:, -4:]
        known = torch.cat([known, after], 1)
        states.append(states[-1] + done[:, now - 1])
    assert torch.allclose(found, known[:, 8:], atol=1e-5)
    assert model.untaught(1).encode(clips()).shape == z.shape

    for wrong, text in ((None, "states: none are given"), (stood[:, :1], r"give \[2, 2, 3\]")):
        with pytest.raises(RequestError, match=text):
            model.predict(z[:, :8], done, wrong)

    # Another training begins with the predictor; the encoder is its own teacher's.
    other, _ = built(make_job, *CHANGES, "seed=5")
    check_initial_weights(make_job(*CHANGES, "seed=5"), tmp_path)
    load_weights_into(other, tmp_path)
    assert torch.equal(other.predictor.embed.weight, objective.predictor.embed.weight)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ((CHANGES[0], CHANGES[1]), r"data\.actions: vjepa2ac predicts what follows an action"),
        ((*CHANGES, "objective.rollout=4"), "4 frames ahead of the first of 4"),
        ((*CHANGES, "objective.encoder=null"), "shape of the teacher 't' is not known"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    make_job: Any, overrides: tuple[str, ...], text: str
) -> None:
    with pytest.raises(RequestError, match=text):
        build_objective(make_job(*overrides))
