"""What the doctor sees from outside: a job server that is away, closed, strange or another Ray."""

from __future__ import annotations

import importlib.metadata
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from orchestrator.cluster_profile import PROFILES, Profile
from orchestrator.clusters.doctor import check_from_client, preflight, with_doctor_check
from orchestrator.errors import RequestError
from orchestrator.job import build_job

RAY = importlib.metadata.version("ray")


class Server(BaseHTTPRequestHandler):
    """Ray's job server as far as its door: asks for the token `right`."""

    version, asks = RAY, True

    def do_GET(self) -> None:
        known = self.headers.get("Authorization") == "Bearer right"
        self.send_response(200 if known or not self.asks else 401)
        self.end_headers()
        if known or not self.asks:
            self.wfile.write(json.dumps({"ray_version": self.version}).encode())

    def log_message(self, *args: Any) -> None:
        """Nothing on the screen."""


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Server, "version", RAY)
    monkeypatch.setattr(Server, "asks", True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def profile(address: str, **changes: Any) -> Profile:
    nodes = {"head": {"cpus": 2, "memory": "4GiB"}}
    data = {"kind": "local", "name": "here", "address": address, "nodes": nodes, **changes}
    return PROFILES["local"].model_validate(data)


def job() -> Any:
    data = {"source": "physics://mixed?clips=8", "frames": 4, "size": 32}
    return build_job({"kind": "train", "name": "t", "data": data, "optim": {"steps": 2}})


def faults(found: list[Any]) -> dict[str, str]:
    return {one.check: one.state for one in found if one.state != "ok"}


def test_a_cluster_that_answers_and_takes_the_token(address: str) -> None:
    assert faults(check_from_client(profile(address), job())) == {}
    preflight(profile(address), job())


def test_a_wrong_token(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    with pytest.raises(RequestError, match="refuses our token") as error:
        preflight(profile(address), job())
    assert "'t' was not sent" in error.value.what
    assert "ray get-auth-token" in error.value.what
    assert "--no-doctor" in error.value.hint


def test_no_token(address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert faults(check_from_client(profile(address), None)) == {"token": "fail"}


def test_nobody_asks_for_a_token(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "asks", False)
    assert faults(check_from_client(profile(address), None)) == {"token": "warn"}


def test_another_ray(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "version", "2.40.0")
    with pytest.raises(RequestError, match=r"ray 2\.40\.0 runs there") as error:
        preflight(profile(address), job())
    assert "pip install 'ray==2.40.0'" in error.value.what


def test_nothing_answers() -> None:
    with pytest.raises(RequestError, match="does not answer"):
        preflight(profile("http://127.0.0.1:9"), job())


def test_something_else_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet() -> None:
            peer, _ = listening.accept()
            with peer:
                peer.sendall(b"SSH-2.0-OpenSSH_9\r\n")

        threading.Thread(target=greet, daemon=True).start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        assert faults(check_from_client(profile(address), None)) == {"address": "fail"}


def test_several_faults_are_all_listed(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    nodes = {"head": {"cpus": 2, "memory": "4GiB"}, "other": {"cpus": 2, "memory": "4GiB"}}
    with pytest.raises(RequestError, match="2 checks failed") as error:
        preflight(profile(address, nodes=nodes), job())
    assert "several nodes cannot write one sqlite file" in error.value.what


def test_the_guarded_command_keeps_the_jobs_place() -> None:
    shell, flag, text = with_doctor_check(
        ("python", "-m", "orchestrator", "run", "a b.yaml"), "a b.yaml"
    )
    assert (shell, flag) == ("sh", "-c")
    assert text == (
        "python -m orchestrator doctor 'a b.yaml' && exec python -m orchestrator run 'a b.yaml'"
    )
