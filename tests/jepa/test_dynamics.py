"""Codes that are found in the data, and the predictor with memories that goes on from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from orchestrator.errors import RequestError
from orchestrator.evaluation.evaluable import DecodesToPixels, Evaluable, PredictsNext
from orchestrator.evaluation.measures.surprise import ContextSpec
from orchestrator.evaluation.suite.predicted_frames import predicted_frames
from orchestrator.jepa.encoders.pca import PCAPatchEncoder
from orchestrator.jepa.model_files import load_folder, load_weights_into, save_model
from orchestrator.jepa.objectives import (
    DynamicsObjective,
    build_objective,
    randomly_initialized_teacher,
)
from orchestrator.jepa.objectives.dynamics.predictor import RecurrentPredictor
from orchestrator.jepa.pixel_normalization import denormalise, normalise
from orchestrator.job import PCAEncoderConfig

DYNAMICS = ("objective={kind: dynamics}", "model.encoder={kind: codes, dim: 20}")
SHAPE = ("model.predictor={dim: 16, depth: 2, heads: 2}",)
MASKED = ("objective.masks=[{blocks: 2, spatial: 0.3, temporal: 0.5, targets: 0.3}]",)
AREA, WIDTH = 16, 20


def made(make_job: Any, *overrides: str) -> tuple[DynamicsObjective, PCAPatchEncoder]:
    """With weights large enough that what should not matter would show."""
    job = make_job(*DYNAMICS, *SHAPE, *overrides)
    objective, codes = build_objective(job), randomly_initialized_teacher(job)
    assert isinstance(objective, DynamicsObjective)
    assert isinstance(codes, PCAPatchEncoder)
    with torch.no_grad():
        for parameter in objective.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    return objective, codes


def coded(objective: DynamicsObjective, codes: PCAPatchEncoder, video: Tensor) -> Tensor:
    return objective.targets(codes, normalise(video, torch.float32))


# -- codes ------------------------------------------------------------------------------------


def test_codes_are_the_principal_components(video: Tensor) -> None:
    encoder = PCAPatchEncoder(PCAEncoderConfig(kind="codes", dim=20), patch=8, tubelet=2)
    x = normalise(video, torch.float32)
    share = encoder.fit(clip[None] for clip in x)  # clip by clip is as all at once
    patches = np.stack(
        [
            x[b, :, 2 * t : 2 * t + 2, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8].numpy().ravel()
            for b in range(2)
            for t in range(4)
            for i in range(4)
            for j in range(4)
        ]
    ).astype(np.float64)
    centred = patches - patches.mean(0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    spread = sizes / len(patches) ** 0.5
    assert share == pytest.approx((spread[:20] ** 2).sum() / (spread**2).sum(), rel=1e-6)
    with torch.no_grad():
        z = encoder(x).flatten(0, 1).double().numpy()
    assert np.abs(z.mean(0)).max() < 1e-4
    assert (z**2).mean() == pytest.approx(1.0, rel=1e-4)
    scaled = centred @ axes[:20].T / np.maximum(spread[:20], 0.1) ** 0.5
    scaled /= (scaled**2).mean() ** 0.5
    for n in range(20):
        gap = min(np.abs(z[:, n] - sign * scaled[:, n]).max() for sign in (1, -1))
        assert gap < 2e-3, f"component {n}"


def test_codes_are_pictures_again(video: Tensor) -> None:
    """All of a video that its codes hold: exact where they are as many as its pixels."""
    x = normalise(video, torch.float32)
    for dim, near in ((64, 3), (384, 1)):
        encoder = PCAPatchEncoder(PCAEncoderConfig(kind="codes", dim=dim), patch=8, tubelet=2)
        share = encoder.fit([x])
        with torch.no_grad():
            z = encoder(x)
            back = encoder.decode_to_pixels(z, (4, 4, 4))
            assert torch.allclose(encoder(back), z, atol=1e-3)
        assert 0.98 < share <= 1
        assert (denormalise(back).int() - video.int()).abs().float().mean() < near


def test_a_moment_is_coded_by_itself(make_job: Any, video: Tensor) -> None:
    objective, codes = made(make_job)
    changed = video.clone()
    changed[:, 2:] = 0
    first, second = coded(objective, codes, video), coded(objective, codes, changed)
    assert torch.equal(first[:, :AREA], second[:, :AREA])
    assert not torch.allclose(first[:, AREA:], second[:, AREA:])


# -- the predictor ----------------------------------------------------------------------------


def test_what_comes_later_changes_nothing_before(make_job: Any, video: Tensor) -> None:
    objective, codes = made(make_job)
    changed = video.clone()
    changed[:, 4:] = 255 - changed[:, 4:]
    first, second = (
        objective.predictor.predict_next(coded(objective, codes, v))[:, :, :, 0]
        for v in (video, changed)
    )
    # In one batch or another, convolutions round in another order.
    assert torch.allclose(first[:, :2], second[:, :2], atol=1e-5), "two moments of two frames"
    assert (first[:, 2:] - second[:, 2:]).abs().max() > 0.01


def test_the_past_of_other_places_is_remembered(make_job: Any, video: Tensor) -> None:
    objective, codes = made(make_job)
    changed = video.clone()
    changed[:, :2, :8, :8] = 0  # one token of the first moment
    first, second = (
        objective.predictor.predict_next(coded(objective, codes, v)) for v in (video, changed)
    )
    assert (first[:, 3, -1] - second[:, 3, -1]).abs().max() > 1e-4


def test_loss_against_a_naive_float64_reference(
    make_job: Any, masks_of: Any, video: Tensor
) -> None:
    objective, codes = made(make_job, *MASKED)
    job = make_job(*DYNAMICS, *SHAPE, *MASKED)
    objective, codes = objective.double(), codes.double()
    x = normalise(video, torch.float64)
    z, masks = codes(x).detach(), masks_of(job, len(video))
    found = objective(x, masks, z).loss
    for clip in range(len(x)):
        wanted = naive(objective.predictor, z[clip], set(masks[0][1][clip].tolist()))
        assert float(found[clip].detach()) == pytest.approx(wanted, rel=1e-6)


def naive(predictor: RecurrentPredictor, z: Tensor, hidden: set[int]) -> float:
    """Moment by moment, place by place, with weights in words."""
    weights = {name: value.detach() for name, value in predictor.named_parameters()}
    moments = z.view(4, 4, 4, WIDTH)

    def conv(name: str, x: Tensor) -> Tensor:
        return F.conv2d(
            x[None],
            weights[f"{name}.weight"],
            weights.get(f"{name}.bias"),
            padding=weights[f"{name}.weight"].shape[-1] // 2,
        )[0]

    def norm(name: str, x: Tensor) -> Tensor:
        groups = x.view(8, -1)
        mean, var = groups.mean(1, keepdim=True), groups.var(1, unbiased=False, keepdim=True)
        plain = ((groups - mean) / (var + 1e-5).sqrt()).view(x.shape)
        scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return plain * scale[:, None, None] + shift[:, None, None]

    def block(name: str, x: Tensor) -> Tensor:
        inside = conv(f"{name}.conv1", F.gelu(norm(f"{name}.norm", x)))
        return x + conv(f"{name}.conv2", F.gelu(inside))

    states = [weights[f"memories.{n}.first"].expand(16, 4, 4) for n in range(2)]
    last = torch.zeros(WIDTH, 4, 4, dtype=torch.float64)
    before, errors = None, []
    for t in range(4):
        seen = moments[t].permute(2, 0, 1).clone()
        marked = torch.zeros(1, 4, 4, dtype=torch.float64)
        for place in range(AREA):
            if t * AREA + place in hidden:
                seen[:, place // 4, place % 4] = last[:, place // 4, place % 4]
                marked[0, place // 4, place % 4] = 1
        last = seen
        moved = seen - (seen if before is None else before)
        x = block("blocks.0", conv("embed", torch.cat([seen, moved, marked])))
        for n in range(2):
            told = conv(f"memories.{n}.see", norm(f"memories.{n}.norm", x))
            told = told + conv(f"memories.{n}.recall", states[n])
            gate, new = torch.sigmoid(told[:16]), torch.tanh(told[16:])
            states[n] = (1 - gate) * states[n] + gate * new
            x = x + conv(f"memories.{n}.tell", states[n])
            x = block(f"blocks.{n + 1}", x)
        guess = seen + conv("proj", F.gelu(norm("norm", x)))
        if t < 3:
            errors.append((guess - moments[t + 1].permute(2, 0, 1)).square().mean())
        before = seen
    return float(torch.stack(errors).mean())


def test_beyond_the_next_moment_it_predicts_from_predictions(make_job: Any, video: Tensor) -> None:
    objective, codes = made(make_job)
    predictor = objective.predictor
    known = z = coded(objective, codes, video)[:, : 2 * AREA]
    ids = torch.arange(4 * AREA).expand(len(z), -1)
    found = predictor(z, ids[:, : 2 * AREA], ids[:, 2 * AREA :])
    for _ in range(2):  # all is read anew, nothing is carried on
        after = predictor.predict_next(known)[:, -1, :, 0]
        known = torch.cat([known, after], dim=1)
    assert found.shape == (len(z), 2 * AREA, WIDTH)
    assert torch.allclose(found, known[:, 2 * AREA :], atol=1e-4)


def test_every_moment_is_gone_on_from_as_the_last_one(make_job: Any, video: Tensor) -> None:
    objective, codes = made(make_job, "objective.horizons=3")
    z, predictor = coded(objective, codes, video), objective.predictor
    found = predictor.predict_next(z)
    assert found.shape == (2, 4, AREA, 3, WIDTH)
    ids = torch.arange(8 * AREA).expand(len(z), -1)
    for moment in range(4):
        seen = (moment + 1) * AREA
        alone = predictor(z[:, :seen], ids[:, :seen], ids[:, seen : seen + 3 * AREA])
        alone = alone.view(2, 3, AREA, WIDTH).transpose(1, 2)
        assert torch.allclose(found[:, moment], alone, atol=1e-3), moment


def test_before_training_it_expects_that_nothing_changes(make_job: Any, video: Tensor) -> None:
    job = make_job(*DYNAMICS, *SHAPE)
    objective, codes = build_objective(job), randomly_initialized_teacher(job)
    assert isinstance(objective, DynamicsObjective)
    assert isinstance(codes, PCAPatchEncoder)
    z = coded(objective, codes, video)
    told = objective.predictor.predict_next(z)[:, :, :, 0].flatten(1, 2)
    assert (told - z).abs().max() < 0.1 * z.std()


# -- as a folder ------------------------------------------------------------------------------


def test_a_saved_model_can_be_judged_and_begun_with(
    tmp_path: Path, make_job: Any, video: Tensor
) -> None:
    objective, codes = made(make_job)
    job = make_job(*DYNAMICS, *SHAPE)
    save_model(tmp_path / "model", objective, codes, job, {})
    model = load_folder(tmp_path / "model")
    assert isinstance(model, Evaluable)
    assert isinstance(model, PredictsNext)
    assert isinstance(model, DecodesToPixels)
    assert (model.masks, model.horizons) == (1, 1)
    features = model.encode(video)
    assert torch.equal(features, coded(objective, codes, video))
    torch.testing.assert_close(model.encode(video, seen=4), features[:, : 2 * AREA])
    assert torch.equal(model.compared(features, video), features), "codes have a scale of their own"
    assert torch.equal(model.ahead(features), objective.predictor.predict_next(features))
    assert model.foresee(features[:, : 2 * AREA]).shape == (2, 2 * AREA, WIDTH)
    expected = predicted_frames(model, video[0].numpy(), ContextSpec(context=4, mask=0, horizon=1))
    assert expected is not None
    assert expected.shape == (8, 32, 32, 3)
    assert (expected[:4] == 128).all()
    told = model.ahead(features)[:1, 2, :, 0]
    # Two clips at once round in another way than one.
    apart = expected[6:8].astype(int) - model.pictured(told)[0].numpy()
    assert np.abs(apart).max() <= 1
    one, other = model.untaught(1), model.untaught(2)
    assert not torch.equal(one.encode(video), other.encode(video))
    again = build_objective(make_job(*DYNAMICS, *SHAPE, "seed=9"))
    load_weights_into(again, tmp_path / "model")
    for name, value in again.state_dict().items():
        assert torch.equal(value, objective.state_dict()[name]), name


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (DYNAMICS[:1], "dynamics does not go with an encoder 'vit'"),
        (DYNAMICS[1:], "vjepa2 does not go with an encoder 'codes'"),
        ((*DYNAMICS, "model.encoder.dim=999"), "999 numbers for a patch of 384"),
        ((*DYNAMICS, "model.predictor.dim=20"), "20 channels in 8 groups: write a multiple of 8"),
        ((*DYNAMICS, "data.actions={actions: given}"), "dynamics is told no actions"),
        ((*DYNAMICS, *SHAPE, "data.frames=2"), "2 frames are one moment"),
        ((*DYNAMICS, *SHAPE, "objective.horizons=4"), "4 moments ahead of a clip of 4"),
        ((*DYNAMICS, *SHAPE, "objective.masks=[{}, {}]"), "at most 1 item"),
        ((*DYNAMICS, *SHAPE, "objective.masks=[{targets: 0.9}]"), "context 15 . targets 57"),
    ],
)
def test_what_cannot_be_is_refused(make_job: Any, overrides: tuple[str, ...], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        make_job(*overrides)
