"""The job that is struck: small, and slow enough to be hit in its middle."""

from __future__ import annotations

from pathlib import Path

from orchestrator.bench.fault_injection import RunHarness
from orchestrator.job import TrainJob, build_job
from tests.support.audit_objective import write_shade_videos

STEPS = 120


def fault_injection_job(folder: Path, *overrides: str) -> TrainJob:
    """120 steps of 8 clips on two ranks, some ten seconds; a checkpoint every 5."""
    videos, witness = folder / "videos", folder / "seen"
    if not videos.exists():
        write_shade_videos(videos)
        witness.mkdir()
    job = build_job(
        {
            "kind": "train",
            "name": "struck",
            "seed": 5,
            "data": {
                "source": str(videos),
                "frames": 4,
                "fps": 4.0,
                "size": 64,
                "decode_threads": 1,
                "encode": {"short_side": 64},
            },
            "model": {
                "encoder": {"kind": "vit", "dim": 96, "depth": 4, "heads": 4},
                "patch": 8,
                "predictor": {"depth": 2, "dim": 48, "heads": 4},
            },
            "objective": {
                "kind": "tests.support.audit_objective:AuditObjective",
                "folder": str(witness),
                "ema": 0.9,
                "masks": [{"targets": 0.5, "context": 0.25}],
            },
            "optim": {"steps": STEPS, "lr": 1e-4, "warmup": 1},
            "scale": {
                "workers": 2,
                "global_batch": 8,
                "micro_batch": 4,
                "precision": "fp32",
            },
            "checkpoint": {"every": 5, "keep_last": 2},
            "track": {"experiment": "chaos", "every": 1, "pictures": 0},
        },
        list(overrides),
    )
    assert isinstance(job, TrainJob)
    return job


def make_arena(folder: Path, *overrides: str) -> RunHarness:
    """The job's arena, with the uninterrupted run done; the runs find the witness."""
    arena = RunHarness(fault_injection_job(folder, *overrides), folder)
    arena.env["PYTHONPATH"] = str(Path(__file__).parents[2])
    arena.run_baseline()
    return arena
