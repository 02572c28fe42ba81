"""What a worker's code logs as a warning is told to the person at the terminal."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.training.control.coordinator import Board

ROOT = "orchestrator"


class _Board(logging.Handler):
    def __init__(self, board: Board, rank: int) -> None:
        super().__init__(logging.WARNING)
        self._board, self._rank = board, rank

    def emit(self, record: logging.LogRecord) -> None:
        self._board.message(f"rank {self._rank}: {record.getMessage()}")


@contextmanager
def warnings_told(board: Board, rank: int) -> Iterator[None]:
    """Within it, warnings of this package go to the board as well as where they went."""
    handler, logger = _Board(board, rank), logging.getLogger(ROOT)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
