"""One pod of a Ray cluster on Kubernetes: resources, memory, limits, secrets, and its end."""

from __future__ import annotations

from typing import Any

from orchestrator.cluster_profile.schema import KubeRay, NodeGroup
from orchestrator.clusters.render.yaml_format import quantity

CONTAINER_UID = 1000
"""Who runs in the image (`image.py`); never root."""

GPU = "nvidia.com/gpu"
JOB_FOLDER = "/etc/orchestrator"
_SHM_SHARE = 0.5
_SHUTDOWN_RESERVE_S = 15
"""Seconds kept of the grace for what comes after the hook: Ray's own end."""

_LOCKED_DOWN: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}


def ray_pod(
    profile: KubeRay, image: str, group: NodeGroup, *, head: bool, job: str = ""
) -> dict[str, Any]:
    """The pod template of a node group. `job` names the ConfigMap that the head gets."""
    container: dict[str, Any] = {
        "name": "ray-head" if head else "ray-worker",
        "image": image,
        "resources": _resources(group),
        "env": pod_environment(profile),
        **_secrets(profile),
        "securityContext": _security(group),
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
        "lifecycle": {"preStop": _prestop_hook("head" if head else "worker", profile.grace_s)},
    }
    volumes: list[dict[str, Any]] = [
        {
            "name": "shm",
            "emptyDir": {"medium": "Memory", "sizeLimit": quantity(int(group.memory * _SHM_SHARE))},
        }
    ]
    if job:
        container["volumeMounts"].append({"name": "job", "mountPath": JOB_FOLDER, "readOnly": True})
        volumes.append({"name": "job", "configMap": {"name": job}})
    spec: dict[str, Any] = {
        # Long enough to save; the hook takes most of it.
        "terminationGracePeriodSeconds": profile.grace_s,
        **_account(profile, head),
        "securityContext": pod_security_context(CONTAINER_UID),
        **_placement(group),
        "containers": [container],
        "volumes": volumes,
    }
    return {"spec": spec}


def submitter_pod(image: str) -> dict[str, Any]:
    """The pod that hands a RayJob's command to the cluster and follows its log; KubeRay fills in
    the command."""
    container = {
        "name": "ray-job-submitter",
        "image": image,
        "resources": {
            "requests": {"cpu": "500m", "memory": "512Mi"},
            "limits": {"cpu": "1", "memory": "1Gi"},
        },
        "securityContext": _LOCKED_DOWN,
    }
    spec = {
        "automountServiceAccountToken": False,
        "restartPolicy": "Never",
        "securityContext": pod_security_context(CONTAINER_UID),
        "containers": [container],
    }
    return {"spec": spec}


def pod_security_context(user: int) -> dict[str, Any]:
    """A pod whose containers run as `user`, and whose volumes are that user's."""
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security_context() -> dict[str, Any]:
    """What a container may do that needs nothing special."""
    return _LOCKED_DOWN


def pod_environment(profile: KubeRay) -> list[dict[str, Any]]:
    """The variables of every pod. Secrets come by reference only."""
    given = dict(profile.env)
    if profile.mlflow:
        given.setdefault("MLFLOW_TRACKING_URI", profile.mlflow)
    return [{"name": name, "value": value} for name, value in sorted(given.items())]


def _resources(group: NodeGroup) -> dict[str, Any]:
    """Requests are limits: nothing of a rank is taken away while others wait for it."""
    amounts: dict[str, str] = {"cpu": str(group.cpus), "memory": quantity(group.memory)}
    if group.gpus:
        amounts[GPU] = str(group.gpus)
    amounts |= {name: str(count) for name, count in sorted(group.devices.items())}
    return {"requests": amounts, "limits": dict(amounts)}


def _security(group: NodeGroup) -> dict[str, Any]:
    """RDMA registers its buffers as locked memory; whoever has no such device needs none."""
    if not group.devices:
        return _LOCKED_DOWN
    return _LOCKED_DOWN | {"capabilities": {"drop": ["ALL"], "add": ["IPC_LOCK"]}}


def _secrets(profile: KubeRay) -> dict[str, Any]:
    if not profile.secrets:
        return {}
    return {"envFrom": [{"secretRef": {"name": name}} for name in profile.secrets]}


def _account(profile: KubeRay, head: bool) -> dict[str, Any]:
    """Only the head's autoscaler speaks to Kubernetes."""
    account = {"serviceAccountName": profile.service_account} if profile.service_account else {}
    return account if head else account | {"automountServiceAccountToken": False}


def _placement(group: NodeGroup) -> dict[str, Any]:
    tolerations = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}] if group.gpus else []
    for taint in group.taints:
        key, equals, value = taint.partition("=")
        operator = {"operator": "Equal", "value": value} if equals else {"operator": "Exists"}
        tolerations.append({"key": key, **operator})
    placement: dict[str, Any] = {}
    if group.selector:
        placement["nodeSelector"] = dict(sorted(group.selector.items()))
    if tolerations:
        placement["tolerations"] = tolerations
    return placement


def _prestop_hook(role: str, grace_s: int) -> dict[str, Any]:
    """Kubernetes waits for this before it stops the pod: the training saves meanwhile."""
    seconds = str(grace_s - _SHUTDOWN_RESERVE_S)
    command = ["python", "-m", "orchestrator.clusters.prestop_hook", role, "--seconds", seconds]
    return {"exec": {"command": command}}
