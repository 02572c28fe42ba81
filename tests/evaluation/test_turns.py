"""Whose turn it is: one at a time, the newest of each, nothing piles up."""

from __future__ import annotations

from orchestrator.evaluation.in_training.queue import EvaluationQueue, PendingEvaluation


def test_while_one_runs_only_the_newest_waits() -> None:
    turns = EvaluationQueue()
    turns.enqueue(PendingEvaluation("physics", 100))
    assert turns.start_next() == PendingEvaluation("physics", 100)
    assert turns.superseded_by(PendingEvaluation("physics", 200)) is None
    turns.enqueue(PendingEvaluation("physics", 200))
    assert turns.start_next() is None, "one runs"
    assert turns.superseded_by(PendingEvaluation("physics", 300)) == PendingEvaluation(
        "physics", 200
    )
    turns.enqueue(PendingEvaluation("physics", 300))
    turns.enqueue(PendingEvaluation("physics", 400))
    assert turns.waiting == [PendingEvaluation("physics", 400)]
    turns.mark_done()
    assert turns.start_next() == PendingEvaluation("physics", 400)
    assert not turns.is_idle
    turns.mark_done()
    assert turns.is_idle


def test_what_was_offered_is_not_offered_again() -> None:
    turns = EvaluationQueue()
    turns.enqueue(PendingEvaluation("physics", 200))
    for again in (200, 100):
        assert not turns.is_new(PendingEvaluation("physics", again))
        assert turns.superseded_by(PendingEvaluation("physics", again)) is None
        turns.enqueue(PendingEvaluation("physics", again))
    assert turns.waiting == [PendingEvaluation("physics", 200)]
    turns.start_next()
    turns.mark_done()
    turns.enqueue(PendingEvaluation("physics", 200))
    assert turns.is_idle


def test_evaluations_take_turns_and_a_newer_step_keeps_the_place_in_the_queue() -> None:
    turns = EvaluationQueue()
    turns.enqueue(PendingEvaluation("a", 100))
    turns.start_next()
    turns.enqueue(PendingEvaluation("b", 100))
    turns.enqueue(PendingEvaluation("a", 200))
    turns.enqueue(PendingEvaluation("b", 200))
    order = []
    while not turns.is_idle:
        turns.mark_done()
        order.append(turns.start_next())
    assert order == [PendingEvaluation("b", 200), PendingEvaluation("a", 200), None]


def test_what_cannot_be_judged_waits_no_more() -> None:
    turns = EvaluationQueue()
    turns.enqueue(PendingEvaluation("physics", 100))
    turns.remove(PendingEvaluation("physics", 100))
    assert turns.is_idle
    turns.enqueue(PendingEvaluation("physics", 100))
    assert turns.is_idle, "nor is it tried again"
