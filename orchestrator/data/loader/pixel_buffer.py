"""Shared memory for the pixels of micro-batches, which subprocesses write to.

Blocks are mapped once and reused as soon as nothing refers to the batch in them, so that no pixels
are copied and no new pages are requested from the system at every step.
"""

from __future__ import annotations

import itertools
import mmap
import os
import tempfile
import threading
import weakref
from dataclasses import dataclass

import numpy as np

_numbers = itertools.count()


@dataclass(frozen=True, eq=False)
class SharedMemoryBlock:
    """One block of shared memory."""

    id: int
    """Unique in this process."""

    fd: int
    """File descriptor by which another process maps it."""

    memory: mmap.mmap


VideoShape = tuple[int, int, int, int]
"""Shape of a clip's pixels: [T, size, size, 3]."""


class PixelBuffer:
    """The pixels of one micro-batch: uint8 [rows, T, size, size, 3]."""

    def __init__(self, array: np.ndarray, shared_memory: SharedMemoryBlock | None = None) -> None:
        self.array, self.shared_memory = array, shared_memory


class PixelBufferPool:
    """Pixel buffers of one shape, reused."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape, self._bytes = shape, int(np.prod(shape))
        self._free: list[SharedMemoryBlock] = []
        self._lock = threading.Lock()

    def acquire(self) -> PixelBuffer:
        """A free buffer. It returns to the pool when the last view of its array is gone."""
        with self._lock:
            block = self._free.pop() if self._free else self._make()
        array = np.frombuffer(block.memory, np.uint8).reshape(self._shape)
        # Tensors and views refer to the flat array below it, so its end frees the block.
        weakref.finalize(array.base, self._free.append, block).atexit = False
        return PixelBuffer(array, block)

    def _make(self) -> SharedMemoryBlock:
        fd = _create_memory_fd(self._bytes)
        return SharedMemoryBlock(next(_numbers), fd, mmap.mmap(fd, self._bytes))


def map_shared_memory(fd: int, shape: tuple[int, ...]) -> np.ndarray:
    """Map the memory in another process; `fd` is closed."""
    array = np.frombuffer(mmap.mmap(fd, int(np.prod(shape))), np.uint8).reshape(shape)
    os.close(fd)
    return array


def _create_memory_fd(size: int) -> int:
    """A file descriptor of `size` bytes: a memfd, or an unnamed temporary file without memfd."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("pixels")
    else:
        with tempfile.TemporaryFile() as disk:
            fd = os.dup(disk.fileno())
    os.ftruncate(fd, size)
    return fd
