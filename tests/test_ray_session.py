"""Which cluster RAY_ADDRESS names, and what a Ray of this machine needs."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from multiprocessing import get_context
from pathlib import Path

import pytest

from orchestrator import ray_local
from orchestrator.bench.local_ray_cluster import LocalRayCluster
from orchestrator.errors import RequestError
from orchestrator.ray_session import cluster_address, ray_session


@pytest.mark.parametrize("address", ["", " ", "local", "\n"])
def test_no_address_means_this_machine(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert cluster_address() is None


@pytest.mark.parametrize(
    "address",
    [
        "auto",
        "127.0.0.1:6379",
        "head.cluster:6379",
        "[::1]:6379",
        "ray://head:10001",
        "ray://head",
        " 10.0.0.1:6379 ",
    ],
)
def test_addresses(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert cluster_address() == address.strip()


@pytest.mark.parametrize(
    "address",
    [
        "not-an-address",
        "http://127.0.0.1:8265",
        "https://ray.example.com",
        "ray://",
        "ray://:10001",
        "RAY",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:0",
        "127.0.0.1:99999",
        "127.0.0.1:6379/",
        "127.0.0.1:port",
        ":6379",
        "two hosts:6379",
        "::1:6379",
        "user@host:6379",
        "tcp://127.0.0.1:6379",
    ],
)
def test_what_is_no_address_is_refused_in_one_line(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(RequestError, match="is not the address of a Ray cluster") as error:
        cluster_address()
    assert error.value.where == "RAY_ADDRESS"
    assert error.value.exit_code == 2


@contextmanager
def server(answer: bytes | None) -> Iterator[int]:
    """A server that sends these bytes to whoever connects, and closes; None: says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kept = []

        def serve() -> None:
            connection, _ = listener.accept()
            kept.append(connection)
            if answer is not None:
                connection.recv(100)
                connection.sendall(answer)
                connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        for connection in kept:
            connection.close()


@pytest.mark.parametrize("scheme", ["", "ray://"])
@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", None], ids=["web", "closes", "silent"]
)
def test_another_server_at_the_address_is_said_at_once(
    answer: bytes | None, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.ray_session.CONNECT_TIMEOUT_S", 0.5)
    began = time.monotonic()
    with server(answer) as port:
        monkeypatch.setenv("RAY_ADDRESS", f"{scheme}127.0.0.1:{port}")
        with pytest.raises(RequestError, match="no Ray cluster answers"), ray_session():
            pass
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_closed_port_is_said_at_once(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"{scheme}127.0.0.1:9")
    with pytest.raises(RequestError, match=r"no Ray cluster answers at .*refused"), ray_session():
        pass


@pytest.fixture
def _no_folders_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("_no_folders_named")
def test_a_short_temporary_folder_is_rays_own_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "_temp_dir" not in ray_local.local_init_options()
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert "_temp_dir" not in ray_local.local_init_options()


@pytest.mark.usefixtures("_no_folders_named")
@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize("name", ["a" * 60, "ü" * 30, "sub/" * 20])
def test_sockets_of_a_long_temporary_folder_lie_elsewhere(
    variable: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    monkeypatch.setenv(variable, str(folder))
    options = ray_local.local_init_options()
    socket_path = options["_temp_dir"] + ray_local._LONGEST_SOCKET_SUFFIX.removeprefix("/ray")
    assert len(os.fsencode(socket_path)) <= ray_local.MAX_SOCKET_PATH_BYTES
    assert os.stat(options["_temp_dir"]).st_uid == os.getuid()
    assert options["object_spilling_directory"] == str(folder)


@pytest.mark.usefixtures("_no_folders_named")
@pytest.mark.parametrize("value", ["", "relative"])
def test_a_temporary_folder_without_a_whole_path_is_not_left_to_ray(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", value)
    assert os.path.isabs(ray_local.local_init_options()["_temp_dir"])


@pytest.mark.usefixtures("_no_folders_named")
def test_a_long_path_without_any_other_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("a" * 60)))
    monkeypatch.setattr(ray_local, "_short_folder", lambda: None)
    with pytest.raises(RequestError, match="too long for Ray's sockets") as error:
        ray_local.local_init_options()
    assert error.value.where == "TMPDIR"


@pytest.mark.usefixtures("_no_folders_named")
@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_temporary_folder_that_cannot_be_is_refused(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(variable, str(tmp_path / "file" / "below"))
    with pytest.raises(RequestError, match="cannot write to the temporary folder"):
        ray_local.local_init_options()


@pytest.mark.parametrize("kept", ["nothing", "a folder", "a token"])
def test_a_token_of_its_own_only_where_the_home_keeps_none(
    kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    if kept == "nothing":
        (tmp_path / ".ray").write_text("a file where a folder should be")
    elif kept == "a token":
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    found = ray_local._auth_token_environment()
    assert (found != {}) == (kept == "nothing")
    assert found == ray_local._auth_token_environment()


def test_an_environment_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    with ray_local.single_machine_ray():
        assert os.environ["GLOO_SOCKET_IFNAME"].startswith("lo")
        assert os.environ["NCCL_SOCKET_IFNAME"].startswith("lo")
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"
    assert "NCCL_SOCKET_IFNAME" not in os.environ


def _local_then_cluster(address: str) -> str:
    """What a process is told that has run locally and then joins the cluster at this address."""
    with ray_session(num_cpus=1):
        pass
    os.environ["RAY_ADDRESS"] = address
    try:
        with ray_session():
            return "joined"
    except RequestError as error:
        return str(error)


@pytest.mark.integration
def test_a_process_that_ran_locally_is_refused_by_a_cluster_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its own server listens on loopback only: the head would end its actors minutes later."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    spawn = get_context("spawn")
    with closing(LocalRayCluster(1)) as nodes, ProcessPoolExecutor(1, mp_context=spawn) as pool:
        told = pool.submit(_local_then_cluster, nodes.address).result()
    assert "it cannot join" in told
    assert "use another Python process" in told
