"""What commit 1593339 made, continued by this version: the same clips, losses, weights and runs.

Each job is written in that version's own keys. That version runs it once without an interruption,
and once until it is killed half-way; this version continues what was killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from mlflow import MlflowClient

from tests.support.waiting import wait_until

EARLIER = "1593339"
CHECKOUT = Path(__file__).parents[2]
LIMIT_S = 900.0
SMALL = {"encoder": {"dim": 24, "depth": 2, "heads": 2}, "patch": 8, "tubelet": 2}
PREDICTOR = {"dim": 12, "depth": 1, "heads": 2}
SCENES = {
    "source": "physics://drop?clips=24&size=32&fps=8&seconds=2",
    "frames": 8,
    "fps": 8.0,
    "size": 32,
}
ROOMS = {
    "source": "world://two-rooms?episodes=8&steps=30&seed=0&size=32",
    "frames": 4,
    "fps": 2.0,
    "size": 32,
    "act": {"actions": "given"},
}
REST = {
    "optim": {"steps": 40, "lr": 1e-3, "warmup": 4},
    "scale": {"workers": 1, "zero": 1, "global_batch": 4, "micro_batch": 2, "precision": "fp32"},
    "checkpoint": {"every": 4, "keep_last": 2},
    "track": {"experiment": "tests", "register": "tiny", "every": 1, "pictures": 0},
}
VJEPA2 = {
    "data": SCENES,
    "model": {**SMALL, "predictor": PREDICTOR},
    "objective": {"kind": "vjepa2", "ema": 0.9, "masks": [{"targets": 0.5, "context": 0.25}]},
    **REST,
}
TRAININGS: dict[str, dict[str, Any]] = {
    "vjepa2": VJEPA2,
    "lewm-acts": {
        "data": ROOMS,
        "model": {
            "encoder": {"kind": "conv", "dim": 16, "width": 8},
            "patch": 8,
            "tubelet": 1,
            "predictor": PREDICTOR,
        },
        "objective": {
            "kind": "lewm", "slices": 16, "hidden": 16, "embed": 8,
            "pool": "places", "inverse": 1.0,
        },
        **REST,
    },
    "dynamics": {
        "data": {**SCENES, "frames": 8},
        "model": {
            "encoder": {"kind": "codes", "dim": 16},
            "patch": 8,
            "tubelet": 1,
            "predictor": {"depth": 1, "dim": 24, "heads": 2},
        },
        "objective": {"kind": "dynamics"},
        **REST,
    },
}  # fmt: skip


@pytest.fixture(scope="session")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of the earlier version's package."""
    command = ["git", "-C", str(CHECKOUT), "archive", EARLIER, "orchestrator", "jobs"]
    found = subprocess.run(command, capture_output=True)
    if found.returncode:
        pytest.skip(f"this clone does not hold commit {EARLIER}: {found.stderr.decode().strip()}")
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(fileobj=io.BytesIO(found.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def start(job: dict[str, Any], folder: Path, version: Path | None, *options: str) -> Any:
    """A job's process; `version`: the checkout whose code runs it, None: the present one."""
    file = folder / "job.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump({"storage": str(folder), "name": "job", **job}))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    if version is not None:
        env["PYTHONPATH"] = str(version)
    command = [sys.executable, "-m", "orchestrator", "run", str(file), "--json", *options]
    return subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: Any) -> dict[str, Any]:
    out, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, errors
    summary: dict[str, Any] = json.loads(out)
    return summary


def kill_when(process: Any, half_way: Callable[[], object]) -> None:
    """The job's process and all that it started end at once."""

    def reached() -> bool:
        assert process.poll() is None, process.communicate()
        return bool(half_way())

    wait_until(reached, LIMIT_S)
    family = [process, *psutil.Process(process.pid).children(recursive=True)]
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.communicate()


def hashes(folder: Path, pattern: str) -> dict[str, str]:
    """What stands in a folder's files, by their paths."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.glob(pattern))
    }


def tables(folder: Path) -> dict[str, pa.Table]:
    """The columns of a folder's parquet files, by path; metadata names the job and is left out."""
    return {
        str(file.relative_to(folder)): pq.read_table(file).replace_schema_metadata(None)
        for file in sorted(folder.rglob("*.parquet"))
    }


def clips(run: Path) -> list[tuple[Any, ...]]:
    """What entered each step: position, clip, its hash and its weight, without what was undone."""
    rows: dict[int, tuple[Any, ...]] = {}
    for file in sorted((run / "ledger").rglob("*.parquet")):
        for row in pq.read_table(file).to_pylist():
            kept = rows.setdefault(row["position"], (row["key"], row["sha256"], row["weight"]))
            assert kept == (row["key"], row["sha256"], row["weight"])
    return [(position, *rows[position]) for position in sorted(rows)]


def losses(summary: dict[str, Any]) -> dict[int, float]:
    rows = MlflowClient(summary["tracking_uri"]).get_metric_history(summary["run_id"], "train/loss")
    assert len({row.step for row in rows}) == len(rows)
    return {row.step: row.value for row in rows}


@pytest.mark.nightly
@pytest.mark.parametrize("name", sorted(TRAININGS))
def test_a_training_continues(name: str, earlier: Path, tmp_path: Path) -> None:
    job = {"kind": "train", **TRAININGS[name]}
    whole = finish(start(job, tmp_path / "whole", earlier, "--local"))
    killed, run = start(job, tmp_path / "killed", earlier, "--local"), tmp_path / "killed/runs/job"
    kill_when(killed, lambda: list(run.glob("checkpoints/step-*[48]/COMPLETE")))
    record = json.loads((run / "run.json").read_text())

    resumed = finish(start(job, tmp_path / "killed", None, "--local"))

    assert resumed["run_id"] == record["mlflow_run_id"]
    assert clips(run) == clips(tmp_path / "whole/runs/job")
    expected, found = losses(whole), losses(resumed)
    assert {step: found[step] for step in found} == {step: expected[step] for step in found}
    assert max(found) == max(expected)
    last = "checkpoints/step-00000040/*.safetensors"
    assert hashes(run, last) == hashes(tmp_path / "whole/runs/job", last) != {}


@pytest.mark.nightly
def test_a_finished_training_is_done(earlier: Path, tmp_path: Path) -> None:
    job = {"kind": "train", **VJEPA2}
    first = finish(start(job, tmp_path, earlier, "--local"))
    again = finish(start(job, tmp_path, None, "--local"))
    assert (again["run_id"], again["model_uri"]) == (first["run_id"], first["model_uri"])


@pytest.mark.nightly
def test_a_dataset_is_packed_on(earlier: Path, tmp_path: Path) -> None:
    job = {"kind": "pack", "source": "physics://mixed?clips=1500&size=48&fps=8&seconds=2"}
    finish(start(job, tmp_path / "whole", earlier, "--local"))
    datasets = tmp_path / "killed" / "datasets"
    kill_when(
        start(job, tmp_path / "killed", earlier, "--local"),
        lambda: list(datasets.glob("*/units/*/*.json")) or list(datasets.glob("*/*/*.json")),
    )
    committed = {path: path.stat().st_mtime_ns for path in datasets.rglob("*.tar")}
    finish(start(job, tmp_path / "killed", None, "--local"))
    assert sorted(hashes(datasets, "*/**/*.tar").values()) == sorted(
        hashes(tmp_path / "whole" / "datasets", "*/**/*.tar").values()
    )
    assert any(path.exists() and path.stat().st_mtime_ns == t for path, t in committed.items())
    again = finish(start(job, tmp_path / "whole", None, "--local"))
    assert again["dataset"]["clips"] == 1500


@pytest.mark.nightly
def test_features_continue(earlier: Path, tmp_path: Path) -> None:
    model = {"kind": "train", "name": "model", **VJEPA2}
    trained = finish(start(model, tmp_path, earlier, "--local"))
    job = {
        "kind": "embed",
        "storage": str(tmp_path),
        "model": trained["model_uri"],
        "data": {"source": "physics://mixed?clips=400&size=32&fps=8&seconds=2&seed=9", "clips": 1},
        "pooling": "tokens",
        "dtype": "float32",
        "scale": {"batch": 4},
    }
    finish(start({**job, "name": "whole"}, tmp_path, earlier, "--local"))
    killed, features = {**job, "name": "killed"}, tmp_path / "features/killed"
    process = start(killed, tmp_path, earlier, "--local")
    kill_when(process, lambda: list(features.rglob("*.parquet")))
    finish(start(killed, tmp_path, None, "--local"))
    expected, found = tables(tmp_path / "features/whole"), tables(features)
    assert found.keys() == expected.keys()
    assert all(found[name].equals(expected[name]) for name in expected)


SWEEP = {
    "kind": "tune",
    "train": {
        **VJEPA2,
        "optim": {"steps": 100, "lr": 1e-3},
        "scale": {"global_batch": 4, "micro_batch": 4, "precision": "fp32", "device": "cpu"},
        "checkpoint": {"every": 1000, "keep_last": 1},
        "track": {"every": 1, "pictures": 0},
    },
    "space": {"optim.lr": {"loguniform": [1e-4, 1e-2]}, "objective.ema": {"choice": [0.9, 0.0]}},
    "trials": 3,
    "budget": 20,
    "objective": {"fit": 10, "score": 4},
}


@pytest.mark.nightly
def test_a_sweep_continues(earlier: Path, tmp_path: Path) -> None:
    whole = finish(start(SWEEP, tmp_path / "whole", earlier))
    runs = tmp_path / "killed" / "runs"
    kill_when(
        start(SWEEP, tmp_path / "killed", earlier),
        lambda: list(runs.glob("*/checkpoints/step-*/COMPLETE")),
    )
    resumed = finish(start(SWEEP, tmp_path / "killed", None))
    for key in ("number", "point", "score", "steps"):
        one, other = (
            [row.get(key) for row in summary["verdict"]["trials"]] for summary in (whole, resumed)
        )
        assert one == other, key
    client = MlflowClient(resumed["tracking_uri"])
    experiments = [client.get_run(resumed["run_id"]).info.experiment_id]
    assert len(client.search_runs(experiments)) == 1 + 3


@pytest.mark.nightly
def test_a_pipeline_continues(earlier: Path, tmp_path: Path) -> None:
    first = {"kind": "train", "name": "first", **VJEPA2}
    second = {
        **first,
        "name": "second",
        "model": {**VJEPA2["model"], "from": "stages:/first/model"},
        "optim": {"steps": 60, "lr": 1e-3},
    }
    second = {**second, "checkpoint": {"every": 4, "keep_last": 2}}
    job = {
        "kind": "pipeline",
        "stages": [{"name": "first", "job": first}, {"name": "second", "job": second}],
    }
    whole = finish(start(job, tmp_path / "whole", earlier, "--local"))
    runs = tmp_path / "killed" / "runs"
    kill_when(
        start(job, tmp_path / "killed", earlier, "--local"),
        lambda: list(runs.glob("*second/checkpoints/step-*/COMPLETE")),
    )
    resumed = finish(start(job, tmp_path / "killed", None, "--local"))
    assert len(resumed["stages"]) == 2
    for one, other in zip(whole["stages"], resumed["stages"], strict=True):
        assert one["metrics"]["train/loss"] == other["metrics"]["train/loss"]
    (run,) = runs.glob("*second")
    (calm,) = (tmp_path / "whole" / "runs").glob("*second")
    last = "checkpoints/step-00000060/*.safetensors"
    assert hashes(run, last) == hashes(calm, last) != {}
