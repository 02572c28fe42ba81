"""Pixels and labels against references in words, and what all objectives refuse."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from orchestrator.errors import DataError, RequestError
from orchestrator.jepa.model_files import load_folder, randomly_initialized_model, save_model
from orchestrator.jepa.objectives import PixelsObjective, build_objective
from orchestrator.jepa.objectives.pixels.objective import normalize_patches
from orchestrator.jepa.pixel_normalization import normalise

LEJEPA = "objective={kind: lejepa, slices: 8}"
PIXELS = (
    "objective={kind: pixels, masks: [{targets: 0.5, context: 0.25}, {targets: 0.3, context: 0.1}]}"
)
SUPERVISED = "objective={kind: supervised, classes: [drop, ramp]}"


def naive_patch(video: np.ndarray, token: int, grid: tuple[int, int, int]) -> np.ndarray:
    """uint8 [T, H, W, 3] -> one token's target, channel by channel, from pixels in [0, 1]."""
    _, height, width = grid
    t, y, x = token // (height * width), token // width % height, token % width
    cube = video[2 * t : 2 * t + 2, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8].astype(np.float64) / 255
    out = []
    for channel in range(3):
        values = cube[..., channel].ravel()
        spread = np.sqrt(((values - values.mean()) ** 2).sum() / (len(values) - 1))
        out.append((values - values.mean()) / (spread + 1e-6))
    return np.concatenate(out)


def test_pixels_loss_and_gradients_against_a_naive_float64_reference(
    make_job: Any, masks_of: Any, video: Tensor
) -> None:
    job = make_job(PIXELS)
    objective = build_objective(job)
    assert isinstance(objective, PixelsObjective)
    assert (objective.averaged, objective.momentum) == (None, None)
    masks, x = masks_of(job, 2), normalise(video, torch.float32)
    output = objective(x, masks, None)
    output.loss.sum().backward()
    assert not output.features.requires_grad

    exact = copy.deepcopy(objective).double()
    exact.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for clip in range(2):
        loss = torch.zeros((), dtype=torch.float64)
        for i, (context, target) in enumerate(masks):
            ids, asked = context[clip : clip + 1], target[clip : clip + 1]
            guess = exact.predictor(exact.encoder(x[clip : clip + 1].double(), ids), ids, asked, i)
            wanted = [naive_patch(video[clip].numpy(), n, job.grid) for n in asked[0].tolist()]
            loss = loss + ((guess[0] - torch.from_numpy(np.stack(wanted))) ** 2).mean()
        assert float(output.loss[clip].detach()) == pytest.approx(
            float(loss.detach()) / 2, rel=1e-4
        )
        total = total + loss / 2
    total.backward()
    for (name, ours), theirs in zip(objective.named_parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None, name
        assert theirs.grad is not None
        gap = float((ours.grad - theirs.grad).norm())
        assert gap < 1e-3 * float(theirs.grad.norm()) + 1e-6, name


def test_a_plain_patch_is_zero_and_not_amplified_noise() -> None:
    plain = torch.full((1, 2, 8, 8, 3), 201, dtype=torch.uint8)
    assert float(normalize_patches(normalise(plain, torch.float32), 8, 2).abs().max()) == 0.0


def test_labels_are_read_from_keys(make_job: Any, video: Tensor) -> None:
    objective = build_objective(make_job(SUPERVISED))
    keys = ["ramp-0-00000001", "drop-0-00000002", ""]
    assert objective.labels(keys).tolist() == [1, 0, 0]
    with pytest.raises(DataError, match="the class 'lever', the job names drop, ramp"):
        objective.labels(["lever-0-00000003"])
    x = normalise(video, torch.float32)
    loss = objective(x, [], torch.tensor([1, 0])).loss
    features = objective.encoder(x).double().mean(1)
    weight, bias = (p.double() for p in objective.head.parameters())
    odds = torch.exp(features @ weight.T + bias)
    wanted = -torch.log(odds[[0, 1], [1, 0]] / odds.sum(1))
    assert torch.allclose(loss.double(), wanted, atol=1e-5)


@pytest.mark.parametrize("objective", [LEJEPA, PIXELS, SUPERVISED])
def test_a_model_without_teacher_is_saved_loaded_and_compared_with_random_ones(
    tmp_path: Any, make_job: Any, video: Tensor, objective: str
) -> None:
    job = make_job(objective)
    built = build_objective(job)
    save_model(tmp_path, built, None, job, {})
    model = load_folder(tmp_path)
    assert torch.allclose(model.encode(video), built.encoder(normalise(video, torch.float32)))
    untaught = randomly_initialized_model(model.config, 1)
    assert not torch.allclose(untaught.encode(video), model.encode(video))
    assert (model.predictor is None) == (untaught.predictor is None) == ("supervised" in objective)
    if model.predictor is not None and untaught.predictor is not None:
        mine, theirs = model.predictor.state_dict(), untaught.predictor.state_dict()
        assert {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in theirs.items()}


def test_what_a_predictor_predicts_follows_from_the_objective(
    tmp_path: Any, make_job: Any, video: Tensor
) -> None:
    for text, width in ((LEJEPA, 48), (PIXELS, 384), ("objective.ema=0.5", 48)):
        job = make_job(text)
        save_model(tmp_path, build_objective(job), None, job, {})
        model = load_folder(tmp_path)
        whole = model.compared(model.encode(video), video)
        begun = model.compared(model.encode(video, seen=4), video[:, :4])
        assert whole.shape == (2, 64, width)
        assert begun.shape == model.foresee(model.encode(video, seen=4)).shape == (2, 32, width)
        if text == LEJEPA:
            assert torch.allclose(whole, model.encode(video))
        elif text == PIXELS:
            first = naive_patch(video[1].numpy(), 9, (4, 4, 4))
            assert np.allclose(begun[1, 9].numpy(), first, atol=1e-3)
        else:
            assert float(whole.mean(-1).abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ("{kind: lejepa, statistic_clips: 5}", "5 clips do not divide scale.global_batch 32"),
        ("{kind: lejepa, statistic_clips: 1}", "greater than or equal to 2"),
        ("{kind: supervised, classes: [drop, drop]}", "a class is named twice"),
        ("{kind: supervised, classes: [drop, ramp], label: '['}", "no regular expression"),
        ("{kind: pixels, masks: [{targets: 0.9, context: 0.9}]}", "more than the 64 tokens"),
        ("{kind: lejepas}", "lejepas"),
    ],
)
def test_what_cannot_be_is_refused(make_job: Any, objective: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        make_job(f"objective={objective}")
