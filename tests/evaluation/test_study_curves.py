"""Ratios of need: what curves of a known shift give, and when nothing may be claimed."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.study.curves import data_efficiency_ratio

CLIPS = np.array([16, 64, 256, 1024])


def curves(shift: float, noise: float, seeds: int = 5, seed: int = 0) -> np.ndarray:
    """Scores that grow by 0.1 with each doubling of N, as if there were 2^shift times as much."""
    draw = np.random.default_rng(seed)
    mean = 0.1 * (np.log2(CLIPS) + shift)
    return mean + noise * draw.standard_normal((seeds, len(CLIPS)))


def test_a_known_shift_is_found_and_claimed() -> None:
    found = data_efficiency_ratio(CLIPS, curves(0, 0.01), curves(2, 0.01, seed=1), 0.95)
    assert found.claim
    assert found.value == pytest.approx(4, rel=0.1)
    assert found.low is not None
    assert found.high is not None
    assert 3 < found.low <= found.value <= found.high < 5
    other_way = data_efficiency_ratio(CLIPS, curves(2, 0.01, seed=1), curves(0, 0.01), 0.95)
    assert other_way.claim
    assert other_way.value == pytest.approx(1 / 4, rel=0.1)


def test_an_interval_that_includes_one_claims_nothing() -> None:
    found = data_efficiency_ratio(CLIPS, curves(0, 0.2), curves(0.1, 0.2, seed=1), 0.95)
    assert not found.claim
    assert found.why == "the interval includes 1"


def test_curves_that_share_no_score_claim_nothing() -> None:
    found = data_efficiency_ratio(CLIPS, curves(0, 0.0), curves(0, 0.0) + 5, 0.95)
    assert (found.value, found.claim) == (None, False)
    assert found.why == "no score is reached by both curves"
    # A flat curve reaches nothing that it does not begin with.
    assert (
        data_efficiency_ratio(CLIPS, np.zeros((3, 4)), curves(0, 0.0, seeds=3), 0.95).value is None
    )


def test_curves_that_rarely_overlap_claim_nothing() -> None:
    reference, arm = curves(0, 0.0, seeds=3), curves(0, 0.0, seeds=3)
    arm[0] += 1.5  # seeds 1 and 2 lie on the reference; where 0 is drawn often, nothing overlaps
    found = data_efficiency_ratio(CLIPS, reference, arm, 0.95)
    assert not found.claim
    assert "of the resamples no score is reached by both" in found.why


def test_one_seed_has_a_ratio_and_no_claim() -> None:
    found = data_efficiency_ratio(CLIPS, curves(0, 0.0, seeds=1), curves(2, 0.0, seeds=1), 0.95)
    assert found.value == pytest.approx(4, rel=1e-6)
    assert (found.low, found.claim, found.why) == (None, False, "one seed has no interval")


def test_a_dip_does_not_need_more_videos_than_the_best_before_it() -> None:
    falling = np.array([[0.4, 0.6, 0.5, 0.8]] * 2)
    assert data_efficiency_ratio(CLIPS, falling, falling, 0.95).value == pytest.approx(1)
