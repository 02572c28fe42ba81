"""RayCluster and RayJob of the KubeRay operator."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from orchestrator.cluster_profile.schema import KubeRay, NodeGroup
from orchestrator.clusters.adapt_job import adapt_job
from orchestrator.clusters.capacity import require_capacity
from orchestrator.clusters.render.pods import (
    JOB_FOLDER,
    container_security_context,
    ray_pod,
    submitter_pod,
)
from orchestrator.clusters.render.yaml_format import (
    comment,
    documents,
    header_comment,
    kubernetes_name,
    to_yaml,
)
from orchestrator.errors import RequestError
from orchestrator.job import Job, explicit_job_dict

_MAX_CLUSTER_NAME, _MAX_JOB_NAME = 53, 47
"""What KubeRay takes as names."""

_IDLE_S = 600
"""An elastic group that starts again leaves its nodes idle for a while."""

_TRIES_AGAIN = 3
"""Each with a new cluster, which continues from the newest checkpoint."""

_STOP_WAIT_S = 600
"""Seconds that Ray gives a stopped job to save; its own default is 3."""


def ray_cluster(profile: KubeRay, command: str) -> str:
    """A RayCluster that stays, for `submit`."""
    name = kubernetes_name(profile.name, _MAX_CLUSTER_NAME, "the cluster")
    body = {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": _metadata(profile, name),
        "spec": {**_suspended(profile), **_cluster_spec(profile)},
    }
    return (
        header_comment(command) + "#\n" + _usage_comment(profile, "cluster.yaml") + documents(body)
    )


def ray_job(profile: KubeRay, job: Job, command: str) -> str:
    """A RayJob with a cluster of its own that goes when the job has ended, and its job file.

    Raises:
        RequestError: the cluster can never hold the job, or they share no storage.
    """
    require_capacity(job, profile)
    name = kubernetes_name(job.name, _MAX_JOB_NAME, "the job")
    labels = {"app.kubernetes.io/managed-by": "orchestrator"}
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": profile.namespace, "labels": labels},
        "data": {"job.yaml": to_yaml(explicit_job_dict(adapt_job(job, profile, Path.cwd())))},
    }
    body = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": _metadata(profile, name),
        "spec": {
            **_suspended(profile),
            "shutdownAfterJobFinishes": True,
            "submissionMode": "K8sJobMode",
            "backoffLimit": _TRIES_AGAIN,
            "entrypoint": f"python -m orchestrator run {JOB_FOLDER}/job.yaml",
            "runtimeEnvYAML": to_yaml(
                {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_WAIT_S)}}
            ),
            "submitterPodTemplate": submitter_pod(_image(profile)),
            "rayClusterSpec": _cluster_spec(profile, job=name),
        },
    }
    return (
        header_comment(command)
        + "#\n"
        + _usage_comment(profile, "job.yaml")
        + documents(config, body)
    )


def _usage_comment(profile: KubeRay, file: str) -> str:
    """What has to be there before, and how it is brought up."""
    needed = [f"image {profile.image}"]
    if profile.token.secret:
        needed.append(f"Secret {profile.token.secret} (key auth_token: Ray's token)")
    needed += [f"Secret {name} (its keys become variables)" for name in profile.secrets]
    if profile.redis_secret:
        needed.append(f"Secret {profile.redis_secret} (key password: Redis)")
    if profile.service_account:
        needed.append(f"ServiceAccount {profile.service_account}")
    if profile.queue:
        needed.append(f"Kueue with the LocalQueue {profile.queue}")
        if profile.autoscales:
            needed.append("Kueue's feature gate ElasticJobsViaWorkloadSlices")
    return comment(
        f"Needs in namespace {profile.namespace}, and the KubeRay operator 1.6 or newer:",
        *(f"  - {line}" for line in needed),
        "Start it, and look at it:",
        f"  kubectl apply -f {file}",
        f"  kubectl -n {profile.namespace} get rayclusters,rayjobs,pods",
    )


def _metadata(profile: KubeRay, name: str) -> dict[str, Any]:
    labels = {"app.kubernetes.io/managed-by": "orchestrator"}
    if profile.queue:
        labels["kueue.x-k8s.io/queue-name"] = profile.queue
    if profile.priority:
        labels["kueue.x-k8s.io/priority-class"] = profile.priority
    found: dict[str, Any] = {"name": name, "namespace": profile.namespace, "labels": labels}
    if profile.queue and profile.autoscales:
        # Without it Kueue refuses whatever scales itself.
        found["annotations"] = {"kueue.x-k8s.io/elastic-job": "true"}
    return found


def _suspended(profile: KubeRay) -> dict[str, Any]:
    """In a queue nothing starts before all of it is admitted; Kueue then clears this."""
    return {"suspend": True} if profile.queue else {}


def _cluster_spec(profile: KubeRay, job: str = "") -> dict[str, Any]:
    image = _image(profile)
    auth = {"mode": "token"}
    if profile.token.secret:
        auth["secretName"] = profile.token.secret
    return {
        "rayVersion": version("ray"),
        "authOptions": auth,
        **_fault_tolerance(profile),
        **_autoscaling(profile),
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            "rayStartParams": _head_params(profile),
            "template": ray_pod(profile, image, profile.nodes["head"], head=True, job=job),
        },
        "workerGroupSpecs": [
            _worker_group(profile, image, name, group)
            for name, group in profile.nodes.items()
            if name != "head"
        ],
    }


def _worker_group(profile: KubeRay, image: str, name: str, group: NodeGroup) -> dict[str, Any]:
    return {
        "groupName": kubernetes_name(name, 30, "the node group"),
        "replicas": group.min,
        "minReplicas": group.min,
        "maxReplicas": group.max_nodes,
        "rayStartParams": {},
        "template": ray_pod(profile, image, group, head=False),
    }


def _head_params(profile: KubeRay) -> dict[str, str]:
    """With workers beside it the head runs the drivers and nothing else, so that it stays alive."""
    if "head" in profile.worker_groups:
        return {}
    return {"num-cpus": "0", "num-gpus": "0"}


def _fault_tolerance(profile: KubeRay) -> dict[str, Any]:
    if profile.redis is None:
        return {}
    options: dict[str, Any] = {"redisAddress": profile.redis}
    if profile.redis_secret:
        reference = {"name": profile.redis_secret, "key": "password"}
        options["redisPassword"] = {"valueFrom": {"secretKeyRef": reference}}
    return {"gcsFaultToleranceOptions": options}


def _autoscaling(profile: KubeRay) -> dict[str, Any]:
    if not profile.autoscales:
        return {"enableInTreeAutoscaling": False}
    return {
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "upscalingMode": "Default",
            "idleTimeoutSeconds": _IDLE_S,
            "securityContext": container_security_context(),
            "resources": {
                "requests": {"cpu": "500m", "memory": "1Gi"},
                "limits": {"cpu": "500m", "memory": "1Gi"},
            },
        },
    }


def _image(profile: KubeRay) -> str:
    if not profile.image:
        raise RequestError(
            "pods need an image",
            where=f"profile '{profile.name}': image",
            hint="build cluster/Dockerfile, push it to where the cluster pulls from, name it here",
        )
    return profile.image
