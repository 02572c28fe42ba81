"""Every check of the doctor, seen to fail on purpose, with the line that mends it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.clusters.doctor.checks import CHECKS
from orchestrator.clusters.doctor.facts import (
    AllReduceRates,
    CheckResult,
    ClusterFacts,
    GpuFacts,
    NodeFacts,
)
from orchestrator.job import TrainJob, build_job

GIB = 2**30
VERSIONS = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0", "driver": "580", "nccl": "2.28"}


def train_job(*overrides: str) -> TrainJob:
    job = build_job(
        {
            "kind": "train",
            "name": "t",
            "data": {"source": "physics://mixed?clips=8", "frames": 4, "size": 32},
            "model": {"encoder": "vit-large", "patch": 8},
            "optim": {"steps": 2},
            "scale": {"workers": 4, "global_batch": 8, "micro_batch": 2},
        },
        list(overrides),
    )
    assert isinstance(job, TrainJob)
    return job


def gpu(index: int, **changes: Any) -> GpuFacts:
    return replace(GpuFacts(index, "NVIDIA H100 80GB HBM3", 80 * GIB, 0, 0, 7e14), **changes)


def node(name: str, **changes: Any) -> NodeFacts:
    well = NodeFacts(
        name,
        cpus=16.0,
        gpus=2,
        versions=dict(VERSIONS),
        gpu_list=(gpu(0), gpu(1)),
        cores=64,
        shm=64 * GIB,
        object_store=20 * GIB,
        open_file_limit=65536,
        requires_token=True,
        free=500 * GIB,
        digests={"/data/a": "1234"},
    )
    return replace(well, **changes)


def cluster(second: dict[str, Any] | None = None, **changes: Any) -> ClusterFacts:
    well = ClusterFacts(
        nodes=(
            node("10.0.0.1", created_first=True),
            node("10.0.0.2", **(second or {})),
            node("10.0.0.3"),
        ),
        storage="/shared",
        mlflow="http://mlflow:5000",
        job=train_job(),
        datasets=("/data/a",),
        network=AllReduceRates(
            "nccl", 9e9, dict.fromkeys(("10.0.0.1", "10.0.0.2", "10.0.0.3"), 1e10)
        ),
    )
    return replace(well, **changes)


def found(facts: ClusterFacts, check: str) -> list[CheckResult]:
    (one,) = [each for each in CHECKS if each.name == check]
    return one.run(facts)


def test_a_healthy_cluster_passes_every_check() -> None:
    findings = [finding for check in CHECKS for finding in check.run(cluster())]
    assert [one for one in findings if one.state != "ok"] == []
    assert {one.check for one in findings} == {check.name for check in CHECKS}
    assert len(CHECKS) == 15


SLOW = (gpu(0, bf16_flops_per_s=3e14), gpu(1))
FAULTS: list[tuple[str, str, ClusterFacts, str, str]] = [
    ("nodes", "fail", cluster(unresponsive={"10.0.0.9": "gone"}), "10.0.0.9 does not answer",
     "raylet"),
    ("versions", "fail", cluster({"versions": {**VERSIONS, "ray": "2.59.0"}}),
     "ray 2.60.0 on most nodes, but 2.59.0 on 10.0.0.2", "install ray 2.60.0 there"),
    ("versions", "fail", cluster({"versions": {**VERSIONS, "nccl": "2.20"}}), "nccl", "bring"),
    ("GPUs", "fail", cluster({"gpu_list": (gpu(0),)}), "the driver shows 1", "nvidia-smi"),
    ("GPUs", "fail", cluster({"gpu_list": (gpu(0, error="ECC"), gpu(1))}), "GPU 0: ECC", "reset"),
    ("GPUs", "fail", cluster({"gpu_list": (gpu(0, uncorrected_ecc_errors=3), gpu(1))}),
     "3 memory errors", "replace"),
    ("GPUs", "warn", cluster({"gpu_list": (gpu(0, used=40 * GIB), gpu(1))}), "hold 40 GiB", "end"),
    ("matrix rate", "warn", cluster({"gpu_list": SLOW}), "10.0.0.2 GPU 0 300 TFLOP/s", "cooling"),
    ("all-reduce", "fail", cluster(network=AllReduceRates("gloo", error="no route")), "do not meet",
     "GLOO_SOCKET_IFNAME"),
    ("all-reduce", "warn",
     cluster(network=AllReduceRates("nccl", 1e9, {"a": 1e10, "b": 1e9, "c": 1e10})), "b 1 GB/s",
     "cable"),
    ("storage", "fail", cluster({"write_error": "read-only"}), "10.0.0.2 cannot write", "mount"),
    ("storage", "fail", cluster({"missing_writers": ("10.0.0.1",)}), "does not see",
     "all nodes share"),
    ("storage", "fail", cluster({"created_first": True}), "each as the first", "hard links"),
    ("free space", "fail", cluster({"free": 1000}), "1000 B free", "checkpoint.keep_last"),
    ("MLflow", "fail", cluster(mlflow="sqlite:////a.db"), "3 nodes cannot write one sqlite",
     "track.uri=http"),
    ("MLflow", "fail", cluster({"mlflow_error": "it refuses: 401"}), "does not serve 10.0.0.2",
     "MLFLOW_TRACKING_USERNAME"),
    ("MLflow", "fail", cluster({"mlflow_error": "no answer"}), "no answer", "reach its port"),
    ("data", "fail", cluster({"data_errors": {"/data/a": "no such file"}}), "cannot be read on",
     "every node reaches"),
    ("data", "fail", cluster({"digests": {"/data/a": "9999"}}), "not the same everywhere",
     "copy one version"),
    ("data", "fail", cluster(data_error="nothing is there"), "nothing is there", "data.source"),
    ("workers", "fail", cluster(job=train_job("scale.workers=7", "scale.global_batch=14")),
     "7 workers need 7 GPUs, the cluster has 6", "scale.workers=6"),
    ("workers", "fail", cluster(job=train_job("scale.cpus=10")), "hold 3 of them", "scale.cpus"),
    ("decoding", "warn", cluster({"cores": 1}, job=train_job("data.encode.short_side=1080",
     "data.size=1024", "model.patch=128")), "cores decode", "data.encode.short_side"),
    ("/dev/shm", "fail", cluster({"shm": 64 * 2**20}), "64 MiB on 10.0.0.2", "--shm-size"),
    ("open files", "fail", cluster({"open_file_limit": 1024}), "at most 1,024 on 10.0.0.2",
     "ulimit -n"),
    ("clocks", "fail", cluster({"clock_s": -7.5}), "10.0.0.2 by -7.5 s", "chrony"),
    ("token", "warn", cluster({"requires_token": False}), "Ray asks for none",
     "RAY_AUTH_MODE=token"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("check", "state", "facts", "told", "mend"),
    FAULTS,
    ids=[f"{f[0]}-{i}" for i, f in enumerate(FAULTS)],
)
def test_a_fault_is_named_with_its_mending(
    check: str, state: str, facts: ClusterFacts, told: str, mend: str
) -> None:
    hits = [one for one in found(facts, check) if one.state != "ok"]
    assert [one.state for one in hits] == [state]
    assert told in hits[0].text
    assert mend in hits[0].hint


def test_every_check_has_been_seen_to_fail() -> None:
    assert {fault[0] for fault in FAULTS} == {check.name for check in CHECKS}


def test_a_job_that_wants_gpus_where_there_are_none() -> None:
    bare = replace(cluster(), nodes=(node("10.0.0.1", gpus=0, gpu_list=()),))
    job = train_job("scale.device=gpu")
    (one,) = found(replace(bare, job=job), "GPUs")
    assert (one.state, one.text) == ("fail", "none, and the job asks for them")


def test_gpus_that_start_on_demand_are_waited_for() -> None:
    head = replace(cluster(), nodes=(node("10.0.0.1", cpus=0.0, gpus=0, gpu_list=()),))
    job = train_job("scale.device=gpu", "scale.nodes=[{count: 2, cpus: 16, gpus: 2}]")
    (gpus,) = found(replace(head, job=job), "GPUs")
    (room,) = found(replace(head, job=job), "workers")
    assert (gpus.state, room.state) == ("ok", "ok")
    assert "start when a job asks" in gpus.text
    assert room.text.startswith("4 with 7.75 CPUs and a GPU each")
    assert "when more nodes have started (2 at most)" in room.text
