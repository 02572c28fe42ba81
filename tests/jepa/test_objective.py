from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from orchestrator.jepa.masks import build_mask_samplers
from orchestrator.jepa.objectives import Objective, VJEPA2Objective, build_objective
from orchestrator.jepa.pixel_normalization import normalise

MASKS = (
    "objective.masks=[{targets: 0.5, context: 0.25},"
    " {kind: future, visible: [1, 2], context: 0.2, targets: 0.4}]"
)


def teacher_of(objective: Objective) -> torch.nn.Module:
    teacher = copy.deepcopy(objective.encoder).requires_grad_(False)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return teacher


def naive_loss(
    objective: VJEPA2Objective, teacher: Any, x: Tensor, masks: Any, clip: int
) -> Tensor:
    """One clip's loss in words: for each mask, token by token, in float64."""
    with torch.no_grad():
        features = teacher(x[clip : clip + 1])[0]
    total = x.new_zeros(())
    for i, (context, target) in enumerate(masks):
        ids = context[clip : clip + 1]
        asked = target[clip : clip + 1]
        z = objective.encoder(x[clip : clip + 1], ids)
        predicted = objective.predictor(z, ids, asked, i)[0]
        distance = x.new_zeros(())
        for row, token in zip(predicted, asked[0].tolist(), strict=True):
            wanted = features[token]
            variance = ((wanted - wanted.mean()) ** 2).mean()
            wanted = (wanted - wanted.mean()) / torch.sqrt(variance + 1e-5)
            distance = distance + (row - wanted).abs().sum() / len(row)
        total = total + distance / len(predicted)
    return total / len(masks)


def test_loss_and_gradients_against_a_naive_float64_reference(
    make_job: Any, masks_of: Any, video: Tensor
) -> None:
    job = make_job(MASKS)
    objective = build_objective(job)
    assert isinstance(objective, VJEPA2Objective)
    assert (objective.averaged, objective.momentum) == ("encoder", 0.99)
    torch.manual_seed(1)
    with torch.no_grad():
        objective.predictor.mask_tokens.normal_()
    teacher, masks = teacher_of(objective), masks_of(job, 2)
    x = normalise(video, torch.float32)
    weight = torch.tensor([1.0, 0.25])

    targets = objective.targets(teacher, x)
    assert targets.shape == (2, 64, 48)
    assert not targets.requires_grad
    output = objective(x, masks, targets)
    assert output.loss.shape == (2,)
    assert output.loss.dtype == torch.float32
    assert output.features.shape == (2, 16, 48)
    assert not output.features.requires_grad
    (output.loss * weight).sum().backward()

    exact, exact_teacher = copy.deepcopy(objective).double(), copy.deepcopy(teacher).double()
    exact.zero_grad()
    losses = [naive_loss(exact, exact_teacher, x.double(), masks, clip) for clip in range(2)]
    for clip in range(2):
        assert float(output.loss[clip].detach()) == pytest.approx(
            float(losses[clip].detach()), rel=1e-6
        )
    sum(w * loss for w, loss in zip(weight.double(), losses, strict=True)).backward()
    for (name, ours), theirs in zip(objective.named_parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None, name
        assert theirs.grad is not None
        gap = float((ours.grad - theirs.grad).norm())
        # A key's bias has no true gradient: softmax does not see it.
        assert gap < 2e-5 * float(theirs.grad.norm()) + 1e-7, name


def test_gradient_is_the_slope_of_the_loss(make_job: Any, masks_of: Any, video: Tensor) -> None:
    job = make_job(MASKS)
    objective = build_objective(job).double()
    torch.manual_seed(7)  # a loss of absolute values has kinks: with this one none is within 1e-7
    teacher, masks = teacher_of(objective), masks_of(job, 2)
    x = normalise(video, torch.float64)
    targets = objective.targets(teacher, x).double()

    def loss() -> Tensor:
        return objective(x, masks, targets).loss.mean()

    loss().backward()
    torch.manual_seed(2)
    step = [torch.randn_like(p) for p in objective.parameters()]
    slope = sum(
        float((p.grad * d).sum()) for p, d in zip(objective.parameters(), step, strict=True)
    )

    @torch.no_grad()
    def moved(distance: float) -> float:
        for p, d in zip(objective.parameters(), step, strict=True):
            p.add_(d, alpha=distance)
        value = float(loss())
        for p, d in zip(objective.parameters(), step, strict=True):
            p.add_(d, alpha=-distance)
        return value

    assert (moved(1e-7) - moved(-1e-7)) / 2e-7 == pytest.approx(slope, rel=1e-3)


def test_several_masks_share_one_teacher_forward(
    make_job: Any, masks_of: Any, video: Tensor
) -> None:
    job = make_job(MASKS)
    objective = build_objective(job)
    calls = {"teacher": 0, "encoder": 0}
    teacher = teacher_of(objective)
    teacher.register_forward_hook(lambda *_: calls.update(teacher=calls["teacher"] + 1))
    objective.encoder.register_forward_hook(lambda *_: calls.update(encoder=calls["encoder"] + 1))
    x = normalise(video, torch.float32)
    objective(x, masks_of(job, 2), objective.targets(teacher, x))
    assert calls == {"teacher": 1, "encoder": 2}


def test_weights_follow_from_the_seed_alone(make_job: Any) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = build_objective(make_job())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    second, other = build_objective(make_job()), build_objective(make_job("seed=1"))
    names = dict(second.named_parameters())
    assert all(torch.equal(p, names[name]) for name, p in first.named_parameters())
    mine, theirs = first.encoder.state_dict(), other.encoder.state_dict()
    assert not torch.equal(mine["blocks.0.attn.qkv.weight"], theirs["blocks.0.attn.qkv.weight"])


def test_activation_checkpointing_changes_nothing(
    make_job: Any, masks_of: Any, video: Tensor
) -> None:
    job = make_job(MASKS)
    masks, x = masks_of(job, 2), normalise(video, torch.float32)
    gradients = []
    for on in (False, True):
        objective = build_objective(job)
        objective.set_activation_checkpointing(on)
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, saved=saved: (saved.append(t.numel()), t)[1],  # type: ignore[misc]
            lambda t: t,
        ):
            loss = objective(x, masks, objective.targets(objective.encoder, x)).loss.mean()
        loss.backward()
        gradients.append(([p.grad for p in objective.parameters()], sum(saved)))
    assert gradients[1][1] < gradients[0][1] / 2
    for plain, again in zip(gradients[0][0], gradients[1][0], strict=True):
        assert torch.equal(plain, again)


