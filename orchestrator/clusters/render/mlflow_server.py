"""An MLflow server on Kubernetes: Postgres for what is recorded, an object store for artifacts."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from orchestrator.cluster_profile.schema import KubeRay
from orchestrator.clusters.render.pods import (
    CONTAINER_UID,
    container_security_context,
    pod_security_context,
)
from orchestrator.clusters.render.yaml_format import comment, documents, header_comment
from orchestrator.errors import RequestError

NAME, PORT = "mlflow", 5000
SECRET = "mlflow-server"
_DATABASE, _DATABASE_PORT, _DATABASE_USER = "mlflow-postgres", 5432, 999
_POSTGRES = "postgres:17"
_DISK = "20Gi"
_CONFIG = "/etc/mlflow"
_STORE = f"postgresql+psycopg2://mlflow@{_DATABASE}:{_DATABASE_PORT}/mlflow"


def mlflow_server(profile: KubeRay, image: str, command: str) -> str:
    """The manifests of the server, of its database, and of who may reach them.

    Raises:
        RequestError: there is no object store for artifacts, or nobody is told the address.
    """
    _check(profile)
    return (
        header_comment(command)
        + "#\n"
        + _usage_comment(profile)
        + documents(
            _auth(profile),
            _service(profile, NAME, PORT),
            _deployment(profile, image),
            _service(profile, _DATABASE, _DATABASE_PORT),
            _postgres(profile),
            _network_policy(profile, NAME, PORT, {}),
            _network_policy(profile, _DATABASE, _DATABASE_PORT, {"matchLabels": _labels(NAME)}),
        )
    )


def server_command(artifacts: str, hosts: list[str]) -> list[str]:
    """What runs in the server's container. It binds to the pod's address; only the Service, which
    has no address outside the cluster, leads there."""
    return [
        "mlflow",
        "server",
        "--host=0.0.0.0",
        f"--port={PORT}",
        "--workers=2",
        "--app-name=basic-auth",
        f"--artifacts-destination={artifacts}",
        f"--allowed-hosts={','.join(hosts)}",
    ]


def auth_config(database: str) -> str:
    """MLflow's basic_auth.ini. The administrator's password comes from the environment."""
    lines = ["[mlflow]", "default_permission = READ", f"database_uri = {database}"]
    return "\n".join([*lines, "admin_username = admin", ""])


def allowed_hosts(namespace: str, address: str | None) -> list[str]:
    """Host headers that are answered: the Service's names, and a tunnel's."""
    names = [NAME, *(f"{NAME}.{namespace}{end}" for end in ("", ".svc", ".svc.cluster.local"))]
    hosts = [f"{name}:{PORT}" for name in names] + ["localhost:*", "127.0.0.1:*"]
    given = urlsplit(address or "").netloc
    return hosts if given in ("", *hosts) else [*hosts, given]


def _check(profile: KubeRay) -> None:
    if urlsplit(profile.storage or "").scheme not in ("s3", "gs"):
        raise RequestError(
            "an MLflow server on Kubernetes keeps its artifacts in an object store",
            where=f"profile '{profile.name}': mlflow_server",
            hint="give the profile a storage: s3://BUCKET/PREFIX or gs://BUCKET/PREFIX",
        )
    if profile.mlflow is None:
        raise RequestError(
            "an MLflow server that no job is told of",
            where=f"profile '{profile.name}': mlflow_server",
            hint=f"add mlflow: http://{NAME}.{profile.namespace}.svc:{PORT}",
        )


def _usage_comment(profile: KubeRay) -> str:
    where = f"kubectl -n {profile.namespace}"
    files = "--from-file=admin-password --from-file=flask-secret-key --from-file=postgres-password"
    return comment(
        f"Needs the Secret {SECRET} in namespace {profile.namespace}; made so that no password"
        " stands on a command line:",
        "  for key in admin-password flask-secret-key postgres-password; do",
        "    (umask 077; openssl rand -hex 24 | tr -d '\\n' > $key); done",
        f"  {where} create secret generic {SECRET} {files}",
        "Those who write to it log in by variables, from a Secret that `secrets` of the profile"
        " names:",
        f"  {where} create secret generic mlflow-client \\",
        "    --from-literal=MLFLOW_TRACKING_USERNAME=admin"
        " --from-file=MLFLOW_TRACKING_PASSWORD=admin-password",
        "Start it, and look at it (user admin):",
        "  kubectl apply -f mlflow.yaml",
        f"  {where} port-forward service/{NAME} {PORT}:{PORT}",
    )


def _labels(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "orchestrator"}


def _metadata(profile: KubeRay, name: str, of: str = "") -> dict[str, Any]:
    return {"name": name, "namespace": profile.namespace, "labels": _labels(of or name)}


def _auth(profile: KubeRay) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(profile, f"{NAME}-auth", NAME),
        "data": {"basic_auth.ini": auth_config(_STORE)},
    }


def _service(profile: KubeRay, name: str, port: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(profile, name),
        "spec": {
            "type": "ClusterIP",
            "selector": _labels(name),
            "ports": [{"name": "main", "port": port, "targetPort": port}],
        },
    }


def _secret(variable: str, key: str) -> dict[str, Any]:
    reference = {"name": SECRET, "key": key}
    return {"name": variable, "valueFrom": {"secretKeyRef": reference}}


def _deployment(profile: KubeRay, image: str) -> dict[str, Any]:
    artifacts = f"{(profile.storage or '').rstrip('/')}/mlflow"
    healthy = {"httpGet": {"path": "/health", "port": PORT}}
    container = {
        "name": NAME,
        "image": image,
        "command": server_command(artifacts, allowed_hosts(profile.namespace, profile.mlflow)),
        "ports": [{"containerPort": PORT}],
        "env": [
            {"name": "MLFLOW_BACKEND_STORE_URI", "value": _STORE},
            {"name": "MLFLOW_AUTH_CONFIG_PATH", "value": f"{_CONFIG}/basic_auth.ini"},
            _secret("PGPASSWORD", "postgres-password"),
            _secret("MLFLOW_AUTH_ADMIN_PASSWORD", "admin-password"),
            _secret("MLFLOW_FLASK_SERVER_SECRET_KEY", "flask-secret-key"),
        ],
        # The server reads and writes the object store for its clients.
        "envFrom": [{"secretRef": {"name": name}} for name in profile.secrets],
        "resources": {
            "requests": {"cpu": "1", "memory": "2Gi"},
            "limits": {"cpu": "2", "memory": "4Gi"},
        },
        "startupProbe": {**healthy, "periodSeconds": 5, "failureThreshold": 60},
        "readinessProbe": {**healthy, "periodSeconds": 10},
        "livenessProbe": {**healthy, "periodSeconds": 30, "timeoutSeconds": 5},
        "securityContext": container_security_context(),
        "volumeMounts": [{"name": "auth", "mountPath": _CONFIG, "readOnly": True}],
    }
    account = {"serviceAccountName": profile.service_account} if profile.service_account else {}
    spec = {
        **account,
        "automountServiceAccountToken": False,
        "securityContext": pod_security_context(CONTAINER_UID),
        "containers": [container],
        "volumes": [{"name": "auth", "configMap": {"name": f"{NAME}-auth"}}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(profile, NAME),
        "spec": {
            "replicas": 1,
            # Two servers of different versions would migrate one database.
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": _labels(NAME)},
            "template": {"metadata": {"labels": _labels(NAME)}, "spec": spec},
        },
    }


def _postgres(profile: KubeRay) -> dict[str, Any]:
    folder = "/var/lib/postgresql/data"
    container = {
        "name": "postgres",
        "image": _POSTGRES,
        "ports": [{"containerPort": _DATABASE_PORT}],
        "env": [
            {"name": "POSTGRES_USER", "value": "mlflow"},
            {"name": "POSTGRES_DB", "value": "mlflow"},
            {"name": "PGDATA", "value": f"{folder}/pgdata"},
            _secret("POSTGRES_PASSWORD", "postgres-password"),
        ],
        "resources": {
            "requests": {"cpu": "500m", "memory": "1Gi"},
            "limits": {"cpu": "1", "memory": "1Gi"},
        },
        "readinessProbe": {
            "exec": {"command": ["pg_isready", "--username=mlflow"]},
            "periodSeconds": 10,
        },
        "securityContext": container_security_context(),
        "volumeMounts": [{"name": "data", "mountPath": folder}],
    }
    claim = {
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": _DISK}},
        },
    }
    spec = {
        "automountServiceAccountToken": False,
        "securityContext": pod_security_context(_DATABASE_USER),
        "containers": [container],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": _metadata(profile, _DATABASE),
        "spec": {
            "serviceName": _DATABASE,
            "replicas": 1,
            "selector": {"matchLabels": _labels(_DATABASE)},
            "template": {"metadata": {"labels": _labels(_DATABASE)}, "spec": spec},
            "volumeClaimTemplates": [claim],
        },
    }


def _network_policy(profile: KubeRay, name: str, port: int, pods: dict[str, Any]) -> dict[str, Any]:
    """Reached by those pods of the namespace alone."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(profile, name),
        "spec": {
            "podSelector": {"matchLabels": _labels(name)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {
                    "from": [{"podSelector": pods}],
                    "ports": [{"protocol": "TCP", "port": port}],
                }
            ],
        },
    }
