"""A job as it will run on a cluster: storage, paths, MLflow, room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster_profile import PROFILES, Profile
from orchestrator.clusters.adapt_job import adapt_job, job_environment
from orchestrator.clusters.capacity import require_capacity
from orchestrator.clusters.ray_auth import read_auth_token
from orchestrator.errors import RequestError
from orchestrator.job import (
    PipelineJob,
    TrainJob,
    TuneJob,
    build_job,
    explicit_job_dict,
    fingerprint,
)

NODES = {
    "head": {"cpus": 4, "memory": "8GiB"},
    "gpu": {"min": 1, "max": 2, "cpus": 16, "gpus": 4, "gpu": "h100", "memory": "64GiB"},
}


def profile_of(kind: str = "kuberay", **changes: Any) -> Profile:
    data = {"kind": kind, "name": "lab", "nodes": NODES, **changes}
    return PROFILES[kind].model_validate(data)


def train_job(*overrides: str) -> TrainJob:
    job = build_job(
        {
            "kind": "train",
            "name": "t",
            "data": {"source": "physics://mixed?clips=8", "frames": 4, "size": 32},
            "model": {"encoder": "vit-tiny", "patch": 8},
            "optim": {"steps": 2},
            "scale": {"workers": 2, "global_batch": 4, "micro_batch": 2},
        },
        list(overrides),
    )
    assert isinstance(job, TrainJob)
    return job


def test_the_clusters_storage_counts_where_the_job_names_none(tmp_path: Path) -> None:
    profile = profile_of(storage="s3://lab/jepa")
    assert adapt_job(train_job(), profile, tmp_path).storage == "s3://lab/jepa"
    assert adapt_job(train_job("storage=s3://mine"), profile, tmp_path).storage == "s3://mine"


def test_a_folder_of_this_machine_is_refused_where_nodes_have_others(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="folder of this machine") as error:
        adapt_job(train_job(), profile_of(), tmp_path)
    assert error.value.where == "storage"
    assert "s3://" in error.value.hint
    (tmp_path / "videos").mkdir()
    with pytest.raises(RequestError, match="folder of this machine") as error:
        adapt_job(train_job("data.source=videos"), profile_of(storage="s3://lab"), tmp_path)
    assert error.value.where == "data.source"


def test_on_this_machine_paths_become_absolute(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    found = adapt_job(train_job("data.source=videos"), profile_of("local"), tmp_path)
    assert isinstance(found, TrainJob)
    assert found.storage == str(tmp_path / ".orchestrator")
    assert found.data.source == str(tmp_path / "videos")


@pytest.mark.parametrize("kind", ["kuberay", "local"])
def test_where_nodes_start_on_demand_the_job_knows_how_many(kind: str, tmp_path: Path) -> None:
    profile = profile_of(kind, storage="s3://lab")
    train = adapt_job(train_job(), profile, tmp_path)
    sweep = adapt_job(a_sweep(), profile, tmp_path)
    assert isinstance(train, TrainJob)
    assert isinstance(sweep, TuneJob)
    for scale in (train.scale, sweep.train.scale):
        found = [(one.count, one.cpus, one.gpus) for one in scale.nodes]
        assert found == ([(2, 16, 4)] if kind == "kuberay" else [])
    assert fingerprint(train) == fingerprint(train_job())
    given = adapt_job(train_job("scale.nodes=[{count: 1, cpus: 2}]"), profile, tmp_path)
    assert isinstance(given, TrainJob)
    assert [one.cpus for one in given.scale.nodes] == [2]


def a_sweep() -> TuneJob:
    job = build_job(
        {
            "kind": "tune",
            "name": "s",
            "train": explicit_job_dict(train_job()),
            "space": {"optim.lr": {"loguniform": [1e-4, 1e-2]}},
            "trials": 2,
            "budget": 10,
        }
    )
    assert isinstance(job, TuneJob)
    return job


def test_the_environment_is_the_profiles_without_passwords() -> None:
    with pytest.raises(RequestError, match="password"):
        job_environment(profile_of(mlflow="https://me:word@mlflow.lab"))
    env = job_environment(profile_of(mlflow="https://mlflow.lab", env={"NCCL_DEBUG": "WARN"}))
    assert env == {"NCCL_DEBUG": "WARN", "MLFLOW_TRACKING_URI": "https://mlflow.lab"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["scale.workers=9", "scale.global_batch=18"], "9 workers"),
        (["scale.cpus=17"], "room for 0"),
        (
            ["scale.device=cpu", "scale.cpus=16", "scale.workers=3", "scale.global_batch=6"],
            "room for 1",
        ),
    ],
)
def test_a_job_larger_than_the_cluster_is_refused(changes: list[str], told: str) -> None:
    with pytest.raises(RequestError, match=told) as error:
        require_capacity(train_job(*changes), profile_of())
    assert "scale.cpus" in error.value.hint


def test_what_fits_at_its_smallest_is_let_through() -> None:
    elastic = train_job("scale.workers={min: 2, max: 64}", "scale.global_batch=64")
    require_capacity(elastic, profile_of())


def test_the_token_is_read_where_the_profile_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "LAB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_auth_token(profile_of()) is None
    (tmp_path / "token").write_text("from-file\n")
    assert read_auth_token(profile_of(token={"file": str(tmp_path / "token")})) == "from-file"
    with pytest.raises(RequestError, match="LAB_TOKEN"):
        read_auth_token(profile_of(token={"env": "LAB_TOKEN"}))
    monkeypatch.setenv("LAB_TOKEN", "from-lab")
    assert read_auth_token(profile_of(token={"env": "LAB_TOKEN"})) == "from-lab"
    monkeypatch.setenv("LAB_TOKEN", "two words")
    with pytest.raises(RequestError, match="no token"):
        read_auth_token(profile_of(token={"env": "LAB_TOKEN"}))


def test_a_pipeline_goes_there_whole(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    train = {
        "kind": "train",
        "data": {"source": "stages:/pack/data", "frames": 4, "size": 32},
        "model": {"encoder": "vit-tiny", "patch": 8},
        "optim": {"steps": 2},
        "scale": {"workers": 2},
    }
    data = {
        "kind": "pipeline",
        "name": "p",
        "stages": [
            {"name": "pack", "job": {"kind": "pack", "source": "s3://lab/videos"}},
            {"name": "train", "job": train},
        ],
    }
    placed = adapt_job(build_job(data), profile_of(storage="s3://lab/jepa"), tmp_path)
    assert isinstance(placed, PipelineJob)
    assert {stage.job.storage for stage in placed.stages} == {"s3://lab/jepa"}
    assert placed.stages[1].references[0].stage == "pack"
    with pytest.raises(RequestError, match="folder of this machine") as error:
        adapt_job(build_job(data, ["stages.pack.job.source=videos"]), profile_of(storage="s3://x"),
              tmp_path)  # fmt: skip
    assert error.value.where == "stages.0.job.source"
    with pytest.raises(RequestError, match="200 workers"):
        require_capacity(build_job(data, ["stages.train.job.scale.workers=200"]), profile_of())
