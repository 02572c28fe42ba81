"""Ports of 127.0.0.1 that no other process takes meanwhile."""

from __future__ import annotations

import itertools
import os
import socket

# Below the ports that a system hands out by itself (32768 and more), above Ray's (to 19999).
_FIRST, _COUNT = 20_000, 12_000
_offsets = itertools.count()


def free_port() -> int:
    """One that nothing listens at, given once; each process begins at another place."""
    while True:
        port = _FIRST + (os.getpid() * 97 + next(_offsets)) % _COUNT
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
