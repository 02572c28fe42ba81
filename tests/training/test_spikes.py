"""Losses that are spikes, and steps in a row that could not be applied."""

from __future__ import annotations

import pytest

from orchestrator.training.engine.spike_guard import LEAST, MAX_SKIPPED, Diverged, SpikeGuard


def test_a_bound_needs_a_past_and_follows_the_median() -> None:
    guard = SpikeGuard(5.0)
    for step in range(LEAST):
        assert guard.bound is None
        guard.count(0.4 if step % 2 else 0.6, True, step)
    assert guard.bound == pytest.approx(2.5)
    guard.count(1e6, False, LEAST)
    assert guard.bound == pytest.approx(2.5)


def test_no_limit_no_bound() -> None:
    guard = SpikeGuard(0.0)
    for step in range(50):
        guard.count(1.0, True, step)
    assert guard.bound is None


def test_too_many_in_a_row_are_a_divergence_that_says_what_was_usual() -> None:
    guard = SpikeGuard(5.0)
    guard.count(0.5, True, 0)
    for step in range(MAX_SKIPPED - 1):
        guard.count(float("nan"), False, step)
    guard.count(0.5, True, 20)
    for step in range(MAX_SKIPPED - 1):
        guard.count(float("nan"), False, step)
    with pytest.raises(Diverged, match=r"10 steps in a row .* about 0\.5"):
        guard.count(float("nan"), False, 40)


def test_each_bucket_is_measured_against_its_own_past() -> None:
    guard = SpikeGuard(5.0)
    for step in range(LEAST):
        guard.turn_to("small")
        guard.count(0.1, True, step)
        guard.turn_to("large")
        guard.count(10.0, True, step)
    assert guard.bound == pytest.approx(50)
    guard.turn_to("small")
    assert guard.bound == pytest.approx(0.5)
    again = SpikeGuard(5.0)
    again.remember(guard.state())
    again.turn_to("large")
    assert again.bound == pytest.approx(50)


def test_a_training_of_one_shape_saves_a_list_as_ever() -> None:
    guard = SpikeGuard(5.0)
    assert guard.state() == []
    guard.count(0.5, True, 0)
    assert guard.state() == [0.5]
    again = SpikeGuard(5.0)
    again.remember([0.25, 0.5])
    assert list(again.recent) == [0.25, 0.5]
