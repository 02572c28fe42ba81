"""Schedules against values worked out by hand."""

from __future__ import annotations

import pytest

from orchestrator.job import Optim
from orchestrator.training.engine.schedule import learning_rate, weight_decay


def test_warmup_constant_decay_at_its_corners() -> None:
    optim = Optim(steps=100, lr=1.0, lr_start=0.2, lr_end=0.1, warmup=10, decay=30)
    assert [learning_rate(optim, s) for s in (0, 5, 10, 69)] == pytest.approx([0.2, 0.6, 1, 1])
    assert learning_rate(optim, 70) == pytest.approx(1 - 0.9 / 30)
    assert learning_rate(optim, 99) == pytest.approx(0.1)


def test_the_default_warmup_starts_at_a_fifth() -> None:
    optim = Optim(steps=10, lr=5e-4, warmup=2)
    assert learning_rate(optim, 0) == pytest.approx(1e-4)
    assert learning_rate(optim, 9) == 5e-4


def test_cosine_falls_over_everything_after_the_warmup() -> None:
    optim = Optim(steps=71, lr=0.5, lr_end=0.1, warmup=10, decay=20, schedule="cosine")
    # 1 + cos is 2, 1.5, 1, 0.5 and 0 at 0, 60, 90, 120 and 180 degrees: steps 10, 30, 40, 50, 70.
    wanted = [0.5, 0.4, 0.3, 0.2, 0.1]
    assert [learning_rate(optim, s) for s in (10, 30, 40, 50, 70)] == pytest.approx(wanted)


def test_weight_decay_stays_or_ramps_along_a_cosine() -> None:
    assert weight_decay(Optim(steps=9, weight_decay=0.04), 8) == 0.04
    ramp = Optim(steps=101, weight_decay=0.04, weight_decay_end=0.4)
    assert [weight_decay(ramp, s) for s in (0, 50, 100)] == pytest.approx([0.04, 0.22, 0.4])


def test_a_run_of_one_step_has_a_rate() -> None:
    assert learning_rate(Optim(steps=1, lr=1.0, schedule="cosine"), 0) == 1.0
    assert learning_rate(Optim(steps=1, lr=1.0, decay=1), 0) == pytest.approx(1e-6)
