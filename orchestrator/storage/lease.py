"""Leases: one process at a time creates something in a storage, others wait for it.

The owner holds a lease, a small file that it renews. A lease that is not renewed for `STALE_S`
seconds, or whose process on this host has ended, is taken over. Object stores have no locks, and a
lock on a network file system may outlive its host; a lease needs neither. It only avoids duplicate
work: the result must be correct even if two processes hold the lease, because a process that was
suspended for a minute does not notice that it lost it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator.storage import Storage

RENEW_S = 5.0
STALE_S = 60.0
POLL_S = 0.5
SETTLE_S = 1.0
"""Seconds before a write that another process may have replaced is read back."""

log = logging.getLogger(__name__)


@contextmanager
def lease(
    storage: Storage,
    path: str,
    owner_activity: str,
    is_done: Callable[[], bool] = lambda: False,
    notify: Callable[[str], None] = log.info,
) -> Iterator[bool]:
    """Hold the lease `path` (True), or wait until its owner is done (False: nothing is held).

    Args:
        owner_activity: what the owner does, for the message.
        is_done: whether the result exists; asked while another process holds the lease.
        notify: called with one line if there is an owner to wait for.

    Raises:
        OSError: the storage cannot be read or written.
    """
    file = _Lease(storage, path)
    if not file.acquire(owner_activity, is_done, notify):
        yield False
        return
    try:
        yield True
    finally:
        file.release()


@contextmanager
def try_lease(storage: Storage, path: str) -> Iterator[bool]:
    """Hold the lease `path` if it is free; True if it is held.

    Raises:
        OSError: the storage cannot be read or written.
    """
    file = _Lease(storage, path)
    if not file.try_acquire():
        yield False
        return
    try:
        yield True
    finally:
        file.release()


class _Lease:
    """A lease as held or awaited by this process."""

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage, self._path = storage, path
        self._owner = {"id": uuid.uuid4().hex, "pid": os.getpid(), **_host_identity()}
        self._renewed = 0
        self._last_owner: tuple[dict[str, Any] | None, float] = (None, 0.0)
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lease")

    def acquire(
        self, owner_activity: str, is_done: Callable[[], bool], notify: Callable[[str], None]
    ) -> bool:
        """Wait until the lease is this process's (True), or until `is_done` (False)."""
        notified = False
        while not is_done():
            if self.try_acquire():
                return True
            owner = self._last_owner[0]
            if owner is not None and not notified:
                notified = True
                notify(
                    f"process {owner['pid']} on {owner['host']} {owner_activity}: waiting for it"
                )
            time.sleep(POLL_S)
        return False

    def try_acquire(self) -> bool:
        """Take the lease if it is free; True if it is now this process's."""
        owner = self._read()
        if owner is None:
            if not self._storage.write_if_absent(self._path, self._text()):
                return False
            # Without a conditional put another process may have replaced it.
            mine = not self._storage.is_remote or self._is_mine_after_settling()
        elif self._is_stale(owner):
            self._storage.write_bytes(self._path, self._text())
            mine = self._is_mine_after_settling()
        else:
            return False
        if mine:
            self._thread.start()
        return mine

    def release(self) -> None:
        """Delete the lease, if it is still this process's."""
        self._released.set()
        self._thread.join()
        try:
            if self._is_mine():
                self._storage.delete(self._path)
        except OSError as error:  # it becomes stale by itself
            log.info("%s cannot be removed: %s", self._storage.uri(self._path), error)

    def _renew(self) -> None:
        while not self._released.wait(RENEW_S):
            try:
                if not self._is_mine():
                    return
                self._renewed += 1
                self._storage.write_bytes(self._path, self._text())
            except OSError as error:
                log.info("%s cannot be renewed: %s", self._storage.uri(self._path), error)

    def _is_stale(self, owner: dict[str, Any]) -> bool:
        """Whether the owner has ended, or has not renewed the lease for `STALE_S`."""
        if owner != self._last_owner[0]:
            self._last_owner = (owner, time.monotonic())
        return _has_ended(owner) or time.monotonic() - self._last_owner[1] > STALE_S

    def _is_mine_after_settling(self) -> bool:
        time.sleep(SETTLE_S)
        return self._is_mine()

    def _is_mine(self) -> bool:
        owner = self._read()
        return owner is not None and owner["id"] == self._owner["id"]

    def _read(self) -> dict[str, Any] | None:
        try:
            owner: dict[str, Any] = json.loads(self._storage.read_bytes(self._path))
        except FileNotFoundError:
            return None
        except ValueError:  # not written by `_text`: it is not renewed and becomes stale
            return {"id": "", "pid": 0, "host": "an unknown host", "processes": ""}
        return owner

    def _text(self) -> bytes:
        return json.dumps({**self._owner, "renewed": self._renewed}).encode()


def _host_identity() -> dict[str, str]:
    """The host name, and an id of the boot and process namespace that process ids belong to."""
    host = {"host": socket.gethostname(), "processes": ""}
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            host["processes"] = f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return host
    return host


def _has_ended(owner: dict[str, Any]) -> bool:
    """Whether the owner was a process of this host that has ended."""
    if {key: owner[key] for key in ("host", "processes")} != _host_identity() or not owner[
        "processes"
    ]:
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
