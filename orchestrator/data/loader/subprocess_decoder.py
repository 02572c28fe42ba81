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

from orchestrator.data.loader.clip import DecodedClip, EncodedClip
from orchestrator.data.loader.clip_decoder import DecodeConfig
from orchestrator.data.loader.pixel_buffer import PixelBuffer, PixelBufferPool, map_shared_memory

REQUEST_BYTES = 1_000_000
"""Pixels of the clips that are asked for at once: every question and answer wakes this process,
which tiny clips would do thousands of times a second."""

_PATIENCE_S = 5.0


class SubprocessDecoder:
    """A `ClipDecoder` whose work is done by children; each calling thread has its own.

    A clip that crashes two children in a row is unusable; one may have been killed for the memory
    that others took.
    """

    def __init__(self, recipe: DecodeConfig, micro: int) -> None:
        self._recipe, self._micro = recipe, micro
        self._in_process = recipe.build_decoder(micro)
        self._pools = [PixelBufferPool((micro, *shape)) for shape in recipe.shapes]
        self._thread_local = threading.local()
        self._processes: list[_DecoderProcess] = []
        self._lock = threading.Lock()
        largest = max(int(np.prod(shape)) for shape in recipe.shapes)
        self.clips_per_request = max(1, REQUEST_BYTES // largest)
        """Clips of one call, for the least waking up."""

    def new_buffer(self, spec: int = 0) -> PixelBuffer:
        return self._pools[spec].acquire()

    def decode(
        self, rows: list[EncodedClip], buffer: PixelBuffer, first_row: int
    ) -> list[DecodedClip]:
        answer = self._request(rows, buffer, first_row)
        if isinstance(answer, list):
            return answer
        return [self._decode_single(row, buffer, first_row + i) for i, row in enumerate(rows)]

    def close(self) -> None:
        for child in self._processes:
            child.close()

    def _decode_single(self, row: EncodedClip, canvas: PixelBuffer, at: int) -> DecodedClip:
        """One of several clips of which one has crashed a child."""
        for _ in range(2):
            answer = self._request([row], canvas, at)
            if isinstance(answer, list):
                return answer[0]
        return self._in_process.failed_clip(
            row, f"crashes the decoder ({answer})", canvas.array[at]
        )

    def _request(
        self, rows: list[EncodedClip], canvas: PixelBuffer, at: int
    ) -> list[DecodedClip] | str:
        """The clips, or how the child that should make them ended."""
        child = self._process_of_thread()
        try:
            answer = child.decode(rows, canvas, at)
        except (EOFError, OSError):
            del self._thread_local.child
            return child.exit_reason()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _process_of_thread(self) -> _DecoderProcess:
        if not hasattr(self._thread_local, "child"):
            self._thread_local.child = _DecoderProcess(self._recipe, self._micro)
            with self._lock:
                self._processes = [
                    *(child for child in self._processes if child.is_alive),
                    self._thread_local.child,
                ]
        child: _DecoderProcess = self._thread_local.child
        return child


class _DecoderProcess:
    """One process, and the pipe to it."""

    def __init__(self, recipe: DecodeConfig, micro: int) -> None:
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
        self._sent_buffers: set[int] = set()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def decode(
        self, rows: list[EncodedClip], canvas: PixelBuffer, at: int
    ) -> list[DecodedClip] | Exception:
        """The clips, their pixels being in the canvas, or what was raised there."""
        pages = canvas.shared_memory
        assert pages is not None
        without = [replace(row, payload=row.payload is not None) for row in rows]
        self._pipe.send((pages.id, canvas.array.shape, at, without))
        if pages.id not in self._sent_buffers:
            send_handle(self._pipe, pages.fd, self._process.pid)
            self._sent_buffers.add(pages.id)
        for row in rows:
            if row.payload is not None:
                self._pipe.send_bytes(row.payload)
        answer: list[DecodedClip] | Exception = self._pipe.recv()
        return answer

    def exit_reason(self) -> str:
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
    decoder = recipe.build_decoder(micro)
    known: dict[int, PixelBuffer] = {}
    while True:
        number, shape, at, rows = pipe.recv()
        if number not in known:
            known[number] = PixelBuffer(map_shared_memory(recv_handle(pipe), shape))
        rows = [_received(row, pipe) for row in rows]
        answer: list[DecodedClip] | Exception
        try:
            answer = decoder.decode(rows, known[number], at)
        except Exception as error:
            answer = _picklable(error)
        pipe.send(answer)


def _received(row: EncodedClip, pipe: Connection) -> EncodedClip:
    return replace(row, payload=pipe.recv_bytes() if row.payload else None)


def _picklable(error: Exception) -> Exception:
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
