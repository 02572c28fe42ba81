"""RayCluster and RayJob: their CRDs take them, and what a training needs is in them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cluster_profile import KubeRay, NodeGroup, load_profile
from orchestrator.clusters.render.render import render
from orchestrator.errors import RequestError
from orchestrator.job import Job, build_job, explicit_job_dict, job_dict, load_job
from tests.support.kubernetes_manifests import (
    GPU,
    REPOSITORY,
    SCHEMAS,
    documents,
    pod_specs,
    policy_problems,
    schema_problems,
    type_problems,
)

needs_schemas = pytest.mark.skipif(
    not SCHEMAS.is_dir(), reason="KubeRay's CRDs are not at ../shared/schemas"
)
JOBS = sorted((REPOSITORY / "jobs").rglob("*.yaml"))


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def kuberay(**changes: Any) -> KubeRay:
    profile = load_profile("kuberay")
    assert isinstance(profile, KubeRay)
    return profile.model_copy(update=changes)


def small(**changes: Any) -> KubeRay:
    """A profile with nothing but what it must have."""
    nodes = {
        "head": {"cpus": 2, "memory": "8GiB"},
        "cpu": {"min": 2, "cpus": 4, "memory": "16GiB"},
    }
    given = {"kind": "kuberay", "name": "small", "nodes": nodes, "image": "image:1"}
    return KubeRay.model_validate(given | {"storage": "s3://bucket"} | changes)


def cluster(profile: KubeRay) -> dict[str, Any]:
    return documents(render(profile, None, "test")["cluster.yaml"])[0]


def job_and_config(profile: KubeRay, *overrides: str) -> tuple[dict[str, Any], dict[str, Any]]:
    job = load_job("jobs/physics/quick.yaml", overrides)
    config, body = documents(render(profile, job, "test")["job.yaml"])
    return body, config


def variants() -> list[KubeRay]:
    one = {"head": {"cpus": 8, "gpus": 1, "memory": "64GiB"}}
    return [
        small(),
        small(nodes=one, queue="q", redis="redis:6379", token={"env": "RAY_AUTH_TOKEN"}),
        small(service_account="sa", secrets=["a", "b"], priority="high", queue="q"),
    ]


@needs_schemas
@pytest.mark.parametrize("which", range(4))
def test_the_crds_take_what_is_rendered(which: int) -> None:
    profile = [kuberay(), *variants()][which]
    job, _ = job_and_config(profile, "scale.workers=1")
    for body in (cluster(profile), job):
        assert schema_problems(body) == []


@pytest.mark.parametrize("which", range(4))
def test_pods_are_limited_locked_down_and_hold_no_secret(which: int) -> None:
    profile = [kuberay(), *variants()][which]
    job, config = job_and_config(profile, "scale.workers=1")
    for body in (cluster(profile), job, config):
        assert policy_problems(body) == []


def workers(body: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = body["spec"]["workerGroupSpecs"][0]
    return spec


def container(body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = workers(body)["template"]["spec"]["containers"][0]
    return found


def _wrong_field(body: dict[str, Any]) -> None:
    workers(body)["minReplica"] = 1


def _wrong_field_of_a_pod(body: dict[str, Any]) -> None:
    container(body)["enviroment"] = []


def _wrong_type(body: dict[str, Any]) -> None:
    workers(body)["maxReplicas"] = "four"


def _missing(body: dict[str, Any]) -> None:
    del workers(body)["maxReplicas"]


def _no_gpu_limit(body: dict[str, Any]) -> None:
    del container(body)["resources"]["limits"][GPU]


def _secret_value(body: dict[str, Any]) -> None:
    container(body)["env"].append({"name": "AWS_SECRET_ACCESS_KEY", "value": "abc"})


def _no_shared_memory(body: dict[str, Any]) -> None:
    workers(body)["template"]["spec"]["volumes"][0]["emptyDir"] = {}


def _hook_too_long(body: dict[str, Any]) -> None:
    workers(body)["template"]["spec"]["terminationGracePeriodSeconds"] = 30


def _open_to_the_world(body: dict[str, Any]) -> None:
    body["spec"]["headGroupSpec"]["serviceType"] = "LoadBalancer"


@needs_schemas
@pytest.mark.parametrize(
    "fault", [_wrong_field, _wrong_field_of_a_pod, _wrong_type, _missing], ids=lambda f: f.__name__
)
def test_planted_faults_break_the_schema(fault: Callable[[dict[str, Any]], None]) -> None:
    body = copy.deepcopy(cluster(kuberay()))
    fault(body)
    assert len(schema_problems(body)) == 1


@pytest.mark.parametrize(
    "fault",
    [_no_gpu_limit, _secret_value, _no_shared_memory, _hook_too_long, _open_to_the_world],
    ids=lambda f: f.__name__,
)
def test_planted_faults_break_the_rules(fault: Callable[[dict[str, Any]], None]) -> None:
    body = copy.deepcopy(cluster(kuberay()))
    fault(body)
    assert len(policy_problems(body)) == 1


def test_groups_scale_between_min_and_max_and_only_where_they_differ() -> None:
    body = cluster(kuberay())
    assert body["spec"]["enableInTreeAutoscaling"] is True
    group = workers(body)
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (2, 2, 4)
    assert cluster(small())["spec"]["enableInTreeAutoscaling"] is False


def test_a_gpu_group_asks_for_gpus_bears_their_taint_and_locks_memory_for_rdma() -> None:
    body = cluster(kuberay())
    limits = container(body)["resources"]["limits"]
    assert (limits[GPU], limits["rdma/hca"], limits["cpu"]) == ("8", "8", "88")
    spec = workers(body)["template"]["spec"]
    assert spec["tolerations"][0]["key"] == GPU
    assert container(body)["securityContext"]["capabilities"]["add"] == ["IPC_LOCK"]
    assert "add" not in container(cluster(small()))["securityContext"]["capabilities"]


def test_taints_of_a_group_are_borne() -> None:
    group = NodeGroup(cpus=4, memory="8GiB", taints=("spot=true", "team"))  # type: ignore[arg-type]
    nodes = {"head": kuberay().nodes["head"], "spot": group}
    assert workers(cluster(small().model_copy(update={"nodes": nodes})))["template"]["spec"][
        "tolerations"
    ] == [
        {"key": "spot", "operator": "Equal", "value": "true"},
        {"key": "team", "operator": "Exists"},
    ]


def test_the_head_works_only_where_it_is_alone() -> None:
    assert cluster(small())["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    alone = small(nodes={"head": {"cpus": 8, "memory": "64GiB"}})
    assert cluster(alone)["spec"]["headGroupSpec"]["rayStartParams"] == {}
    assert cluster(alone)["spec"]["workerGroupSpecs"] == []


def test_the_token_and_redis_password_come_from_secrets() -> None:
    spec = cluster(kuberay())["spec"]
    assert spec["authOptions"] == {"mode": "token", "secretName": "ray-token"}
    reference = spec["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]["secretKeyRef"]
    assert reference == {"name": "redis", "key": "password"}
    assert cluster(small())["spec"]["authOptions"] == {"mode": "token"}


def test_a_queue_holds_all_until_all_is_admitted() -> None:
    body, _ = job_and_config(kuberay())
    for found in (body, cluster(kuberay())):
        assert found["spec"]["suspend"] is True
        assert found["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "training"
        assert found["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "research"
        assert found["metadata"]["annotations"] == {"kueue.x-k8s.io/elastic-job": "true"}
    assert "suspend" not in cluster(small())["spec"]


def test_a_job_runs_its_own_file_on_storage_that_all_reach() -> None:
    body, config = job_and_config(small(), "scale.workers=2")
    assert body["spec"]["shutdownAfterJobFinishes"] is True
    assert body["spec"]["entrypoint"].split()[-1] == "/etc/orchestrator/job.yaml"
    spec = body["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    mounted = {volume["name"]: volume for volume in spec["volumes"]}["job"]["configMap"]["name"]
    assert mounted == config["metadata"]["name"]
    there = build_job(yaml.safe_load(config["data"]["job.yaml"]))
    here = load_job("jobs/physics/quick.yaml", ["storage=s3://bucket"])
    assert there == here


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_every_job_file_of_the_project_arrives_as_it_was(path: Path) -> None:
    job = load_job(path)
    try:
        text = render(kuberay(), job, "test")["job.yaml"]
    except RequestError as error:
        known = ("folder of this machine", "has room for")
        assert any(reason in error.what for reason in known)  # noqa: PT017
        return
    there = build_job(yaml.safe_load(documents(text)[0]["data"]["job.yaml"]))
    # Stages have their pipeline's storage.
    expected = build_job({**explicit_job_dict(job), "storage": kuberay().storage})
    assert as_written(there) == as_written(expected)


def as_written(job: Job) -> dict[str, Any]:
    """All of a job but the cluster's nodes, which rendering adds."""
    found = job_dict(job)
    stages = [stage["job"] for stage in found.get("stages", [])]
    for training in (found, found.get("train", {}), *stages):
        training.get("scale", {}).pop("nodes", None)
    return found


def test_storage_that_the_job_names_itself_stays() -> None:
    _, config = job_and_config(small(), "storage=gs://mine")
    assert yaml.safe_load(config["data"]["job.yaml"])["storage"] == "gs://mine"


def test_the_config_map_is_one_that_kubernetes_knows() -> None:
    pytest.importorskip("kubernetes")
    _, config = job_and_config(small())
    assert type_problems(config) == []


def test_every_pod_of_a_job_runs_the_same_image() -> None:
    body, _ = job_and_config(small())
    images = {c["image"] for _, pod in pod_specs(body) for c in pod["containers"]}
    assert images == {"image:1"}
