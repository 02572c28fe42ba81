"""Memory for the pixels of micro-batches that other processes write to.

It is mapped once and used again as soon as nothing refers to the batch that lay in it, so that
no pixels are copied and no fresh pages are asked of the system at every step.
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
    """One stretch of memory; `id` is its own in this process, `fd` is what another process maps
    it by."""

    id: int
    fd: int
    memory: mmap.mmap


VideoShape = tuple[int, int, int, int]
"""Of a clip's pixels: [T, size, size, 3]."""


class PixelBuffer:
    """The pixels of one micro-batch: uint8 [rows, T, size, size, 3]."""

    def __init__(self, array: np.ndarray, pages: SharedMemoryBlock | None = None) -> None:
        self.array, self.shared_memory = array, pages


class PixelBufferPool:
    """Canvases of one shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape, self._bytes = shape, int(np.prod(shape))
        self._free: list[SharedMemoryBlock] = []
        self._num_blocks = 0
        self._lock = threading.Lock()

    def acquire(self) -> PixelBuffer:
        """Memory that nothing refers to. It comes back when the last view of its array is gone."""
        with self._lock:
            pages = self._free.pop() if self._free else self._make()
        array = np.frombuffer(pages.memory, np.uint8).reshape(self._shape)
        # A tensor made of the array holds it, or the flat one below it: that one's end counts.
        weakref.finalize(array.base, self._free.append, pages).atexit = False
        return PixelBuffer(array, pages)

    def _make(self) -> SharedMemoryBlock:
        self._num_blocks += 1
        file = _create_memory_fd(self._bytes)
        return SharedMemoryBlock(next(_numbers), file, mmap.mmap(file, self._bytes))


def map_shared_memory(fd: int, shape: tuple[int, ...]) -> np.ndarray:
    """The same memory in another process; `file` is closed."""
    array = np.frombuffer(mmap.mmap(fd, int(np.prod(shape))), np.uint8).reshape(shape)
    os.close(fd)
    return array


def _create_memory_fd(size: int) -> int:
    """A descriptor of memory; where there is no memfd, of a file without a name."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("pixels")
    else:
        with tempfile.TemporaryFile() as disk:
            file = os.dup(disk.fileno())
    os.ftruncate(file, size)
    return file
