"""The queue between the training and MLflow."""

from orchestrator.tracking.live.queue import (
    Kept,
    LogEntry,
    LogQueue,
    Picture,
    Row,
    describe_entries,
)


def row(step: int) -> Row:
    return Row(step, step, {"loss": 1.0})


def test_entries_stay_until_they_have_arrived() -> None:
    backlog = LogQueue(10_000)
    for step in range(5):
        backlog.add(row(step))
    first = backlog.peek(2)
    assert first == [row(0), row(1)]
    assert backlog.peek(2) == first
    backlog.acknowledge(first)
    assert backlog.peek(9) == [row(2), row(3), row(4)]


def test_a_full_backlog_loses_the_oldest_rows_and_says_which() -> None:
    backlog = LogQueue(max_bytes=3 * row(0).size)
    for step in range(10, 60, 10):
        backlog.add(row(step))
    left = [entry for entry in backlog.peek(9) if isinstance(entry, Row)]
    assert [entry.step for entry in left] == [30, 40, 50]
    assert describe_entries(backlog.lost_entries) == "2 rows of metrics (steps 10 to 20)"


def test_a_checkpoint_is_never_what_must_go() -> None:
    backlog = LogQueue(max_bytes=row(0).size)
    backlog.add(Kept(1, 1, "somewhere", {}))
    backlog.add(row(1))
    backlog.add(row(2))
    assert [type(entry) for entry in backlog.peek(9)] == [Kept, Row]


def test_an_entry_that_was_dropped_while_it_was_sent_takes_no_other_with_it() -> None:
    backlog = LogQueue(max_bytes=2 * row(0).size)
    backlog.add(row(1))
    sent = backlog.peek(1)
    backlog.add(row(2))
    backlog.add(row(3))  # row 1 has to go while it is on its way
    backlog.acknowledge(sent)
    assert backlog.peek(9) == [row(2), row(3)]


def test_what_is_given_up_is_counted() -> None:
    backlog = LogQueue(10_000)
    entries: list[LogEntry] = [row(10), row(20), Picture(20, "masks", "png", b"1234")]
    for entry in entries:
        backlog.add(entry)
    backlog.discard_all()
    assert len(backlog) == 0
    assert (
        describe_entries(backlog.lost_entries) == "2 rows of metrics (steps 10 to 20), 1 pictures"
    )
