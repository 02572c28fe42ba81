"""The lease of what one process makes: others wait for its owner, and for no process that ended."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.storage import Storage
from orchestrator.storage import lease as lease_module
from orchestrator.storage.lease import lease, try_lease

PATH = "busy.json"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "POLL_S", 0.02)
    monkeypatch.setattr(lease_module, "SETTLE_S", 0.02)
    monkeypatch.setattr(lease_module, "RENEW_S", 0.05)
    monkeypatch.setattr(lease_module, "STALE_S", 0.5)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def left_by(storage: Storage, **owner: Any) -> None:
    """A lease that another process wrote."""
    one = {"id": "other", "pid": 1, "host": "elsewhere", "processes": "x", "renewed": 0}
    storage.write_json(PATH, {**one, **owner})


def test_the_second_waits_and_finds_it_made(storage: Storage) -> None:
    made, found, told = threading.Event(), [], []

    def second() -> None:
        with lease(storage, PATH, "packs too", made.is_set, told.append) as mine:
            found.append(mine)

    with lease(storage, PATH, "packs too") as mine:
        assert mine
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.8)  # longer than a lease stands that nobody renews
        assert found == []
        made.set()
        thread.join()
    assert found == [False]
    (line,) = told
    assert line.endswith("packs too: waiting for it")
    assert not storage.exists(PATH)


def test_the_second_goes_on_where_the_first_failed(storage: Storage) -> None:
    found: list[bool] = []

    def second() -> None:
        with lease(storage, PATH, "") as mine:
            found.append(mine)

    thread = threading.Thread(target=second)

    def first() -> None:
        with lease(storage, PATH, ""):
            thread.start()
            raise KeyError("it failed")

    with pytest.raises(KeyError):
        first()
    thread.join(5)
    assert found == [True]


def test_a_process_of_this_host_that_ended_is_not_waited_for(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "STALE_S", 600.0)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left_by(storage, pid=ended.pid, **lease_module._host_identity())
    with try_lease(storage, PATH) as mine:
        assert mine


def test_a_process_of_another_host_is_waited_for_as_long_as_it_renews(storage: Storage) -> None:
    left_by(storage)
    began = time.monotonic()
    renewing = threading.Event()

    def renew() -> None:
        for count in range(10):
            time.sleep(0.1)
            left_by(storage, renewed=count + 1)
        renewing.set()

    threading.Thread(target=renew).start()
    with lease(storage, PATH, "") as mine:
        assert mine
        assert renewing.is_set()
    assert time.monotonic() - began > 1.0 + 0.4


@pytest.mark.parametrize("text", [b"", b"{", b"\xff"])
def test_a_lease_that_cannot_be_read_goes_stale(storage: Storage, text: bytes) -> None:
    storage.write_bytes(PATH, text)
    with lease(storage, PATH, "") as mine:
        assert mine


def test_one_that_was_taken_over_is_left_to_its_owner(storage: Storage) -> None:
    with lease(storage, PATH, ""):
        left_by(storage)
        time.sleep(0.2)  # renewing it must not take it back
    assert json.loads(storage.read_bytes(PATH))["id"] == "other"


def test_only_one_of_many_has_it(storage: Storage) -> None:
    inside, most, lock = 0, 0, threading.Lock()

    def one() -> None:
        nonlocal inside, most
        with lease(storage, PATH, ""):
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.03)
            with lock:
                inside -= 1

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
