"""SIGReg against the integral itself, and what it says of features that are or are not normal."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from orchestrator.jepa.objectives.sigreg import (
    characteristic_sums,
    epps_pulley,
    per_clip_losses,
    random_slices,
)

# Of n standard normal numbers: the integral of (1 - exp(-t^2)) exp(-t^2 / 2), to infinity.
EXPECTED = math.sqrt(2 * math.pi) - math.sqrt(2 * math.pi / 3)
# Of n zeros: n times the integral of (1 - exp(-t^2 / 2))^2 exp(-t^2 / 2).
COLLAPSED = EXPECTED - 2 * math.sqrt(math.pi) + 2 * math.sqrt(2 * math.pi / 3)


def closed_form(x: np.ndarray) -> float:
    """The closed form of the statistic of one sample, over all t and not only |t| < 3.

    Both the empirical and the normal characteristic function are sums of exponentials: the
    integral of their products against exp(-t^2 / 2) is known.
    """
    n, root = len(x), math.sqrt(2 * math.pi)
    pairs = np.exp(-((x[:, None] - x[None]) ** 2) / 2).sum() / n**2
    cross = np.exp(-(x**2) / 4).mean() / math.sqrt(2)
    return n * root * float(pairs - 2 * cross + 1 / math.sqrt(3))


def score(features: torch.Tensor, slices: int = 64) -> float:
    """The statistic of [n, dim] as one set, per feature."""
    n = len(features)
    x = features.float() @ random_slices(features.shape[1], slices, 1, torch.device("cpu"))
    means = characteristic_sums(x, torch.full((1, n), 1 / n))
    return float(epps_pulley(means, torch.tensor([float(n)]))) / n


@pytest.mark.parametrize("spread", [0.3, 1.0, 2.0])
def test_the_statistic_is_the_closed_form_integral(spread: float) -> None:
    draw = np.random.default_rng(3)
    x = draw.standard_normal((50, 7)) * spread + 0.2
    means = characteristic_sums(torch.tensor(x, dtype=torch.float32), torch.full((1, 50), 0.02))
    found = float(epps_pulley(means, torch.tensor([50.0])))
    exact = np.mean([closed_form(column) for column in x.T])
    # What lies beyond |t| = 3 has 0.3% of the weight.
    assert found == pytest.approx(exact, rel=0.01, abs=0.02)


def test_normal_features_score_near_zero_and_collapsed_ones_high() -> None:
    draw = torch.Generator().manual_seed(0)
    normal = torch.randn(4096, 16, generator=draw)
    assert score(normal) * 4096 == pytest.approx(EXPECTED, rel=0.2)
    assert score(torch.zeros(4096, 16)) == pytest.approx(COLLAPSED, rel=0.02)
    line = torch.randn(4096, 1, generator=draw) @ torch.ones(1, 16)
    for fault in (normal * 0.1, normal * 3, normal + 1, line, normal.abs()):
        assert score(fault) > 50 * score(normal)


def test_clip_losses_average_to_the_statistic_and_have_its_gradient() -> None:
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(12, 9, generator=draw).requires_grad_()
    member = torch.tensor([0] * 5 + [1] * 7)
    clips = torch.tensor([5.0, 7.0])
    share = torch.zeros(2, 12)
    share[member, torch.arange(12)] = 1 / clips[member]
    means = characteristic_sums(x.detach(), share)
    losses = per_clip_losses(x, means, clips, member)
    whole = epps_pulley(means, clips)
    for number in (0, 1):
        mine = losses[member == number].mean()
        assert float(mine.detach()) == pytest.approx(float(whole[number]), rel=1e-5)
    losses.mean().backward()

    def plain(x: torch.Tensor) -> torch.Tensor:
        """The same by autograd through the squared means, in float64."""
        t = torch.linspace(0, 3, 17, dtype=torch.float64)
        normal = torch.exp(-t * t / 2)
        total = torch.zeros((), dtype=torch.float64)
        for number, count in ((0, 5), (1, 7)):
            at = x[member == number][..., None] * t
            gap = (at.cos().mean(0) - normal) ** 2 + at.sin().mean(0) ** 2
            total = total + count * count * 2 * torch.trapezoid(gap * normal, t, dim=-1).mean()
        return total / 12

    exact = x.detach().double().requires_grad_()
    plain(exact).backward()
    assert x.grad is not None
    assert exact.grad is not None
    assert torch.allclose(x.grad.double(), exact.grad, atol=1e-6)


def test_slices_are_unit_and_follow_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    slices = random_slices(24, 100, 5, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.allclose(slices.norm(dim=0), torch.ones(100))
    assert torch.equal(slices, random_slices(24, 100, 5, torch.device("cpu")))
    assert not torch.equal(slices, random_slices(24, 100, 6, torch.device("cpu")))
    assert float(slices.mean(1).abs().max()) < 0.1


def test_descending_the_statistic_undoes_a_collapse() -> None:
    draw = torch.Generator().manual_seed(4)
    z = (0.01 * torch.randn(64, 4, generator=draw)).requires_grad_()
    descend = torch.optim.Adam([z], lr=0.05)
    share, clips, member = torch.full((1, 64), 1 / 64), torch.tensor([64.0]), torch.zeros(64).long()
    for step in range(200):
        x = z @ random_slices(4, 16, step, torch.device("cpu"))
        means = characteristic_sums(x.detach(), share)
        descend.zero_grad()
        per_clip_losses(x, means, clips, member).mean().backward()
        descend.step()
    spread = torch.linalg.eigvalsh(torch.cov(z.detach().T))
    assert float(spread.min()) > 0.5
    assert float(spread.max()) < 1.5
