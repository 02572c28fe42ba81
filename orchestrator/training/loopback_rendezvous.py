"""Where the ranks of a process group meet: on a machine alone, nobody else can listen or join.

torch lets its store's server listen on every interface, whatever address the ranks are given.
"""

from __future__ import annotations

import importlib
import ipaddress
import socket
from datetime import timedelta
from typing import Any

from torch._C._distributed_c10d import TCPStore

# `torch.distributed.rendezvous` as an attribute is a function of that name.
_rendezvous: Any = importlib.import_module("torch.distributed.rendezvous")
_torch_create_store = _rendezvous._create_c10d_store


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its own name or a loopback address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bind_rendezvous_to_loopback() -> None:
    """In a rank, before its process group is made: where the ranks are given a loopback address to
    meet at, the server listens there alone. Any other address is left to torch."""
    _rendezvous._create_c10d_store = _create_store


def open_tcp_store(
    host: str, port: int, world_size: int, *, is_main: bool, timeout: timedelta
) -> TCPStore:
    """The store of a rank; that of the rank that `is_main` is the server.

    Raises:
        RuntimeError: the others do not come, or the port is taken.
    """
    if not is_main or not is_loopback(host):
        return TCPStore(host, port, world_size, is_master=is_main, timeout=timeout)
    return _serve(host, port, world_size=world_size, timeout=timeout)


def _create_store(
    hostname: str,
    port: int,
    rank: int,
    world_size: int,
    timeout: timedelta,
    use_libuv: bool = True,
) -> Any:
    """In place of torch's function of this name."""
    if rank != 0 or not use_libuv or not is_loopback(hostname):
        return _torch_create_store(hostname, port, rank, world_size, timeout, use_libuv)
    return _serve(hostname, port, world_size=world_size, timeout=timeout, multi_tenant=True)


def _serve(host: str, port: int, **options: Any) -> TCPStore:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise RuntimeError(f"port {port} of {host} cannot be listened on: {error}") from error
        # The store listens on it by itself, and closes it.
        return TCPStore(host, port, is_master=True, master_listen_fd=listener.detach(), **options)
