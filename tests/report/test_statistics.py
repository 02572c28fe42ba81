"""Statistics against references: another library, or the formula written out."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]

from orchestrator.report.statistics import auroc, quad_auroc, wilson_interval


@pytest.mark.parametrize("levels", [3, 50, 100_000])
def test_auroc_is_the_area_under_the_curve_with_ties_and_without(levels: int) -> None:
    draw = np.random.default_rng(levels)
    possible, impossible = draw.integers(0, levels, 37), draw.integers(0, levels, 41) + levels // 5
    labels = np.repeat([0, 1], [37, 41])
    area = roc_auc_score(labels, np.concatenate([possible, impossible]))
    assert auroc(possible, impossible) == pytest.approx(area, abs=1e-12)


@pytest.mark.parametrize("quads", [1, 2, 30])
def test_auroc_of_quads_has_the_bits_of_all_comparisons_counted_one_by_one(quads: int) -> None:
    """What verdicts on record hold; another value would need another protocol version."""
    scores = np.random.default_rng(quads).integers(0, 5, (quads, 2, 2)).astype(float)
    possible = np.concatenate([scores[:, 0, 0], scores[:, 1, 1]])
    impossible = np.concatenate([scores[:, 0, 1], scores[:, 1, 0]])
    larger = impossible[:, None] > possible[None]
    equal = impossible[:, None] == possible[None]
    assert quad_auroc(scores) == float((larger + 0.5 * equal).mean())


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
@pytest.mark.parametrize(("successes", "count"), [(0, 1), (1, 1), (0, 50), (17, 50), (200, 200)])
def test_a_share_has_wilson_s_interval(successes: int, count: int, confidence: float) -> None:
    z, share = NormalDist().inv_cdf(0.5 + confidence / 2), successes / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * (share * (1 - share) / count + (z / (2 * count)) ** 2) ** 0.5 / (1 + z**2 / count)
    found = wilson_interval(successes, count, confidence)
    assert found.value == share
    assert found.low == pytest.approx(max(0, middle - half), abs=1e-12)
    assert found.high == pytest.approx(min(1, middle + half), abs=1e-12)
