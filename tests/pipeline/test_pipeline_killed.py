"""The shipped pipeline, killed in its third stage: the same command ends it, nothing is twice."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

STAGES = ["pretrain", "cooldown", "judge", "promote"]
LIMIT_S = 600.0


def start(storage: Path, log: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "orchestrator", "run", "jobs/physics/pipeline.yaml"]
    with log.open("wb") as out:
        return subprocess.Popen(
            [*command, f"storage={storage}", *options],
            stdout=out,
            start_new_session=True,
            stderr=subprocess.STDOUT if not options else None,
            env={key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"},
        )


def end_session(leader: int) -> None:
    """What a killed driver leaves behind: its Ray processes."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == leader:
                process.kill()


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_killed_in_the_third_stage_it_goes_on_there(tmp_path: Path) -> None:
    log, began = tmp_path / "first.log", time.monotonic()
    first = start(tmp_path, log)
    while "stage 3/4" not in log.read_text():
        assert first.poll() is None, log.read_text()
        time.sleep(0.5)
    time.sleep(5.0)
    first.kill()
    first.wait()
    end_session(first.pid)
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/checkpoints/*/*")}
    assert trained

    second = start(tmp_path, tmp_path / "second.json", "--json")
    assert second.wait() == 0
    took = time.monotonic() - began
    summary: dict[str, Any] = json.loads((tmp_path / "second.json").read_text())
    assert [row["state"] for row in summary["stages"]] == ["kept", "kept", "done", "done"]
    assert trained == {path: path.stat().st_mtime_ns for path in trained}
    assert took < LIMIT_S

    client = MlflowClient(summary["tracking_uri"])
    experiment = client.get_run(summary["run_id"]).info.experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert sorted(runs) == sorted(["physics-ladder", *(f"physics-ladder.{s}" for s in STAGES)])
    assert len(client.search_runs([experiment])) == len(runs)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    children = [run for run in runs.values() if "mlflow.parentRunId" in run.data.tags]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {summary["run_id"]}
    assert len(children) == len(STAGES)
    champion = client.get_model_version_by_alias("physics-ladder", "champion")
    assert champion.run_id == runs["physics-ladder.cooldown"].info.run_id
