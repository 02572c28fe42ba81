"""The MLflow server's manifests, and its command for real."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster_profile import load_profile
from orchestrator.clusters.render.mlflow_server import allowed_hosts, auth_config, server_command
from orchestrator.clusters.render.render import render
from tests.support.kubernetes_manifests import (
    REPOSITORY,
    SCHEMAS,
    documents,
    pod_specs,
    policy_problems,
    schema_problems,
    type_problems,
)
from tests.support.ports import free_port
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def text() -> str:
    return render(load_profile(REPOSITORY / "cluster" / "kuberay.yaml"), None, "test")[
        "mlflow.yaml"
    ]


@pytest.fixture(scope="module")
def bodies(text: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {(body["kind"], body["metadata"]["name"]): body for body in documents(text)}


def test_kubernetes_knows_every_field(bodies: dict[tuple[str, str], dict[str, Any]]) -> None:
    pytest.importorskip("kubernetes")
    assert [problem for body in bodies.values() for problem in type_problems(body)] == []
    broken = json.loads(json.dumps(bodies["StatefulSet", "mlflow-postgres"]))
    broken["spec"]["replica"] = broken["spec"].pop("replicas")
    assert type_problems(broken) == ["StatefulSet.spec.replica: unknown field"]


@pytest.mark.skipif(not SCHEMAS.is_dir(), reason="KubeRay's CRDs are not at ../shared/schemas")
def test_its_pods_fit_the_schema_of_pods(bodies: dict[tuple[str, str], dict[str, Any]]) -> None:
    assert [problem for body in bodies.values() for problem in schema_problems(body)] == []


def test_passwords_are_references_and_nothing_is_open(
    text: str, bodies: dict[tuple[str, str], dict[str, Any]]
) -> None:
    assert [problem for body in bodies.values() for problem in policy_problems(body)] == []
    variables = {
        variable["name"]: variable
        for body in bodies.values()
        for _, pod in pod_specs(body)
        for container in pod["containers"]
        for variable in container["env"]
    }
    secret = {
        name: variable["valueFrom"]["secretKeyRef"]["key"]
        for name, variable in variables.items()
        if "valueFrom" in variable
    }
    assert secret == {
        "PGPASSWORD": "postgres-password",
        "POSTGRES_PASSWORD": "postgres-password",
        "MLFLOW_AUTH_ADMIN_PASSWORD": "admin-password",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "flask-secret-key",
    }
    assert not re.search(r"://\w+:\w+@", text)


def test_only_the_server_reaches_the_database(
    bodies: dict[tuple[str, str], dict[str, Any]],
) -> None:
    rule = bodies["NetworkPolicy", "mlflow-postgres"]["spec"]["ingress"][0]["from"][0]
    server = bodies["Deployment", "mlflow"]["spec"]["template"]["metadata"]["labels"]
    assert rule["podSelector"]["matchLabels"] == server


def test_the_profiles_own_address_is_answered() -> None:
    assert "mlflow.jepa.svc:5000" in allowed_hosts("jepa", None)
    assert "mlflow.example.com" in allowed_hosts("jepa", "https://mlflow.example.com/x")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The rendered command with a folder for the object store and sqlite for Postgres."""
    pytest.importorskip("flask_wtf")
    folder = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    (folder / "basic_auth.ini").write_text(auth_config(f"sqlite:///{folder}/auth.db"))
    command = server_command(str(folder / "artifacts"), allowed_hosts("jepa", None))
    command = [part.replace("0.0.0.0", "127.0.0.1") for part in command[1:] if "port" not in part]
    env = os.environ | {
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": "one-of-the-test",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "another",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *command, f"--port={port}"],
        env=env, cwd=folder, start_new_session=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until(lambda: process.poll() is not None or status(f"{address}/health") == 200)
        assert process.poll() is None, "the server ended"
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(120)


def status(url: str, **headers: str) -> int:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.mark.integration
def test_the_server_wants_a_password_and_a_host_that_it_knows(server: str) -> None:
    experiments = f"{server}/api/2.0/mlflow/experiments/search?max_results=1"
    word = base64.b64encode(b"admin:one-of-the-test").decode()
    right = {"Authorization": f"Basic {word}"}
    assert status(experiments) == 401
    assert (
        status(experiments, Authorization=f"Basic {base64.b64encode(b'admin:x').decode()}") == 401
    )
    assert status(experiments, **right) == 200
    assert status(experiments, **right, Host="mlflow.jepa.svc:5000") == 200
    assert status(experiments, **right, Host="evil.example.com") == 403
    assert status(f"{server}/health", Host="10.0.0.7:5000") == 200, "a probe of the kubelet's"


def test_paths_in_the_manifest_are_those_of_the_command(
    bodies: dict[tuple[str, str], dict[str, Any]],
) -> None:
    """The auth file that the server is told of is the one that is mounted."""
    spec = bodies["Deployment", "mlflow"]["spec"]["template"]["spec"]
    env = {v["name"]: v.get("value") for v in spec["containers"][0]["env"]}
    mount = spec["containers"][0]["volumeMounts"][0]["mountPath"]
    assert Path(str(env["MLFLOW_AUTH_CONFIG_PATH"])).parent == Path(mount)
    config = bodies["ConfigMap", spec["volumes"][0]["configMap"]["name"]]
    assert env["MLFLOW_BACKEND_STORE_URI"] in config["data"]["basic_auth.ini"]
