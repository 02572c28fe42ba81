"""Losses that are spikes, and steps in a row that could not be applied."""

from __future__ import annotations

import pytest

from orchestrator.training.engine.spike_guard import (
    MAX_SKIPPED,
    MIN_LOSSES,
    SpikeGuard,
    TrainingDiverged,
)


def test_a_bound_needs_a_past_and_follows_the_median() -> None:
    guard = SpikeGuard(5.0)
    for step in range(MIN_LOSSES):
        assert guard.threshold is None
        guard.record_step(0.4 if step % 2 else 0.6, True, step)
    assert guard.threshold == pytest.approx(2.5)
    guard.record_step(1e6, False, MIN_LOSSES)
    assert guard.threshold == pytest.approx(2.5)


def test_no_limit_no_bound() -> None:
    guard = SpikeGuard(0.0)
    for step in range(50):
        guard.record_step(1.0, True, step)
    assert guard.threshold is None


def test_too_many_in_a_row_are_a_divergence_that_says_what_was_usual() -> None:
    guard = SpikeGuard(5.0)
    guard.record_step(0.5, True, 0)
    for step in range(MAX_SKIPPED - 1):
        guard.record_step(float("nan"), False, step)
    guard.record_step(0.5, True, 20)
    for step in range(MAX_SKIPPED - 1):
        guard.record_step(float("nan"), False, step)
    with pytest.raises(TrainingDiverged, match=r"10 steps in a row .* about 0\.5"):
        guard.record_step(float("nan"), False, 40)


def test_each_bucket_is_measured_against_its_own_past() -> None:
    guard = SpikeGuard(5.0)
    for step in range(MIN_LOSSES):
        guard.set_bucket("small")
        guard.record_step(0.1, True, step)
        guard.set_bucket("large")
        guard.record_step(10.0, True, step)
    assert guard.threshold == pytest.approx(50)
    guard.set_bucket("small")
    assert guard.threshold == pytest.approx(0.5)
    again = SpikeGuard(5.0)
    again.load_state_dict(guard.state_dict())
    again.set_bucket("large")
    assert again.threshold == pytest.approx(50)


def test_a_training_of_one_shape_saves_a_list_as_ever() -> None:
    guard = SpikeGuard(5.0)
    assert guard.state_dict() == []
    guard.record_step(0.5, True, 0)
    assert guard.state_dict() == [0.5]
    again = SpikeGuard(5.0)
    again.load_state_dict([0.25, 0.5])
    assert list(again.recent) == [0.25, 0.5]
