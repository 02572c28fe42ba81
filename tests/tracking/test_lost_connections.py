"""A connection that is lost without a word does not hide that the server is back."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from orchestrator.tracking.live.run_logger import RunLogger
from orchestrator.tracking.run import RunRef

RUN = {"run_id": "0" * 32, "run_uuid": "0" * 32, "experiment_id": "1", "status": "RUNNING"}


class Server(ThreadingHTTPServer):
    """Of MLflow's API what a logger asks for; while `silent` no connection gets an answer, ever."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.silent, self.ended = threading.Event(), threading.Event()
        self.swallowed, self.steps = 0, list[int]()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.silent.is_set():
            self.server.swallowed += 1
            self.server.ended.wait()
            return
        if self.path.endswith("/log-batch"):
            self.server.steps += [metric["step"] for metric in json.loads(body)["metrics"]]
        found = {"run": {"info": {**RUN, "start_time": 1}, "data": {}}}
        text = json.dumps(found if "/runs/get" in self.path else {}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = _answer


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.ended.set()
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.mark.integration
def test_rows_arrive_though_the_first_connection_is_never_answered(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    server.silent.set()
    ref = RunRef(f"http://127.0.0.1:{server.server_port}", RUN["run_id"], "1")
    log = RunLogger(ref, 0, poll_interval_s=0.05, close_timeout_s=15.0)
    log.log_metrics(1, {"train/loss": 1.0})
    while not server.swallowed:
        time.sleep(0.02)
    server.silent.clear()
    log.log_metrics(2, {"train/loss": 0.5})
    assert log.close() == []
    assert server.steps == [1, 2]


def test_a_lost_connection_is_given_up_well_before_the_logger_gives_up() -> None:
    assert int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) <= 20
