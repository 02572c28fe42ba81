"""Making clips in processes beside the training step, one to a thread that asks.

Threads would wait for each other's interpreter lock, and for that of the training step: with
tiny frames two threads decode no faster than one. And a video that crashes FFmpeg takes a child
with it instead of the training. A child imports neither torch nor Ray; it ends when its pipe does.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import traceback
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle

import numpy as np

from orchestrator.data.loader.clip_decoder import AnyRecipe, Clip, Coded
from orchestrator.data.loader.pixel_buffer import Canvas, PixelPool, mapped

CHUNK_BYTES = 1_000_000
"""Pixels of the clips that are asked for at once: every question and answer wakes this process,
which tiny clips would do thousands of times a second."""

_PATIENCE_S = 5.0


class IsolatedMaker:
    """A `ClipMaker` whose work is done by children; each calling thread has its own.

    A clip that crashes two children in a row is unusable; one may have been killed for the memory
    that others took.
    """

    def __init__(self, recipe: AnyRecipe, micro: int) -> None:
        self._recipe, self._micro = recipe, micro
        self._here = recipe.maker(micro)
        self._pools = [PixelPool((micro, *shape)) for shape in recipe.shapes]
        self._mine = threading.local()
        self._all: list[_Child] = []
        self._lock = threading.Lock()
        largest = max(int(np.prod(shape)) for shape in recipe.shapes)
        self.chunk = max(1, CHUNK_BYTES // largest)
        """Clips of one call, for the least waking up."""

    def canvas(self, spec: int = 0) -> Canvas:
        return self._pools[spec].canvas()

    def make(self, rows: list[Coded], canvas: Canvas, at: int) -> list[Clip]:
        answer = self._ask(rows, canvas, at)
        if isinstance(answer, list):
            return answer
        return [self._alone(row, canvas, at + i) for i, row in enumerate(rows)]

    def close(self) -> None:
        for child in self._all:
            child.close()

    def _alone(self, row: Coded, canvas: Canvas, at: int) -> Clip:
        """One of several clips of which one has crashed a child."""
        for _ in range(2):
            answer = self._ask([row], canvas, at)
            if isinstance(answer, list):
                return answer[0]
        return self._here.failed(row, f"crashes the decoder ({answer})", canvas.array[at])

    def _ask(self, rows: list[Coded], canvas: Canvas, at: int) -> list[Clip] | str:
        """The clips, or how the child that should make them ended."""
        child = self._child()
        try:
            answer = child.make(rows, canvas, at)
        except (EOFError, OSError):
            del self._mine.child
            return child.ended()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _child(self) -> _Child:
        if not hasattr(self._mine, "child"):
            self._mine.child = _Child(self._recipe, self._micro)
            with self._lock:
                self._all = [*(child for child in self._all if child.lives), self._mine.child]
        child: _Child = self._mine.child
        return child


class _Child:
    """One process, and the pipe to it."""

    def __init__(self, recipe: AnyRecipe, micro: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self._pipe = Connection(ours.detach())
        self._pipe.send((recipe, micro))
        self._knows: set[int] = set()

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def make(self, rows: list[Coded], canvas: Canvas, at: int) -> list[Clip] | Exception:
        """The clips, their pixels being in the canvas, or what was raised there."""
        pages = canvas.pages
        assert pages is not None
        without = [replace(row, payload=row.payload is not None) for row in rows]
        self._pipe.send((pages.number, canvas.array.shape, at, without))
        if pages.number not in self._knows:
            send_handle(self._pipe, pages.file, self._process.pid)
            self._knows.add(pages.number)
        for row in rows:
            if row.payload is not None:
                self._pipe.send_bytes(row.payload)
        answer: list[Clip] | Exception = self._pipe.recv()
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


def _serve(pipe: Connection) -> None:
    """The child's life: coded clips in, pixels into the shared memory, an answer out."""
    recipe, micro = pipe.recv()
    maker = recipe.maker(micro)
    known: dict[int, Canvas] = {}
    while True:
        number, shape, at, rows = pipe.recv()
        if number not in known:
            known[number] = Canvas(mapped(recv_handle(pipe), shape))
        rows = [_received(row, pipe) for row in rows]
        answer: list[Clip] | Exception
        try:
            answer = maker.make(rows, known[number], at)
        except Exception as error:
            answer = _portable(error)
        pipe.send(answer)


def _received(row: Coded, pipe: Connection) -> Coded:
    return replace(row, payload=pipe.recv_bytes() if row.payload else None)


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
        _serve(Connection(int(sys.argv[1])))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        sys.exit(0)
