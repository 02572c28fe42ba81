"""Whose turn it is: one at a time, the newest of each, nothing piles up."""

from __future__ import annotations

from orchestrator.evaluation.in_training.queue import Turn, Turns


def test_while_one_runs_only_the_newest_waits() -> None:
    turns = Turns()
    turns.offer(Turn("physics", 100))
    assert turns.start() == Turn("physics", 100)
    assert turns.skipped_for(Turn("physics", 200)) is None
    turns.offer(Turn("physics", 200))
    assert turns.start() is None, "one runs"
    assert turns.skipped_for(Turn("physics", 300)) == Turn("physics", 200)
    turns.offer(Turn("physics", 300))
    turns.offer(Turn("physics", 400))
    assert turns.waiting == [Turn("physics", 400)]
    turns.done()
    assert turns.start() == Turn("physics", 400)
    assert not turns.idle
    turns.done()
    assert turns.idle


def test_what_was_offered_is_not_offered_again() -> None:
    turns = Turns()
    turns.offer(Turn("physics", 200))
    for again in (200, 100):
        assert not turns.is_new(Turn("physics", again))
        assert turns.skipped_for(Turn("physics", again)) is None
        turns.offer(Turn("physics", again))
    assert turns.waiting == [Turn("physics", 200)]
    turns.start()
    turns.done()
    turns.offer(Turn("physics", 200))
    assert turns.idle


def test_evaluations_take_turns_and_a_newer_step_keeps_the_place_in_the_queue() -> None:
    turns = Turns()
    turns.offer(Turn("a", 100))
    turns.start()
    turns.offer(Turn("b", 100))
    turns.offer(Turn("a", 200))
    turns.offer(Turn("b", 200))
    order = []
    while not turns.idle:
        turns.done()
        order.append(turns.start())
    assert order == [Turn("b", 200), Turn("a", 200), None]


def test_what_cannot_be_judged_waits_no_more() -> None:
    turns = Turns()
    turns.offer(Turn("physics", 100))
    turns.withdraw(Turn("physics", 100))
    assert turns.idle
    turns.offer(Turn("physics", 100))
    assert turns.idle, "nor is it tried again"
