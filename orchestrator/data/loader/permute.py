"""A keyed permutation of range(n) that is computed element by element, in O(1) memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = 8


def mix(value: Words) -> Words:
    """splitmix64's finaliser: uint64 in, well-mixed uint64 out."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def subkeys(key: int, numbers: np.ndarray) -> Words:
    """One uint64 key per number (a window's, say), derived from one key."""
    return mix(np.uint64(key) + (numbers.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def permute(index: np.ndarray, size: np.ndarray, key: Words) -> np.ndarray:
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
        out[todo] = _network(out[todo], rows[todo], columns[todo], key[todo])
        todo = todo[out[todo] >= size[todo].astype(np.uint64)]
    return out.astype(np.int64)


def _network(value: Words, rows: Words, columns: Words, key: Words) -> Words:
    row, column = value // columns, value % columns
    for number in range(0, _ROUNDS, 2):
        row = (row + mix(column ^ mix(key + np.uint64(number)))) % rows
        column = (column + mix(row ^ mix(key + np.uint64(number + 1)))) % columns
    return row * columns + column
