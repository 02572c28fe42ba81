"""A keyed permutation of range(n) that is computed element by element, in O(1) memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

UInt64Array = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = 8


def splitmix64(value: UInt64Array) -> UInt64Array:
    """splitmix64's finaliser: uint64 in, well-mixed uint64 out."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def derive_keys(key: int, numbers: np.ndarray) -> UInt64Array:
    """One uint64 key per number (a window's, say), derived from one key."""
    return splitmix64(np.uint64(key) + (numbers.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def permute(index: np.ndarray, size: np.ndarray, key: UInt64Array) -> np.ndarray:
    """Where the permutation of `range(size)` that `key` names sends `index`; all int64 [n].

    A Feistel network over the smallest rectangle a x b that holds the range, walked along
    its cycle until it lands inside (the rectangle is larger by less than a row, so rarely
    more than once). Each element may have a size and a key of its own.
    """
    rows = np.ceil(np.sqrt(size)).astype(np.uint64)
    columns = (size.astype(np.uint64) + rows - np.uint64(1)) // rows
    out = index.astype(np.uint64)
    todo = np.arange(len(out))
    while len(todo):
        out[todo] = _feistel(out[todo], rows[todo], columns[todo], key[todo])
        todo = todo[out[todo] >= size[todo].astype(np.uint64)]
    return out.astype(np.int64)


def _feistel(
    value: UInt64Array, rows: UInt64Array, columns: UInt64Array, key: UInt64Array
) -> UInt64Array:
    row, column = value // columns, value % columns
    for number in range(0, _ROUNDS, 2):
        row = (row + splitmix64(column ^ splitmix64(key + np.uint64(number)))) % rows
        column = (column + splitmix64(row ^ splitmix64(key + np.uint64(number + 1)))) % columns
    return row * columns + column
