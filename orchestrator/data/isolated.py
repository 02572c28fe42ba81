"""Decoding in processes beside the training step, one to a decoding thread.

Threads would wait for each other's interpreter lock, and for that of the training step: with
tiny frames two threads decode no faster than one. And a video that crashes FFmpeg takes a child
with it instead of the training. A child imports neither torch nor Ray; it ends when its pipe does.
"""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from orchestrator.data.augment import Cutter, build_cutter
from orchestrator.errors import DataError
from orchestrator.job import Data

_PATIENCE_S = 5.0


class IsolatedCutter:
    """A `Cutter` whose work is done by children; each calling thread has its own.

    Raises, when called:
        DataError: the clip's own fault, crashing two children in a row included (one may have
            been killed for another's memory).
        Exception: whatever an augmentation of the user's raised.
    """

    def __init__(self, data: Data) -> None:
        self._data, self._mine = data, threading.local()
        self._all: list[_Child] = []
        self._lock = threading.Lock()

    def __call__(
        self, payload: Any, times: np.ndarray, rng: np.random.Generator, out: np.ndarray
    ) -> None:
        for _ in range(2):
            child = self._child()
            try:
                answer = child.cut(payload, times, rng, out)
            except (EOFError, OSError):
                how = child.ended()
                del self._mine.child
                continue
            if answer is not None:
                raise answer
            return
        raise DataError(f"crashes the decoder ({how})")

    def close(self) -> None:
        """End the children. No thread may be calling."""
        for child in self._all:
            child.close()

    def _child(self) -> _Child:
        if not hasattr(self._mine, "child"):
            self._mine.child = _Child(self._data)
            with self._lock:
                self._all = [*(child for child in self._all if child.lives), self._mine.child]
        child: _Child = self._mine.child
        return child


class _Child:
    """One process, the pipe to it, and the memory that it writes frames to."""

    def __init__(self, data: Data) -> None:
        shape = (data.frames, data.size, data.size, 3)
        ours, theirs = socket.socketpair()
        with theirs, tempfile.TemporaryFile() as disk:
            memory = _memory(disk.fileno(), int(np.prod(shape)))
            self._frames = np.frombuffer(mmap.mmap(memory, 0), np.uint8).reshape(shape)
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno()), str(memory)],
                pass_fds=(theirs.fileno(), memory),
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            if memory != disk.fileno():
                os.close(memory)
        self._pipe = Connection(ours.detach())
        self._pipe.send((data, shape))

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def cut(
        self, payload: Any, times: np.ndarray, rng: np.random.Generator, out: np.ndarray
    ) -> Exception | None:
        """Write the clip's frames into `out`, or return what was raised there."""
        self._pipe.send((times, rng))
        self._pipe.send_bytes(payload)
        answer: Exception | None = self._pipe.recv()
        if answer is None:
            out[...] = self._frames
        return answer

    def ended(self) -> str:
        """How it did, for a person."""
        self._pipe.close()
        code = self._process.wait(_PATIENCE_S)
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def close(self) -> None:
        self._pipe.close()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _memory(disk: int, size: int) -> int:
    """A descriptor of `size` bytes of memory; where there is no memfd, of a file without name."""
    found = os.memfd_create("frames", 0) if hasattr(os, "memfd_create") else disk
    os.ftruncate(found, size)
    return found


def _serve(pipe: Connection, memory: int) -> None:
    """The child's life: a clip in, frames into the shared memory, an answer out."""
    data, shape = pipe.recv()
    frames = np.frombuffer(mmap.mmap(memory, 0), np.uint8).reshape(shape)
    cutter = build_cutter(data)
    while True:
        times, rng = pipe.recv()
        pipe.send(_cut(cutter, pipe.recv_bytes(), times, rng, frames))


def _cut(
    cutter: Cutter, payload: bytes, times: np.ndarray, rng: np.random.Generator, out: np.ndarray
) -> Exception | None:
    try:
        cutter(payload, times, rng, out)
    except DataError as error:
        return error
    except Exception as error:
        return _portable(error)
    return None


def _portable(error: Exception) -> Exception:
    """The error with the child's traceback, or what it says where it cannot be sent."""
    story = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(story)
    error.add_note(story)
    return error


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to hear
    try:
        _serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        sys.exit(0)
