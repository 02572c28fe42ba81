"""What the board remembers from one start of the workers to the next."""

from __future__ import annotations

import logging

import pytest

from orchestrator.errors import JobFailed
from orchestrator.training.control.coordinator import MOST_IN_VAIN, LocalBoard
from orchestrator.training.control.log_forwarding import warnings_told


def test_an_error_that_no_start_mends_ends_the_next_start() -> None:
    board = LocalBoard()
    assert (board.begin_attempt(), board.begin_attempt()) == (1, 2)
    board.fail(JobFailed("the data is gone"))
    assert board.begin_attempt() == 0


def test_starts_that_get_on_are_endless_and_those_in_vain_are_not() -> None:
    board = LocalBoard()
    for step in range(0, 500, 5):
        board.begins_at(step)
    board.died("rank 1: TypeError: no such key")
    for _ in range(MOST_IN_VAIN - 1):
        board.begins_at(495)
    with pytest.raises(JobFailed, match=r"died 4 times .* step 495 .* TypeError: no such key"):
        board.begins_at(495)


def test_it_may_go_back_once() -> None:
    board = LocalBoard()
    assert board.roll_back()
    assert not board.roll_back()


def test_warnings_of_workers_are_told_and_only_while_they_train() -> None:
    board, logger = LocalBoard(), logging.getLogger("orchestrator.storage")
    with warnings_told(board, 3):
        logger.warning("the storage fails and is tried again: %s", "disk full")
        logger.info("not for people")
    logger.warning("afterwards")
    assert board.read().messages == ["rank 3: the storage fails and is tried again: disk full"]


def test_workers_that_die_before_any_step_are_not_started_for_ever() -> None:
    board = LocalBoard()
    for count in range(MOST_IN_VAIN):
        assert board.begin_attempt() == count + 1
        board.died("rank 0: RuntimeError: boom", "Traceback ...")
    assert board.begin_attempt() == 0
    fatal = board.read().fatal
    assert fatal is not None
    assert "before the first step; the last: rank 0: RuntimeError: boom" in str(fatal)
    assert fatal.details == "Traceback ..."


def test_starts_that_go_on_from_a_step_count_anew() -> None:
    board = LocalBoard()
    for step in range(2 * MOST_IN_VAIN):
        assert board.begin_attempt()
        board.begins_at(step)
