"""What the board remembers from one start of the workers to the next."""

from __future__ import annotations

import logging

import pytest

from orchestrator.errors import JobFailed
from orchestrator.training.control.coordinator import (
    MAX_ATTEMPTS_WITHOUT_PROGRESS,
    LocalCoordinator,
)
from orchestrator.training.control.log_forwarding import forward_warnings


def test_an_error_that_no_start_mends_ends_the_next_start() -> None:
    board = LocalCoordinator()
    assert (board.start_attempt(), board.start_attempt()) == (1, 2)
    board.report_fatal(JobFailed("the data is gone"))
    assert board.start_attempt() == 0


def test_starts_that_get_on_are_endless_and_those_in_vain_are_not() -> None:
    board = LocalCoordinator()
    for step in range(0, 500, 5):
        board.report_resume_step(step)
    board.report_worker_error("rank 1: TypeError: no such key")
    for _ in range(MAX_ATTEMPTS_WITHOUT_PROGRESS - 1):
        board.report_resume_step(495)
    with pytest.raises(JobFailed, match=r"died 4 times .* step 495 .* TypeError: no such key"):
        board.report_resume_step(495)


def test_it_may_go_back_once() -> None:
    board = LocalCoordinator()
    assert board.request_rollback()
    assert not board.request_rollback()


def test_warnings_of_workers_are_told_and_only_while_they_train() -> None:
    board, logger = LocalCoordinator(), logging.getLogger("orchestrator.storage")
    with forward_warnings(board, 3):
        logger.warning("the storage fails, retrying: %s", "disk full")
        logger.info("not for people")
    logger.warning("afterwards")
    assert board.read_status().messages == ["rank 3: the storage fails, retrying: disk full"]


def test_workers_that_die_before_any_step_are_not_started_for_ever() -> None:
    board = LocalCoordinator()
    for count in range(MAX_ATTEMPTS_WITHOUT_PROGRESS):
        assert board.start_attempt() == count + 1
        board.report_worker_error("rank 0: RuntimeError: boom", "Traceback ...")
    assert board.start_attempt() == 0
    fatal = board.read_status().fatal_error
    assert fatal is not None
    assert "before the first step; the last: rank 0: RuntimeError: boom" in str(fatal)
    assert fatal.details == "Traceback ..."


def test_starts_that_go_on_from_a_step_count_anew() -> None:
    board = LocalCoordinator()
    for step in range(2 * MAX_ATTEMPTS_WITHOUT_PROGRESS):
        assert board.start_attempt()
        board.report_resume_step(step)
