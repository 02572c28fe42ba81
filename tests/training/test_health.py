"""Health of features against naive formulas, and at the two ends: collapsed and isotropic."""

from __future__ import annotations

import math

import pytest
import torch

from orchestrator.job import VJEPA2
from orchestrator.job.config.objective import objective_config_class
from orchestrator.training import health


def test_collapsed_to_a_point() -> None:
    features = torch.ones(4, 16, 8) * torch.randn(8)
    assert health.feature_std(features) == pytest.approx(0, abs=1e-6)
    assert health.rankme(features) == pytest.approx(1, abs=1e-3)
    assert health.token_cosine(features) == pytest.approx(1, abs=1e-5)


def test_isotropic_features_fill_their_dimensions() -> None:
    features = torch.randn(8, 512, 16, generator=torch.Generator().manual_seed(0))
    assert health.feature_std(features) == pytest.approx(1, abs=0.02)
    assert health.rankme(features) > 15.9
    assert abs(health.token_cosine(features)) < 0.01


@pytest.mark.parametrize("shape", [(2, 30, 24), (1, 9, 24)])
def test_the_naive_formulas_agree(shape: tuple[int, int, int]) -> None:
    features = torch.randn(*shape, generator=torch.Generator().manual_seed(1)) + 0.5
    rows = features.reshape(-1, shape[-1]).double()
    singular = torch.linalg.svdvals(rows)
    share = singular / singular.sum()
    entropy = -sum(float(p) * math.log(float(p)) for p in share if p > 0)
    assert health.rankme(features) == pytest.approx(math.exp(entropy), rel=1e-3)
    units = rows / rows.norm(dim=1, keepdim=True)
    pairs = [float(a @ b) for i, a in enumerate(units) for j, b in enumerate(units) if i != j]
    assert health.token_cosine(features) == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)


def test_the_sample_is_bounded_and_spread() -> None:
    rows = health.sample_tokens(torch.arange(100_000.0).view(10, 10_000, 1))
    assert len(rows) <= health.MAX_TOKENS
    assert float(rows.mean()) == pytest.approx(50_000, rel=0.01)


def test_distance_is_of_whole_vectors_over_all_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CHUNK_ELEMENTS", 7)
    teacher, student = [torch.randn(20), torch.randn(5)], [torch.randn(20), torch.randn(5)]
    apart, size = health.teacher_squared_distance(teacher, student)
    whole_t, whole_s = torch.cat(teacher), torch.cat(student)
    assert float((apart / size).sqrt()) == pytest.approx(
        float((whole_t - whole_s).norm() / whole_s.norm()), rel=1e-5
    )


def test_a_collapse_is_said_and_a_narrow_encoder_is_none() -> None:
    directions = torch.randn(8, 64, 32)
    one = torch.randn(8, 64, 1) * torch.randn(32)
    for features, collapsed in (
        (directions, False),
        (one, True),
        (torch.ones(8, 64, 32), True),
        (directions * 1e-3, True),
    ):
        values = signs(features)
        told = health.collapse_warning(values, objective=VJEPA2(), lr=1e-3, momentum=0.99)
        assert (told is not None) == collapsed, values
        assert told is None or told.startswith(health.COLLAPSE_MESSAGE)


def signs(features: torch.Tensor) -> dict[str, float]:
    return {
        "rankme": health.rankme(features),
        "feature_std": health.feature_std(features),
        "token_cosine": health.token_cosine(features),
    }


def test_tokens_that_all_point_one_way_are_a_collapse_whatever_their_spread() -> None:
    """Features of no norm, many channels, a little noise: RankMe and std alone see nothing."""
    draw = torch.Generator().manual_seed(0)
    found = signs(100 + 0.8 * torch.randn(8, 64, 1024, generator=draw))
    assert found["rankme"] > health.MIN_RANKME
    assert found["feature_std"] > health.MIN_FEATURE_STD
    assert health.collapse_warning(found, objective=VJEPA2(), lr=1e-3, momentum=0.99) is not None


@pytest.mark.parametrize(
    ("objective", "momentum", "steps"),
    [
        ("vjepa2", 0.996, ("raise objective.ema", "lower optim.lr")),
        ("lewm", None, ("raise objective.weight", "raise objective.statistic_clips")),
        ("pixels", None, ("lower optim.lr", "lengthen optim.warmup")),
    ],
)
def test_a_collapse_says_its_signs_what_drove_it_and_two_things_to_try(
    objective: str, momentum: float | None, steps: tuple[str, str]
) -> None:
    told = health.collapse_warning(
        signs(torch.ones(2, 8, 4)),
        objective=objective_config_class(objective),
        lr=3e-4,
        momentum=momentum,
    )
    assert told is not None
    for part in ("RankMe 1", "feature std 0", "token cosine 1", "learning rate 0.0003", *steps):
        assert part in told
    assert ("momentum 0.996" in told) == (momentum is not None)
