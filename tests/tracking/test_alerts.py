"""A line to a webhook; one that hangs, fails or is nowhere stops nothing and gives nothing away."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from orchestrator.tracking import alerts
from orchestrator.tracking.alerts import WEBHOOK_VARIABLE, send_alert
from tests.support.waiting import TIMEOUT_S

HANGS, TRICKLES = 0, 1
"""Not statuses: no answer, and one that comes a line at a time, each in good time."""


class Receiver(BaseHTTPRequestHandler):
    """Takes what it is sent, and answers as it is told to."""

    got: list[Any]
    answers: list[int]
    heard: threading.Event
    """The test is over."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append(json.loads(body))
        status = self.answers.pop(0) if self.answers else 200
        if status == HANGS:
            self.heard.wait()
        if status == TRICKLES:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while not self.heard.wait(0.1):
                self.wfile.write(b"X: y\r\n")
        self.send_response(status or 200)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Nothing on the screen."""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Receiver]]:
    Receiver.got, Receiver.answers, Receiver.heard = [], [], threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv(WEBHOOK_VARIABLE, f"http://127.0.0.1:{server.server_port}/very-secret")
    monkeypatch.setattr(alerts, "TIMEOUT_S", 0.3)
    yield Receiver
    Receiver.heard.set()
    server.shutdown()
    server.server_close()


def sent(text: str) -> None:
    thread = send_alert(text)
    assert thread is not None
    thread.join(TIMEOUT_S)
    assert not thread.is_alive()


def test_a_line_in_slacks_form(receiver: type[Receiver]) -> None:
    sent("quick is done")
    assert receiver.got == [{"text": "quick is done"}]


def test_what_fails_once_is_sent_again(receiver: type[Receiver]) -> None:
    receiver.answers = [500]
    sent("quick failed")
    assert receiver.got == [{"text": "quick failed"}] * 2


@pytest.mark.parametrize(
    "answers",
    [[500, 500], [HANGS, HANGS], [TRICKLES, TRICKLES]],
    ids=["refuses", "hangs", "trickles"],
)
def test_a_receiver_that_does_not_take_it_is_told_without_its_address(
    receiver: type[Receiver], caplog: pytest.LogCaptureFixture, answers: list[int]
) -> None:
    receiver.answers = list(answers)
    with caplog.at_level(logging.WARNING):
        sent("quick failed")  # ends while the receiver goes on with what it does
    assert "did not take an alert" in caplog.text
    assert "very-secret" not in caplog.text


@pytest.mark.parametrize(
    "address", ["http://h:very-secret/x", "http://h/very secret", "very-secret"]
)
def test_an_address_that_is_none_is_not_shown(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    address: str,
) -> None:
    monkeypatch.setenv(WEBHOOK_VARIABLE, address)
    sent("quick failed")
    shown = caplog.text + "".join(capfd.readouterr())
    assert "did not take an alert" in shown
    assert "very" not in shown


def test_the_caller_does_not_wait_for_the_receiver(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setenv(WEBHOOK_VARIABLE, "http://nobody")
    monkeypatch.setattr(alerts, "_post", lambda *given: answered.wait())
    thread = send_alert("quick failed")
    assert thread is not None
    assert thread.is_alive()
    answered.set()
    thread.join()


def test_no_webhook_no_alert(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEBHOOK_VARIABLE, raising=False)
    assert send_alert("nobody hears it") is None


def test_a_collapse_and_a_failure_of_a_training_are_alerts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from orchestrator.job import build_job
    from orchestrator.progress import SilentProgress
    from orchestrator.storage import Storage
    from orchestrator.training import driver
    from orchestrator.training.control import monitor as watch
    from orchestrator.training.control.coordinator import LocalCoordinator
    from orchestrator.training.health import COLLAPSE_MESSAGE

    told: list[str] = []
    monkeypatch.setattr(watch, "send_alert", told.append)
    monkeypatch.setattr(driver, "send_alert", told.append)
    monkeypatch.setattr(driver, "finish_run", lambda *given: None)
    data = {"source": "physics://mixed?clips=8", "frames": 4, "size": 32}
    job = build_job({"kind": "train", "name": "t", "data": data, "optim": {"steps": 2}})
    board = LocalCoordinator()
    board.notify("step 3 is not applied")
    board.notify(f"step 4: {COLLAPSE_MESSAGE}: RankMe 1")
    with watch.monitor_workers(board, SilentProgress(), job, Storage(str(tmp_path))):  # type: ignore[arg-type]
        pass
    assert told == [f"t: step 4: {COLLAPSE_MESSAGE}: RankMe 1"]
    with pytest.raises(ValueError, match="no room"), driver._finish_mlflow_run(None, "t"):  # type: ignore[arg-type]
        raise ValueError("no room")
    assert told[-1] == "t failed: no room"
    with driver._finish_mlflow_run(None, "t"):  # type: ignore[arg-type]
        pass
    assert told[-1] == "t is done"
