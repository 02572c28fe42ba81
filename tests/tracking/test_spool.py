"""What MLflow was not told outlives the process that knew it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from orchestrator.storage import Storage
from orchestrator.tracking.live.queue import Dropped, Kept, LogEntry, Picture, Row, Sample, Standing
from orchestrator.tracking.live.run_logger import RunLogger
from orchestrator.tracking.live.spool import Spool
from orchestrator.tracking.run import RunRef
from tests.support.mlflow_runs import metric_history

ENTRIES: list[LogEntry] = [
    Row(10, 1_700_000_000_000, {"train/loss": 0.5, "bad": float("nan")}),
    Sample(1_700_000_000_500, {"system/node-0/cpu": 12.0}),
    Picture(10, "masks", "png", b"\x89PNG\x00\xff"),
    Kept(10, 1_700_000_001_000, "s3://b/step-00000010", {"rankme": 7.0}),
    Dropped(5),
    Standing((5, 10)),
]


def test_every_kind_of_entry_comes_back_as_it_was(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    Spool(storage, "0001-0001-00000").write(ENTRIES)
    found = Spool(storage, "0002-0001-00000").collect_earlier()
    assert [type(entry) for entry in found] == [type(entry) for entry in ENTRIES]
    assert found[1:] == ENTRIES[1:]
    assert json.dumps(vars(found[0])) == json.dumps(vars(ENTRIES[0]))  # NaN is not itself


def test_taking_over_keeps_what_is_taken_until_it_is_sent(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    Spool(storage, "0001-0001-00000").write(ENTRIES[:1])
    Spool(storage, "0001-0001-00001").write(ENTRIES[1:2])
    second = Spool(storage, "0001-0002-00000")
    assert len(second.collect_earlier()) == 2
    # This one dies too: the next finds all of it, once.
    third = Spool(storage, "0002-0001-00000")
    assert [type(entry) for entry in third.collect_earlier()] == [Row, Sample]
    third.write([])
    assert list(storage.files()) == []


def test_rows_of_a_dead_process_arrive_first_and_once(
    new_run: Callable[..., RunRef], tmp_path: Path
) -> None:
    ref, storage = new_run(), Storage(str(tmp_path))
    away = RunRef("http://127.0.0.1:9", ref.run_id, ref.experiment_id)
    dead = RunLogger(
        away, 0, spool=Spool(storage, "0001-0001-00000"), poll_interval_s=0.05, close_timeout_s=0.2
    )
    for step in (1, 2, 3):
        dead.log_metrics(step, {"train/loss": 1.0 / step})
    dead.pending_writer()()
    dead.log_metrics(4, {"train/loss": 0.25})
    # SIGKILL: neither closed nor sealed again. The next start is at step 3.
    next_spool = Spool(storage, "0002-0001-00000")
    alive = RunLogger(ref, 3, spool=next_spool, collect_earlier=True, poll_interval_s=0.05)
    for step in (4, 5):
        alive.log_metrics(step, {"train/loss": 1.0 / step})
    assert alive.close() == []
    assert metric_history(ref, "train/loss") == [(s, 1.0 / s) for s in range(1, 6)]
    assert list(storage.files()) == []
    dead.close()


def test_what_is_left_when_mlflow_stays_away_waits_for_the_next_run(
    new_run: Callable[..., RunRef], tmp_path: Path
) -> None:
    ref, storage = new_run(), Storage(str(tmp_path))
    away = RunRef("http://127.0.0.1:9", ref.run_id, ref.experiment_id)
    logger = RunLogger(
        away, 0, spool=Spool(storage, "0001-0001-00000"), poll_interval_s=0.05, close_timeout_s=0.2
    )
    logger.log_metrics(1, {"train/loss": 1.0})
    assert logger.close() == []
    later = RunLogger(
        ref, 1, spool=Spool(storage, "0002-0001-00000"), collect_earlier=True, poll_interval_s=0.05
    )
    assert later.close() == []
    assert metric_history(ref, "train/loss") == [(1, 1.0)]
