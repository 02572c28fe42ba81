"""Decodes clips in subprocesses, one per calling thread, in parallel with the training step.

Threads alone would compete with each other and with the training step for the interpreter lock:
with tiny frames two threads decode no faster than one. And a video that crashes FFmpeg ends a child
process instead of the training. A child imports neither torch nor Ray; it exits when its pipe is
closed.
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
"""Bytes of pixels per request: requests and answers interrupt this process, which with tiny clips
would happen thousands of times a second."""

_EXIT_TIMEOUT_S = 5.0


class SubprocessDecoder:
    """A `ClipDecoder` that decodes in child processes, one per calling thread.

    A clip is unusable if it crashes two children in a row: one alone may have been killed because
    memory ran out.
    """

    def __init__(self, config: DecodeConfig, micro: int) -> None:
        self._config, self._micro = config, micro
        self._in_process = config.build_decoder(micro)
        self._pools = [PixelBufferPool((micro, *shape)) for shape in config.shapes]
        self._thread_local = threading.local()
        self._processes: list[_DecoderProcess] = []
        self._lock = threading.Lock()
        largest = max(int(np.prod(shape)) for shape in config.shapes)
        self.clips_per_request = max(1, REQUEST_BYTES // largest)
        """Clips per call of `decode` for which `REQUEST_BYTES` are reached."""

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

    def _decode_single(self, row: EncodedClip, buffer: PixelBuffer, first_row: int) -> DecodedClip:
        """Decode one of several clips, one of which has crashed a child."""
        for _ in range(2):
            answer = self._request([row], buffer, first_row)
            if isinstance(answer, list):
                return answer[0]
        return self._in_process.failed_clip(
            row, f"crashes the decoder ({answer})", buffer.array[first_row]
        )

    def _request(
        self, rows: list[EncodedClip], buffer: PixelBuffer, first_row: int
    ) -> list[DecodedClip] | str:
        """The clips, or how the child process ended.

        Raises:
            Exception: the error that was raised in the child.
        """
        child = self._process_of_thread()
        try:
            answer = child.decode(rows, buffer, first_row)
        except (EOFError, OSError):
            del self._thread_local.child
            return child.exit_reason()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _process_of_thread(self) -> _DecoderProcess:
        if not hasattr(self._thread_local, "child"):
            self._thread_local.child = _DecoderProcess(self._config, self._micro)
            with self._lock:
                self._processes = [
                    *(child for child in self._processes if child.is_alive),
                    self._thread_local.child,
                ]
        child: _DecoderProcess = self._thread_local.child
        return child


class _DecoderProcess:
    """A child process, and the pipe to it."""

    def __init__(self, config: DecodeConfig, micro: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self._pipe = Connection(ours.detach())
        self._pipe.send((config, micro))
        self._sent_buffers: set[int] = set()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def decode(
        self, rows: list[EncodedClip], buffer: PixelBuffer, first_row: int
    ) -> list[DecodedClip] | Exception:
        """The clips, with their pixels in the buffer, or the error that was raised in the child."""
        memory = buffer.shared_memory
        assert memory is not None
        rows_without_payload = [replace(row, payload=row.payload is not None) for row in rows]
        self._pipe.send((memory.id, buffer.array.shape, first_row, rows_without_payload))
        if memory.id not in self._sent_buffers:
            send_handle(self._pipe, memory.fd, self._process.pid)
            self._sent_buffers.add(memory.id)
        for row in rows:
            if row.payload is not None:
                self._pipe.send_bytes(row.payload)
        answer: list[DecodedClip] | Exception = self._pipe.recv()
        return answer

    def exit_reason(self) -> str:
        """How the process ended, for messages: a signal or an exit code."""
        self._pipe.close()
        code = self._process.wait(_EXIT_TIMEOUT_S)
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def close(self) -> None:
        self._pipe.close()
        try:
            self._process.wait(_EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _serve(pipe: Connection) -> None:
    """The child's loop: receive clips, decode into shared memory, send the results."""
    config, micro = pipe.recv()
    decoder = config.build_decoder(micro)
    buffers: dict[int, PixelBuffer] = {}
    while True:
        memory_id, shape, first_row, rows = pipe.recv()
        if memory_id not in buffers:
            buffers[memory_id] = PixelBuffer(map_shared_memory(recv_handle(pipe), shape))
        rows = [_receive_payload(row, pipe) for row in rows]
        answer: list[DecodedClip] | Exception
        try:
            answer = decoder.decode(rows, buffers[memory_id], first_row)
        except Exception as error:
            answer = _picklable(error)
        pipe.send(answer)


def _receive_payload(row: EncodedClip, pipe: Connection) -> EncodedClip:
    return replace(row, payload=pipe.recv_bytes() if row.payload else None)


def _picklable(error: Exception) -> Exception:
    """The error with the child's traceback as a note, or its text if it cannot be pickled."""
    text = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(text)
    error.add_note(text)
    return error


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    try:
        _serve(Connection(int(sys.argv[1])))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        sys.exit(0)
