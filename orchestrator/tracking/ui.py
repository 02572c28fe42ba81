"""MLflow's own pages over what the runs left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO

from orchestrator.errors import JobFailed, RequestError
from orchestrator.storage import Storage
from orchestrator.tracking.mlflow_errors import MlflowUnavailable, mlflow_read
from orchestrator.tracking.server import (
    UI_QUERY,
    artifact_root,
    existing_tracking_uri,
    is_server,
    is_sqlite,
    mlflow_client,
    require_usable,
    tracking_uri,
)

HOST = "127.0.0.1"
START_TIMEOUT_S = 120.0


def open_ui(
    storage: Storage | None = None,
    *,
    uri: str | None = None,
    port: int = 5000,
    open_browser: bool = True,
    notify: Callable[[str], None] = print,
) -> None:
    """Show the runs in a browser until Ctrl-C.

    The store is found as a job finds it: `uri`, MLFLOW_TRACKING_URI, the sqlite file in
    `storage`. What is behind a server already is opened there; for a database a server is
    started on 127.0.0.1.

    Raises:
        RequestError: there are no runs yet, the store cannot be read, or the port is taken.
        JobFailed: MLflow's server did not come up.
    """
    store = tracking_uri(uri, storage)
    if is_server(store):
        require_usable(store, nodes=1)
        _open_page(landing_page_url(store, store), open_browser, notify)
        return
    # Whatever ends this process must end the server too.
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    with run_mlflow_server(store, port) as (address, process):
        _open_page(landing_page_url(store, address), open_browser, notify)
        notify("Ctrl-C closes the pages")
        try:
            process.wait()
        except KeyboardInterrupt:
            notify("the pages are closed; the runs stay")


def landing_page_url(store: str, address: str) -> str:
    """The page to begin with: the runs of the experiment that ran last."""
    client = mlflow_client(store)
    latest = ["attributes.start_time DESC"]
    with mlflow_read(store):
        experiments = [e.experiment_id for e in client.search_experiments()]
        newest = client.search_runs(experiments, max_results=1, order_by=latest)
    if not newest:
        return f"{address}/#/experiments{UI_QUERY}"
    return f"{address}/#/experiments/{newest[0].info.experiment_id}/runs{UI_QUERY}"


def _open_page(page: str, open_browser: bool, say: Callable[[str], None]) -> None:
    say(f"runs and models: {page}")
    if open_browser:
        webbrowser.open(page)


@contextmanager
def run_mlflow_server(store: str, port: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server over a database, healthy; gives its address and process, ends it afterwards.

    Raises:
        RequestError: there are no runs yet, or the port is taken.
        JobFailed: the server did not come up; its own words are in the message.
    """
    existing_tracking_uri(store)
    with suppress(MlflowUnavailable):  # the server below says what is wrong
        mlflow_client(store)  # a job that makes its tables now is waited for
    _require_free(port)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    if is_sqlite(store):
        # Runs that are made through this server keep their files where the others are.
        command += ["--artifacts-destination", str(artifact_root(store))]
    # MLflow's job runner serves its chat features only, with several processes of its own.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with tempfile.TemporaryFile() as output:
        # Its own process group: Ctrl-C is ours to handle, and its workers are ended with it.
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
        try:
            page = f"http://{HOST}:{port}"
            _wait_until_healthy(page, process, output)
            yield page, process
        finally:
            _terminate(process)


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        if probe.connect_ex((HOST, port)) == 0:
            raise RequestError(
                f"port {port} of {HOST} is taken", hint="end what runs there, or use --port"
            )


def _wait_until_healthy(page: str, process: subprocess.Popen[bytes], output: IO[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{page}/health", timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    output.seek(0)
    last = output.read().decode(errors="replace").strip().splitlines()[-5:]
    raise JobFailed(
        "MLflow's server did not start", where=page, hint="it said: " + "\n  ".join(last)
    )


def _terminate(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=3)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
