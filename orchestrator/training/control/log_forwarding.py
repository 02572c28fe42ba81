"""What a worker's code logs as a warning is told to the person at the terminal."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.training.control.coordinator import RunCoordinator

PACKAGE_LOGGER = "orchestrator"


class _CoordinatorHandler(logging.Handler):
    def __init__(self, coordinator: RunCoordinator, rank: int) -> None:
        super().__init__(logging.WARNING)
        self._coordinator, self._rank = coordinator, rank

    def emit(self, record: logging.LogRecord) -> None:
        self._coordinator.notify(f"rank {self._rank}: {record.getMessage()}")


@contextmanager
def forward_warnings(coordinator: RunCoordinator, rank: int) -> Iterator[None]:
    """Within it, warnings of this package go to the coordinator as well."""
    handler, logger = _CoordinatorHandler(coordinator, rank), logging.getLogger(PACKAGE_LOGGER)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
