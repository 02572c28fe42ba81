"""Killed ranks, drivers and nodes: the run that goes on is the one that nothing happened to."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.bench.fault_injection import (
    InjectedFault,
    RunHarness,
    bench_fault_injection,
    draw_faults,
)
from tests.support.audit_objective import NUM_SHADES, audited_clips
from tests.support.faults import STEPS, make_arena

BATCH, WORLD = 8, 2


def starts(folder: Path, run: str) -> list[int]:
    """The steps from which a run's starts went on, by what it printed; the last step's only ended
    the run."""
    log = (folder / f"{run}.log").read_text()
    resumed = [int(step) for step in re.findall(r"resumed at step (\d+)", log)]
    return [0, *(step for step in resumed if step < STEPS)]


def check_witness(folder: Path, runs: list[str]) -> None:
    """Each run saw the uninterrupted run's clips at every step, and each clip once in a pass."""
    calm = audited_clips(folder / "seen", "calm", [0], WORLD)
    assert len(calm) == STEPS
    for run in runs:
        assert audited_clips(folder / "seen", run, starts(folder, run), WORLD) == calm, run
    shades = sorted({round(mean, 2) for step in calm for mean in step})
    assert len(shades) == NUM_SHADES, "every video has a shade of its own"
    passes = [mean for step in calm for mean in step]
    for first in range(0, len(passes) - NUM_SHADES + 1, NUM_SHADES):
        once = Counter(round(mean, 2) for mean in passes[first : first + NUM_SHADES])
        assert set(once.values()) == {1}


@pytest.mark.integration
def test_a_killed_driver_loses_nothing(fault_arena: RunHarness) -> None:
    """Its ranks die with it. Ranks and nodes that die alone are struck below: that takes long."""
    found = bench_fault_injection(fault_arena, [InjectedFault("driver", 0, 4, 0.3)])
    assert found["good"] == 1, found["rows"]
    check_witness(fault_arena.folder, ["blow-01"])


@pytest.mark.nightly
@pytest.mark.timeout(3600)  # 26 runs, one after the other
def test_twenty_four_blows_lose_nothing(tmp_path: Path) -> None:
    arena = make_arena(tmp_path)
    found = bench_fault_injection(arena, draw_faults(arena.job, 24, 0, ("rank", "driver", "node")))
    assert found["good"] == 24, [row for row in found["rows"] if not row["good"]]
    check_witness(arena.folder, [f"blow-{i:02d}" for i in range(1, 25)])
