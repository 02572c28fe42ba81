"""Intervals cover what they promise, chance is called chance, and a gate wants more than luck."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from orchestrator.errors import RequestError
from orchestrator.evaluation.promotion_gate import compare
from orchestrator.physics.suite.scoring import pair_accuracy, quad_correct
from orchestrator.report.statistics import (
    bootstrap_macro_mean,
    bootstrap_mean,
    holm_adjust,
    localisation_chance,
    localisation_errors,
    quad_auroc,
    sign_flip_test,
)


def suite(quads: int, edge: float, seed: int = 0) -> np.ndarray:
    """Scores [quads, 2, 2] whose impossible cells are `edge` standard deviations up."""
    scores = np.random.default_rng(seed).normal(size=(quads, 2, 2))
    return scores + edge * (1 - np.eye(2))


def test_scores_without_an_edge_are_at_chance_and_with_a_large_one_perfect() -> None:
    luck, sure = suite(4000, 0), suite(50, 100)
    assert pair_accuracy(luck).mean() == pytest.approx(0.5, abs=0.02)
    assert quad_correct(luck).mean() == pytest.approx(0.25, abs=0.02)
    assert quad_auroc(luck[:1000]) == pytest.approx(0.5, abs=0.02)
    assert pair_accuracy(sure).mean() == quad_correct(sure).mean() == quad_auroc(sure) == 1


def test_shuffled_labels_fall_to_chance() -> None:
    scores, draw = suite(2000, 5, seed=1), np.random.default_rng(2)
    shuffled = np.stack([draw.permutation(quad.ravel()).reshape(2, 2) for quad in scores])
    assert quad_correct(scores).mean() > 0.99
    assert quad_correct(shuffled).mean() == pytest.approx(0.25, abs=0.05)


def test_odd_outcomes_and_odd_contexts_decide_nothing() -> None:
    """A model that wonders at an outcome whatever came before has no quad right."""
    odd_outcome = np.tile(np.array([[0.0, 9.0], [0.0, 9.0]]), (10, 1, 1))
    assert quad_correct(odd_outcome).mean() == pytest.approx(0.25)  # ties: a coin for each column
    assert pair_accuracy(odd_outcome).mean() == pytest.approx(0.5)


def test_auroc_is_the_share_of_all_comparisons() -> None:
    scores = suite(7, 0.5)
    possible = [quad[i, i] for quad in scores for i in range(2)]
    impossible = [quad[i, 1 - i] for quad in scores for i in range(2)]
    naive = np.mean([bad > good for good, bad in itertools.product(possible, impossible)])
    assert quad_auroc(scores) == pytest.approx(naive)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draw, hits = np.random.default_rng(3), 0
    for seed in range(200):
        found = bootstrap_mean(draw.binomial(1, 0.6, 60).astype(float), 0.95, seed)
        hits += found.low <= 0.6 <= found.high
    assert 0.89 <= hits / 200 <= 0.99


def test_the_overall_mean_weighs_scenarios_alike() -> None:
    found = bootstrap_macro_mean({"many": np.ones(100), "few": np.zeros(2)}, 0.95)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_the_sign_test_knows_luck_from_skill() -> None:
    draw = np.random.default_rng(4)
    luck = [sign_flip_test(draw.binomial(1, 0.5, 40).astype(float)) for _ in range(200)]
    assert np.mean(np.array(luck) < 0.05) <= 0.1
    assert sign_flip_test(np.ones(20)) < 0.01


def test_holm_is_the_step_down_of_the_textbook() -> None:
    assert holm_adjust({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx(
        {"a": 0.03, "c": 0.06, "b": 0.06}
    )
    assert holm_adjust({"a": 0.9, "b": 0.8})["a"] == 1.0


def test_the_moment_is_found_where_surprise_rises() -> None:
    curves = np.ones((3, 2, 2, 10))
    curves[..., :2] = np.nan
    curves[:, [0, 1], [1, 0], 6] = 5.0
    found = localisation_errors(curves, np.array([6, 6, 4]))
    assert found.tolist() == [0, 0, 2]
    # Frames 2 to 9 are predicted: a moment drawn from them is so far from 6, 6 and 4.
    by_hand = [np.mean([abs(frame - t) for frame in range(2, 10)]) for t in (6, 6, 4)]
    assert localisation_chance(curves, np.array([6, 6, 4])) == pytest.approx(np.mean(by_hand))


def scored(values: list[float], protocol: str = "p") -> dict[str, object]:
    return {"protocol": protocol, "confidence": 0.95, "quad": {"drop": values}}


def test_the_gate_wants_a_difference_that_luck_does_not_explain() -> None:
    champion = scored([0.0, 1.0] * 20)
    assert compare(scored([1.0] * 40), champion).is_better
    assert not compare(champion, champion).is_better
    assert not compare(scored([1.0, 1.0, *[0.0, 1.0] * 19]), champion).is_better
    assert "+50.0" in str(compare(scored([1.0] * 40), champion))
    with pytest.raises(RequestError, match="protocols"):
        compare(scored([1.0] * 40, "another"), champion)
