"""What a worker's code logs as a warning is told to the person at the terminal."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.training.control.coordinator import RunCoordinator

PACKAGE_LOGGER = "orchestrator"


class _CoordinatorHandler(logging.Handler):
    def __init__(self, board: RunCoordinator, rank: int) -> None:
        super().__init__(logging.WARNING)
        self._board, self._rank = board, rank

    def emit(self, record: logging.LogRecord) -> None:
        self._board.notify(f"rank {self._rank}: {record.getMessage()}")


@contextmanager
def forward_warnings(board: RunCoordinator, rank: int) -> Iterator[None]:
    """Within it, warnings of this package go to the board as well as where they went."""
    handler, logger = _CoordinatorHandler(board, rank), logging.getLogger(PACKAGE_LOGGER)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
