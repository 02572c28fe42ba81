"""A way to an S3 server that can be broken: it answers 500, or cuts connections."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from tests.support.ports import free_port
from tests.support.waiting import wait_until

ProxyMode = Literal["well", "500", "cut"]
ERROR_RESPONSE = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)


class Proxy:
    """Forwards to 127.0.0.1:`target` while `mode` is "well"."""

    def __init__(self, target: int) -> None:
        self.mode: ProxyMode = "well"
        self.num_refused = 0
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def fail(self, mode: ProxyMode) -> None:
        """From now on; connections that are open are cut."""
        self.mode = mode
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        if self.mode != "well":
            self.num_refused += 1
            with client, contextlib.suppress(OSError):
                if self.mode == "500":
                    client.settimeout(2)
                    client.recv(65536)
                    client.sendall(ERROR_RESPONSE)
            return
        server = socket.create_connection(("127.0.0.1", self._target))
        self._open += [client, server]
        back = threading.Thread(target=_pump, args=(server, client), daemon=True)
        back.start()
        _pump(client, server)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def s3_server() -> Iterator[int]:
    """A moto server in a process of its own; its port."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _answers(port))
        yield port
    finally:
        process.kill()
        process.wait()
