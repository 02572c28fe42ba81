"""The objective that reads time forwards: nothing later is seen, and every moment predicts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from orchestrator.errors import RequestError
from orchestrator.jepa.objectives import CausalObjective, build_objective
from orchestrator.jepa.objectives.causal.objective import SMOOTH_L1_BETA
from orchestrator.jepa.objectives.causal.predictor import CausalPredictor
from orchestrator.jepa.pixel_normalization import normalise
from orchestrator.jepa.transformer import MAX_EXPLICIT_ATTENTION_TOKENS, Attention, attention

CAUSAL = ("objective={kind: causal, ema: 0.9, horizons: 2}", "model.encoder.attention=moment")


def made(make_job: Any) -> CausalObjective:
    """With weights large enough that what should not matter would show."""
    objective = build_objective(make_job(*CAUSAL))
    assert isinstance(objective, CausalObjective)
    with torch.no_grad():
        for parameter in objective.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    return objective


def test_what_comes_later_changes_nothing_before(make_job: Any, video: Tensor) -> None:
    objective = made(make_job)
    changed = video.clone()
    changed[:, 4:] = 255 - changed[:, 4:]
    first, second = (
        objective.predictor.predict_next(objective.encoder(normalise(v, torch.float32), None))
        for v in (video, changed)
    )
    assert torch.equal(first[:, :2], second[:, :2]), "two moments of two frames"
    assert not torch.allclose(first[:, 2:], second[:, 2:])
    assert (first[:, 0] - first[:, 1]).abs().max() > 1e-3


def test_the_past_of_other_places_is_seen(make_job: Any, video: Tensor) -> None:
    objective = made(make_job)
    changed = video.clone()
    changed[:, :2, :8, :8] = 0  # one token of the first moment
    first, second = (
        objective.predictor.predict_next(objective.encoder(normalise(v, torch.float32), None))
        for v in (video, changed)
    )
    assert (first[:, 3, -1] - second[:, 3, -1]).abs().max() > 1e-4


def test_loss_against_a_naive_float64_reference(make_job: Any, video: Tensor) -> None:
    objective = made(make_job).double()
    x = normalise(video, torch.float64)
    targets = objective.targets(objective.encoder, x)
    found = objective(x, [], targets).loss
    predicted = objective.predictor.predict_next(objective.encoder(x, None))
    for clip in range(len(x)):
        horizons = []
        for horizon in (1, 2):
            errors = []
            for moment in range(4 - horizon):
                for place in range(16):
                    features = objective.encoder(x[clip : clip + 1], None)[0]
                    token = features[(moment + horizon) * 16 + place]
                    wanted = (token - token.mean()) / (token.var(unbiased=False) + 1e-5).sqrt()
                    gap = (predicted[clip, moment, place, horizon - 1] - wanted).abs()
                    bent = torch.where(
                        gap < SMOOTH_L1_BETA,
                        gap**2 / (2 * SMOOTH_L1_BETA),
                        gap - SMOOTH_L1_BETA / 2,
                    )
                    errors.append(bent.mean())
            horizons.append(torch.stack(errors).mean())
        assert float(found[clip]) == pytest.approx(float(sum(horizons) / 2), rel=1e-5)


def test_beyond_the_horizons_it_predicts_from_predictions(make_job: Any, video: Tensor) -> None:
    objective = made(make_job)
    predictor = objective.predictor
    assert isinstance(predictor, CausalPredictor)
    z = objective.encoder(normalise(video, torch.float32), None)[:, :16]
    ids = torch.arange(64).expand(len(z), -1)
    found = predictor(z, ids[:, :16], ids[:, 16:])
    assert found.shape == (len(z), 48, 48)
    # By hand: two moments at once, then the third from what was predicted.
    known = torch.nn.functional.layer_norm(z, (48,))
    first = predictor.predict_next(known)[:, 0]
    two = [first[:, :, 0], first[:, :, 1]]
    third = predictor.predict_next(torch.cat([known, *two], dim=1))[:, -1, :, 0]
    assert torch.allclose(found, torch.cat([*two, third], dim=1), atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "tokens", [MAX_EXPLICIT_ATTENTION_TOKENS, MAX_EXPLICIT_ATTENTION_TOKENS + 1]
)
def test_plain_products_are_attention(tokens: int, causal: bool) -> None:
    q, k, v = torch.randn(3, 2, 4, tokens, 12).bfloat16()
    scores = q.double() @ k.double().transpose(-1, -2) / 12**0.5
    if causal:
        scores = scores + torch.full((tokens, tokens), -torch.inf).triu(1)
    exact = scores.softmax(-1) @ v.double()
    assert (attention(q, k, v, causal=causal).double() - exact).abs().max() < 0.03


def test_only_the_attention_over_time_is_causal(make_job: Any) -> None:
    predictor = made(make_job).predictor
    kinds = {n: m.causal for n, m in predictor.named_modules() if isinstance(m, Attention)}
    assert {name.rsplit(".")[-1]: causal for name, causal in kinds.items()} == {
        "space": False,
        "time": True,
    }


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (CAUSAL[:1], "'clip' lets a moment see the ones it is to predict; write moment"),
        (CAUSAL[1:], "'moment' leaves nothing for the masks of vjepa2 to hide from"),
        (
            ("objective={kind: causal, horizons: 4}", CAUSAL[1]),
            "4 moments ahead of a clip of 4",
        ),
    ],
)
def test_what_cannot_be_is_refused(make_job: Any, overrides: tuple[str, ...], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        make_job(*overrides)
