"""The doctor on two Ray nodes of this machine: well, and with planted faults."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from orchestrator.bench.local_ray_cluster import LocalRayCluster
from orchestrator.clusters.doctor import diagnose
from orchestrator.job import build_job
from orchestrator.progress import SilentProgress


def diagnosed(job: Any, storage: str) -> list[Any]:
    """The doctor's findings, from a process of its own: one that has started a Ray of this machine
    alone still listens on loopback only, where a cluster's head does not look for it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_diagnosed, job, storage).result()


def _diagnosed(job: Any, storage: str) -> list[Any]:
    return list(diagnose(job, storage, SilentProgress()))


@pytest.mark.integration
def test_two_nodes_are_looked_at_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = build_job(
        {
            "kind": "train",
            "name": "t",
            "storage": str(tmp_path / "storage"),
            "data": {"source": "physics://mixed?clips=8", "frames": 4, "size": 32},
            "model": {"encoder": "vit-tiny", "patch": 8},
            "optim": {"steps": 2},
            "scale": {"workers": 3, "global_batch": 6, "micro_batch": 2, "cpus": 0.9},
        }
    )
    nodes = LocalRayCluster(2)
    try:
        monkeypatch.setenv("RAY_ADDRESS", nodes.address)
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        found: dict[str, Any] = {}
        for one in diagnosed(job, str(tmp_path / "storage")):
            found.setdefault(one.check, []).append(one)
    finally:
        nodes.close()
    assert "3 answered: 2 CPUs" in found["nodes"][0].text
    assert [one.state for one in found["storage"]] == ["ok"]
    assert [one.state for one in found["versions"]] == ["ok"]
    assert [one.state for one in found["clocks"]] == ["ok"]
    assert "over 2 nodes by gloo" in found["all-reduce"][0].text
    # Planted: sqlite beside several nodes, and three workers where two find room.
    assert "cannot write one sqlite file" in found["MLflow"][0].text
    assert [one.state for one in found["workers"]] == ["fail"]
    assert not (tmp_path / "storage").exists(), "nothing is left behind"
