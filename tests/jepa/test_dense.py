"""V-JEPA 2.1 against its formulas in words, token by token in float64."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from orchestrator.errors import RequestError
from orchestrator.jepa.model_files import load_folder, load_weights_into, save_model
from orchestrator.jepa.objectives import VJEPA21Objective, build_objective
from orchestrator.jepa.pixel_normalization import normalise

DENSE = (
    "objective={kind: vjepa21, ema: 0.99, context_ramp: [2, 6],"
    " masks: [{targets: 0.5, context: 0.25},"
    " {kind: future, visible: [1, 2], context: 0.2, targets: 0.4}]}"
)
MODEL = (DENSE, "model.levels=[1, 2, 3, 4]", "model.encoder.depth=4", "model.rope=paired")
MODEL = (*MODEL, "optim.steps=10")


def level_outputs(encoder: Any, x: Tensor, keep: Tensor | None) -> list[Tensor]:
    """Each level behind its norm, from hooks on the blocks of a plain forward."""
    found: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda *a: found.append(a[2])) for block in encoder.blocks]
    encoder(x, keep)
    for hook in hooks:
        hook.remove()
    norms = [*encoder.level_norms, encoder.norm]
    return [norm(level) for norm, level in zip(norms, found, strict=True)]


def place(token: int) -> tuple[int, int, int]:
    return token // 16, token // 4 % 4, token % 4


def normed(row: Tensor) -> Tensor:
    spread = torch.sqrt(((row - row.mean()) ** 2).mean() + 1e-5)
    return (row - row.mean()) / spread


def naive_loss(objective: Any, teacher: Any, x: Tensor, masks: Any, clip: int, much: float) -> Any:
    """One clip's loss: token by token, level by level."""
    x = x[clip : clip + 1]
    with torch.no_grad():
        levels = level_outputs(teacher, x, None)
    total = x.new_zeros(())
    for i, (context, target) in enumerate(masks):
        ids, asked = context[clip : clip + 1], target[clip : clip + 1]
        z = torch.cat(level_outputs(objective.encoder, x, ids), -1)
        hidden, shown = objective.predictor(z, ids, asked, i)
        for rows, tokens, seen in ((hidden[0], asked[0], False), (shown[0], ids[0], True)):
            errors = x.new_zeros(())
            for row, token in zip(rows, tokens.tolist(), strict=True):
                wanted = torch.cat([normed(level[0, token]) for level in levels])
                error = (row - wanted).abs().sum() / len(wanted)
                if seen:
                    far = min(math.dist(place(token), place(t)) for t in asked[0].tolist())
                    error = much * error / math.sqrt(far)
                errors = errors + error
            total = total + errors / len(tokens)
    return total / len(masks)


def test_loss_and_gradients_against_a_naive_float64_reference(
    make_job: Any, masks_of: Any, video: Tensor
) -> None:
    job = make_job(*MODEL)
    objective = build_objective(job)
    assert isinstance(objective, VJEPA21Objective)
    assert (objective.averaged, objective.momentum) == ("encoder", 0.99)
    torch.manual_seed(1)
    teacher = copy.deepcopy(objective.encoder).requires_grad_(False)
    with torch.no_grad():
        for parameter in (*teacher.parameters(), *objective.encoder.parameters()):
            parameter.add_(0.02 * torch.randn_like(parameter))
        objective.predictor.mask_tokens.normal_()
    masks, x = masks_of(job, 2), normalise(video, torch.float32)
    objective.at_step(5)
    targets = objective.targets(teacher, x)
    assert targets.shape == (2, 64, 4 * 48)
    output = objective(x, masks, targets)
    assert output.features.shape == (2, 16, 48)
    last = objective.encoder(x, masks[0][0])
    assert torch.allclose(output.features, last, atol=1e-6)
    output.loss.sum().backward()

    exact, exact_teacher = copy.deepcopy(objective).double(), copy.deepcopy(teacher).double()
    exact.zero_grad()
    # Three quarters of the ramp from step 2 to step 6.
    losses = [
        naive_loss(exact, exact_teacher, x.double(), masks, clip, 0.75 * 0.5) for clip in (0, 1)
    ]
    for ours, theirs in zip(output.loss.tolist(), losses, strict=True):
        assert ours == pytest.approx(float(theirs.detach()), rel=1e-6)
    sum(losses).backward()
    for (name, ours), theirs in zip(objective.named_parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None, name
        assert theirs.grad is not None
        gap = float((ours.grad - theirs.grad).norm())
        assert gap < 5e-5 * float(theirs.grad.norm()) + 1e-7, name


def test_the_context_counts_as_its_ramp_says(make_job: Any) -> None:
    objective = build_objective(make_job(*MODEL))
    weights = []
    for step in (0, 2, 3, 6, 9):
        objective.at_step(step)
        weights.append(objective.context_weight)
    assert weights == [0.0, 0.0, 0.125, 0.5, 0.5]
    at_once = build_objective(make_job(*MODEL, "objective.context_ramp=[0, 0]"))
    assert at_once.context_weight == 0.5


def test_activation_checkpointing_changes_nothing(
    make_job: Any, masks_of: Any, video: Tensor
) -> None:
    job = make_job(*MODEL)
    masks, x, gradients = masks_of(job, 2), normalise(video, torch.float32), []
    for on in (False, True):
        objective = build_objective(job)
        objective.at_step(9)
        objective.set_activation_checkpointing(on)
        objective(x, masks, objective.targets(objective.encoder, x)).loss.mean().backward()
        gradients.append([p.grad for p in objective.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_model_is_saved_loaded_and_trained_on(
    tmp_path: Any, make_job: Any, video: Tensor
) -> None:
    job = make_job(*MODEL)
    first = build_objective(job)
    save_model(tmp_path, first, first.encoder, job, {})
    model = load_folder(tmp_path)
    assert torch.equal(model.encode(video), first.encoder(normalise(video, torch.float32)))
    second = build_objective(make_job(*MODEL, "seed=3"))
    load_weights_into(second, tmp_path)
    theirs = second.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in first.state_dict().items())


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("model.levels=[1, 3]",), "does not rise to the last block, 4"),
        (("model.levels=[2, 1, 4]",), "does not rise to the last block"),
        (("objective.context_ramp=[30, 20]",), "20 comes before 30"),
        (("objective.context_ramp=[10, 20]",), "begins at step 10, and the training has 10"),
        (("objective={kind: vjepa2}",), "vjepa2 reads the last block alone"),
    ],
)
def test_what_cannot_be_is_refused(make_job: Any, overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        make_job(*MODEL, *overrides)
