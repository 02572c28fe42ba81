"""Several trials at once on a simulated cluster of four worker slots."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

from orchestrator.runner import run
from orchestrator.storage import Storage
from orchestrator.tuning.trial_store import TrialStore
from tests.support.sweeps import tune_job


@pytest.mark.nightly
@pytest.mark.integration
def test_slots_are_hardly_ever_free_while_a_trial_waits_and_never_given_twice(
    tmp_path: Path,
) -> None:
    job = tune_job(tmp_path, "train.scale.workers=2", "train.scale.micro_batch=2", trials=6)
    ray.init(address="local", num_cpus=5, include_dashboard=False, log_to_driver=False)
    try:
        verdict = run(job).verdict
    finally:
        ray.shutdown()
    assert {row["state"] for row in verdict["trials"]} <= {"done", "collapsed"}
    (slots,) = verdict["slots"]
    assert slots["slots"] == 4
    assert slots["waited_slot_s"] > 0
    assert slots["unreserved"] < 0.1

    legs = [
        (leg["granted"], leg["released"])
        for entry in TrialStore(Storage(job.storage).subfolder("sweeps", job.name)).records()
        for leg in entry.legs
    ]
    at_once = [sum(low <= at < high for low, high in legs) for at, _ in legs]
    assert max(at_once) == 2, "two trials of two workers find room, and no third"
    # What workers held, counted by the desk and by the ledger.
    held = 2 * sum(high - low for low, high in legs) / 3600
    assert slots["worker_hours"] == pytest.approx(held, rel=0.01)
