"""Whose run it is, across releases."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import RequestError
from orchestrator.job import TrainJob, build_job
from orchestrator.storage import Storage
from orchestrator.training.run_record import open_record


def a_job(*changes: str) -> TrainJob:
    job = build_job(
        {"kind": "train", "name": "t", "data": {"source": "videos"}, "optim": {"steps": 5}},
        list(changes),
    )
    assert isinstance(job, TrainJob)
    return job


def test_a_run_of_a_release_without_a_key_goes_on_with_its_default(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path))
    record = open_record(a_job(), folder, "d", fresh=False)
    del record.identity["optim.clip"], record.job["optim"]["clip"]
    record.launches = 3
    record.save(folder)
    assert open_record(a_job(), folder, "d", fresh=False).launches == 3
    with pytest.raises(RequestError, match=r"optim.clip: 0.0 -> 0.5"):
        open_record(a_job("optim.clip=0.5"), folder, "d", fresh=False)


def test_a_job_that_this_release_cannot_read_is_compared_as_it_was_written(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path))
    record = open_record(a_job(), folder, "d", fresh=False)
    record.job["optim"]["gone"] = 1
    record.save(folder)
    open_record(a_job(), folder, "d", fresh=False)
    with pytest.raises(RequestError, match=r"seed: 0 -> 1"):
        open_record(a_job("seed=1"), folder, "d", fresh=False)
