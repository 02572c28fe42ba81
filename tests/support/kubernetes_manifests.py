"""What is wrong with a Kubernetes manifest, told by its schemas and by rules of our own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

REPOSITORY = Path(__file__).parents[2]
SCHEMAS = REPOSITORY.parent / "shared" / "schemas"
GPU = "nvidia.com/gpu"


def documents(text: str) -> list[dict[str, Any]]:
    return list(yaml.load_all(text, Loader=yaml.CSafeLoader))


@cache
def ray_schema(kind: str) -> dict[str, Any]:
    """The CRD's schema of a kind. Unknown fields fail: the API server would drop them unheard."""
    crd = yaml.load((SCHEMAS / f"ray.io_{kind.lower()}s.yaml").read_text(), _Loader)
    version = next(v for v in crd["spec"]["versions"] if v["name"] == "v1")
    return _without_extra_fields(version["schema"]["openAPIV3Schema"])


@cache
def pod_schema() -> dict[str, Any]:
    """The schema of a pod template, which the CRD carries whole."""
    spec = ray_schema("RayCluster")["properties"]["spec"]["properties"]
    return dict(spec["headGroupSpec"]["properties"]["template"])


def schema_problems(body: dict[str, Any]) -> list[str]:
    """Where a RayCluster or RayJob breaks its CRD, or another object its pod template's schema."""
    if body["kind"] in ("RayCluster", "RayJob"):
        return _problems(body, ray_schema(body["kind"]))
    template = body.get("spec", {}).get("template")
    return _problems(template, pod_schema()) if template else []


def type_problems(body: dict[str, Any]) -> list[str]:
    """Where an object of Kubernetes' own kinds has a field that its Python client does not know,
    or lacks one that it wants."""
    from kubernetes import client

    group, _, number = body["apiVersion"].rpartition("/")
    del group
    return list(
        _type_problems(body, f"{number.capitalize()}{body['kind']}", client.models, body["kind"])
    )


def policy_problems(body: dict[str, Any]) -> list[str]:
    """What a schema cannot tell: limits, users, secrets, addresses open to the world."""
    return [
        *(f"{where}: {text}" for where, pod in pod_specs(body) for text in _pod_problems(pod)),
        *(f"{path}: a secret's value" for path in _plain_secrets(body)),
        *(["a service open to the world"] if _is_open(body) else []),
    ]


def pod_specs(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod's spec inside an object."""
    if isinstance(node, dict):
        if "containers" in node:
            yield path, node
        for key, value in node.items():
            yield from pod_specs(value, f"{path}.{key}")
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from pod_specs(value, f"{path}.{i}")


def _pod_problems(pod: dict[str, Any]) -> Iterator[str]:
    if not pod.get("securityContext", {}).get("runAsNonRoot"):
        yield "runs as root"
    for container in pod["containers"]:
        name, resources = container["name"], container.get("resources", {})
        limits, requests = resources.get("limits", {}), resources.get("requests", {})
        for resource in ("cpu", "memory"):
            if resource not in limits:
                yield f"{name} has no limit of {resource}"
        if (GPU in requests or "gpu" in str(pod.get("nodeSelector", ""))) and GPU not in limits:
            yield f"{name} has GPUs without a limit"
        security = container.get("securityContext", {})
        if security.get("allowPrivilegeEscalation") is not False:
            yield f"{name} may gain privileges"
        if security.get("privileged"):
            yield f"{name} is privileged"
        if name.startswith(("ray-head", "ray-worker")):
            yield from _ray_problems(pod, container)


def _ray_problems(pod: dict[str, Any], container: dict[str, Any]) -> Iterator[str]:
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    shm = volumes.get(mounts.get("/dev/shm", ""), {}).get("emptyDir", {})
    if shm.get("medium") != "Memory" or "sizeLimit" not in shm:
        yield "/dev/shm is no memory of its own"
    hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
    if "orchestrator.clusters.prestop_hook" not in hook:
        yield "nothing is saved when the pod is stopped"
    elif float(hook[-1]) >= pod["terminationGracePeriodSeconds"]:
        yield "the hook takes longer than the pod is given"


def _plain_secrets(node: Any, path: str = "") -> Iterator[str]:
    """Variables that are named like secrets and hold a value, and objects that are Secrets."""
    if isinstance(node, dict):
        name = str(node.get("name", "")).upper()
        secret = any(word in name for word in ("TOKEN", "PASSWORD", "SECRET", "ACCESS_KEY"))
        if (secret and node.get("value")) or node.get("kind") == "Secret":
            yield path
        for key, value in node.items():
            yield from _plain_secrets(value, f"{path}.{key}")
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _plain_secrets(value, f"{path}.{i}")


def _is_open(body: dict[str, Any]) -> bool:
    spec = body.get("spec", {})
    types = [spec.get("type") if body["kind"] == "Service" else None]
    for head in (spec, spec.get("rayClusterSpec", {})):
        types.append(head.get("headGroupSpec", {}).get("serviceType"))
    return body["kind"] == "Ingress" or bool({"NodePort", "LoadBalancer"} & set(types))


def _problems(body: Any, schema: dict[str, Any]) -> list[str]:
    found = jsonschema.Draft202012Validator(schema).iter_errors(body)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


def _without_extra_fields(schema: Any) -> Any:
    """The same schema without room for fields it does not name."""
    if isinstance(schema, list):
        return [_without_extra_fields(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _without_extra_fields(value) for key, value in schema.items()}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        closed.setdefault("additionalProperties", bool(is_open))
    if schema.get("x-kubernetes-int-or-string"):
        return {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": schema["pattern"]}]} \
            if "pattern" in schema else {"type": ["integer", "string"]}  # fmt: skip
    return closed


def _type_problems(node: Any, kind: str, models: Any, path: str) -> Iterator[str]:
    """Walk an object along the client's models."""
    if kind.startswith("list["):
        for i, item in enumerate(node):
            yield from _type_problems(item, kind[5:-1], models, f"{path}.{i}")
    elif kind.startswith("dict("):
        for key, item in node.items():
            yield from _type_problems(item, kind[5:-1].partition(", ")[2], models, f"{path}.{key}")
    elif hasattr(models, kind):
        model = getattr(models, kind)
        known = {written: name for name, written in model.attribute_map.items()}
        for key, value in node.items():
            if key not in known:
                yield f"{path}.{key}: unknown field"
            else:
                yield from _type_problems(
                    value, model.openapi_types[known[key]], models, f"{path}.{key}"
                )
    elif kind in ("str", "int", "bool"):
        wanted = {"str": str, "int": int, "bool": bool}[kind]
        if type(node) is not wanted:
            yield f"{path}: {node!r} is no {kind}"


_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
