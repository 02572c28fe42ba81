"""The smallest training that is run to its end: a job as plain data, as a file holds it."""

from __future__ import annotations

from typing import Any


def tiny_train_job(**sections: Any) -> dict[str, Any]:
    """V-JEPA 2 of some thousand weights over eight simulated videos of 32 pixels, four steps.

    `sections` complete those of the job (`optim={"steps": 2}`), or replace a plain key.
    """
    job: dict[str, Any] = {
        "kind": "train",
        "name": "tiny",
        "data": {
            "source": "physics://mixed?clips=8&size=48&fps=8&seconds=2",
            "frames": 4,
            "fps": 4.0,
            "size": 32,
            "decode_threads": 1,
        },
        "model": {
            "encoder": {"kind": "vit", "dim": 24, "depth": 1, "heads": 2},
            "patch": 8,
            "predictor": {"depth": 1, "dim": 24, "heads": 2},
        },
        "objective": {"kind": "vjepa2", "ema": 0.9, "masks": [{"targets": 0.5, "context": 0.25}]},
        "optim": {"steps": 4, "lr": 1e-3, "warmup": 1},
        "scale": {"workers": 1, "global_batch": 2, "micro_batch": 2, "precision": "fp32"},
        "checkpoint": {"every": 2},
        "track": {"experiment": "tests", "register": "tiny", "every": 1, "pictures": 0},
    }
    for key, value in sections.items():
        known = job.get(key)
        job[key] = known | value if isinstance(known, dict) and isinstance(value, dict) else value
    return job
