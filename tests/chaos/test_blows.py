"""Killed ranks, drivers and nodes: the run that goes on is the one that nothing happened to."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import struck_job
from orchestrator.bench.chaos import Blow, bench_chaos, draw_blows


@pytest.mark.integration
def test_a_killed_rank_and_a_killed_driver_lose_nothing(tmp_path: Path) -> None:
    blows = [Blow("rank", 1, 2, 0.0), Blow("driver", 0, 4, 0.1)]
    found = bench_chaos(struck_job(), tmp_path, blows)
    assert found["good"] == 2, found["rows"]


@pytest.mark.nightly
def test_twenty_four_blows_lose_nothing(tmp_path: Path) -> None:
    job = struck_job()
    found = bench_chaos(job, tmp_path, draw_blows(job, 24, 0, ("rank", "driver", "node")))
    assert found["good"] == 24, [row for row in found["rows"] if not row["good"]]