@pytest.mark.integration
def test_compiled_blocks_agree(make_job: Any, masks_of: Any, video: Tensor) -> None:
    job = make_job("objective.masks=[{targets: 0.5, context: 0.25}]")
    masks, x = masks_of(job, 2), normalise(video, torch.float32)
    plain, fast = build_objective(job), build_objective(job)
    fast.compile_blocks()
    assert plain.state_dict().keys() == fast.state_dict().keys()
    losses = [o(x, masks, o.targets(o.encoder, x)).loss for o in (plain, fast)]
    for loss in losses:
        loss.mean().backward()
    assert torch.allclose(*losses, atol=1e-5)
    for p, q in zip(plain.parameters(), fast.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, atol=1e-5)  # type: ignore[arg-type]


OWN = """
import torch
from pydantic import BaseModel
from orchestrator.jepa.encoders.vision_transformer import build_encoder
from orchestrator.jepa.objectives import Objective, ObjectiveOutput
from orchestrator.job import Future

class Level(Objective):
    class Config(BaseModel):
        level: float = 0.0
        masks: tuple[Future, ...] = ()

    def __init__(self, config, job):
        super().__init__()
        self.encoder = build_encoder(job.model, size=job.data.size, frames=job.data.frames)
        self.level = config.level

    def forward(self, video, masks, targets):
        z = self.encoder(video, masks[0][0])
        return ObjectiveOutput((z.float().mean((1, 2)) - self.level) ** 2, z.detach())
"""


def test_own_objective_by_import_path(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, make_job: Any, masks_of: Any, video: Tensor
) -> None:
    (tmp_path / "mine_objectives.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    job = make_job(
        "objective={kind: 'mine_objectives:Level', level: 2.0,"
        " masks: [{visible: [1, 1], context: 0.2, targets: 0.3}]}"
    )
    objective = build_objective(job)
    assert (objective.averaged, objective.momentum) == (None, None)
    assert len(build_mask_samplers(job)) == 1
    output = objective(normalise(video, torch.float32), masks_of(job, 2), None)
    assert np.allclose(output.loss.detach().numpy(), 4.0, atol=0.1)
    output.loss.mean().backward()

    masks_free = make_job("objective={kind: 'mine_objectives:Level'}")
    assert build_mask_samplers(masks_free) == []
