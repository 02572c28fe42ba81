"""What cannot be rendered is one clear line, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster_profile import load_profile
from orchestrator.cluster_profile.secret_scan import looks_secret
from orchestrator.clusters.render.render import render, render_to
from orchestrator.errors import RequestError
from orchestrator.job import load_job
from tests.support.kubernetes_manifests import REPOSITORY

SMALL = """
kind: kuberay
image: image:1
storage: s3://bucket
nodes:
  head: {cpus: 2, memory: 8GiB}
  gpu: {cpus: 8, gpus: 2, memory: 64GiB, max: 2}
"""


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture
def refused(tmp_path: Path) -> Any:
    """Render a profile's text, to be refused: the whole message."""

    def run(text: str, job: str | None = None, *overrides: str) -> str:
        profile, out = tmp_path / "small.yaml", tmp_path / "out"
        profile.write_text(text)
        with pytest.raises(RequestError) as caught:
            render_to(str(profile), job, list(overrides), out)
        assert not out.exists(), "something was written"
        return str(caught.value)

    return run


QUICK = "jobs/physics/quick.yaml"


def test_an_unknown_key_names_its_line_and_the_key_that_was_meant(refused: Any) -> None:
    message = refused(SMALL + "namespce: jepa\n")
    assert "small.yaml:8: namespce: unknown key; did you mean 'namespace'?" in message
    assert "orchestrator cluster schema kuberay" in message


def test_no_image_for_pods(refused: Any) -> None:
    message = refused(SMALL.replace("image: image:1\n", ""))
    assert "pods need an image" in message.splitlines()[0]


def test_a_job_larger_than_all_groups_at_their_largest(refused: Any) -> None:
    message = refused(SMALL, QUICK, "scale.workers=5")
    assert "5 workers of" in message
    assert "'small' has room for 4" in message
    assert "scale.workers=4" in message


def test_a_job_larger_than_all_cores(refused: Any) -> None:
    cpu = SMALL.replace("gpus: 2, ", "")
    message = refused(cpu, QUICK, "scale.workers=200")
    assert "'small' has room for 155" in message


def test_an_elastic_job_needs_room_for_its_least(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    job = load_job(QUICK, ["scale.workers={min: 4, max: 64}"])
    assert "job.yaml" in render(load_profile(tmp_path / "small.yaml"), job, "test")


def test_storage_of_one_node(refused: Any) -> None:
    message = refused(SMALL.replace("storage: s3://bucket\n", ""), QUICK, "scale.workers=2")
    assert "storage: '.orchestrator' is a folder of this machine" in message


def test_data_of_this_machine(refused: Any) -> None:
    message = refused(SMALL, "jobs/video/pretrain.yaml", "scale.workers=2")
    assert "data.source: 'videos' is a folder of this machine" in message


def test_a_secret_in_the_environment_of_a_profile(refused: Any) -> None:
    message = refused(SMALL + "env: {AWS_SECRET_ACCESS_KEY: abc}\n")
    assert "small.yaml:8" in message
    assert "looks like a secret" in message
    assert "abc" not in message


@pytest.mark.parametrize("key", ["mlflow", "storage", "redis"])
def test_a_password_in_an_address_is_not_written(refused: Any, key: str) -> None:
    text = SMALL.replace("storage: s3://bucket\n", "") if key == "storage" else SMALL
    message = refused(text + f"{key}: https://me:hunter22@host/x\n", QUICK, "scale.workers=2")
    assert "looks like a secret" in message or "carries a password" in message
    assert "hunter22" not in message


def test_a_secret_in_a_job_is_not_written(refused: Any) -> None:
    message = refused(SMALL, QUICK, "scale.workers=2", "track.uri=https://me:hunter22@host")
    assert "track.uri: the address carries a password" in message
    assert "hunter22" not in message


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("RAY_AUTH_TOKEN", "x", True),
        ("AWS_ACCESS_KEY_ID", "x", True),
        ("MLFLOW_TRACKING_PASSWORD", "x", True),
        ("ANY", "AKIA" + "A" * 16, True),
        ("ANY", "postgresql://me:pass@host/db", True),
        ("ANY", "-----BEGIN RSA PRIVATE KEY-----", True),
        ("RAY_AUTH_TOKEN_PATH", "/run/token", False),
        ("RAY_AUTH_MODE", "token", False),
        ("TOKENIZERS_PARALLELISM", "false", False),
        ("URI", "postgresql://me@host:5432/db", False),
        ("URI", "http://host:5000/@models", False),
        ("RAY_AUTH_TOKEN", "", False),
    ],
)
def test_what_looks_like_a_secret(name: str, value: str, secret: bool) -> None:
    assert looks_secret(name, value) is secret


def test_a_name_that_kubernetes_refuses(refused: Any) -> None:
    message = refused(SMALL, QUICK, "scale.workers=2", "name=" + "a" * 60)
    assert "is no name for Kubernetes" in message
    assert "47 at most" in message


def test_an_mlflow_server_needs_an_object_store_and_an_address(refused: Any) -> None:
    assert "object store" in refused(
        SMALL.replace("s3://bucket", "/shared") + "mlflow_server: true"
    )
    assert "no job is told of" in refused(SMALL + "mlflow_server: true\n")


@pytest.mark.parametrize(
    ("profile", "job", "what"),
    [
        ("local", None, "a local cluster has no files"),
        ("aws", QUICK, "a job is not rendered for a cluster of kind aws"),
        ("slurm", None, "Slurm brings Ray up for one job"),
    ],
)
def test_kinds_that_have_no_such_file(profile: str, job: str | None, what: str) -> None:
    with pytest.raises(RequestError, match=what):
        render(load_profile(profile), load_job(job) if job else None, "test")
