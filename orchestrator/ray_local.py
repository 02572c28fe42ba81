"""A Ray of this machine alone: it listens on loopback, its sockets have short paths, and its token
needs no home folder."""

from __future__ import annotations

import functools
import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from orchestrator.errors import RequestError

MAX_SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107
"""The longest path of a Unix socket."""

_LONGEST_SOCKET_SUFFIX = "/ray/session_2026-12-01_12-45-41_809958_4194304/sockets/plasma_store"
"""What Ray puts behind its temporary folder."""

_RAY_CLUSTER_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Where this is 0, a node that Ray starts has the address 127.0.0.1, as on a Mac, and all of its
servers listen there. An address that is given is not enough: Ray replaces a loopback one."""

_bound_to_loopback = False
"""Ray's native code reads the variable once in a process: the first cluster decides."""

logger = logging.getLogger(__name__)


def bound_to_loopback() -> bool:
    """Whether what Ray starts in this process listens on loopback only, also in a later cluster."""
    return _bound_to_loopback


def loopback_interface() -> str:
    """The name of the network interface that leads nowhere: `lo`, on a Mac `lo0`."""
    names = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    return names[0] if names else "lo"


def loopback_environment() -> dict[str, str]:
    """Variables by which gloo, NCCL and TensorPipe talk, and listen, on this machine alone."""
    name = loopback_interface()
    return dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME"), name)


def local_init_options() -> dict[str, Any]:
    """Options of `ray.init` for a cluster of this machine.

    Raises:
        RequestError: no folder has a path that is short enough for Ray's sockets.
    """
    # Without "local" Ray looks for the last cluster of this machine, and waits for minutes
    # where that was killed.
    return {"address": "local", "include_dashboard": False, **_temp_dir_options()}


@contextmanager
def single_machine_ray() -> Iterator[None]:
    """Within it a Ray that starts is this machine's alone, and so are its processes."""
    import ray._private.ray_constants as constants

    global _bound_to_loopback
    _bound_to_loopback = True
    wanted = {**loopback_environment(), _RAY_CLUSTER_VARIABLE: "0", **_auth_token_environment()}
    before = {name: os.environ.get(name) for name in wanted}
    clusters = constants.ENABLE_RAY_CLUSTER
    os.environ.update(wanted)
    constants.ENABLE_RAY_CLUSTER = False  # this process has read the variable when it imported Ray
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = clusters
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _temp_dir_options() -> dict[str, Any]:
    """Where Ray keeps sockets and logs, unless its own choice will do."""
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), "")
    asked = os.environ.get(variable, "/tmp")  # of an empty one Ray makes a relative path
    given = asked or "/tmp"
    if not _writable(Path(given)):
        raise RequestError(
            f"cannot write to the temporary folder {given}",
            where=variable or "temporary files",
            hint="name a folder that can be written: RAY_TMPDIR=/DIR",
        )
    if (
        os.path.isabs(asked)
        and len(os.fsencode(given + _LONGEST_SOCKET_SUFFIX)) <= MAX_SOCKET_PATH_BYTES
    ):
        return {}
    short = _short_folder()
    if short is None:
        raise RequestError(
            f"the path {given} is too long for Ray's sockets ({MAX_SOCKET_PATH_BYTES} bytes with"
            " what Ray puts behind it)",
            where=variable,
            hint="name a folder of at most"
            f" {MAX_SOCKET_PATH_BYTES - len(_LONGEST_SOCKET_SUFFIX)} bytes: RAY_TMPDIR=/DIR",
        )
    logger.info("%s is too long for Ray's sockets; they are in %s", variable, short)
    # What does not fit into memory is written where the person wants temporary files.
    return {"_temp_dir": short, "object_spilling_directory": os.path.abspath(given)}


def _short_folder() -> str | None:
    """A folder of this user's own with a short path."""
    for base in ("/tmp", os.environ.get("XDG_RUNTIME_DIR", "")):
        folder = f"{base}/ray-{os.getuid()}"
        fits = (
            len(os.fsencode(folder + _LONGEST_SOCKET_SUFFIX.removeprefix("/ray")))
            <= MAX_SOCKET_PATH_BYTES
        )
        if base and fits and _own(Path(folder)):
            return folder
    return None


def _own(folder: Path) -> bool:
    """Whether a folder is there, or made, that nobody else has made."""
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder.lstat().st_uid == os.getuid() and not folder.is_symlink()
    return False


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _auth_token_environment() -> dict[str, str]:
    """A token of this process's own, where Ray cannot keep one in the home folder."""
    asked = os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not asked or named or _home_keeps_token():
        return {}
    return {"RAY_AUTH_TOKEN": _token()}


def _home_keeps_token() -> bool:
    try:
        file = Path.home() / ".ray" / "auth_token"
    except RuntimeError:  # neither HOME nor a user database
        return False
    return file.is_file() or _writable(file.parent)


@functools.cache
def _token() -> str:
    """Always the same: Ray reads it once in a process."""
    return secrets.token_hex(32)
