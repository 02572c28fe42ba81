"""`orchestrator data`: what is wrong with a dataset is an exit code too."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

import orchestrator.data.packing.verify
from orchestrator.cli import main
from orchestrator.cli.data import train_job_of
from orchestrator.data.store.index import DatasetIndex
from orchestrator.errors import RequestError


@pytest.mark.parametrize(
    ("problems", "code", "said"),
    [([], 0, "48 clips, 10 read, all as indexed"), (["a.tar is missing"], 1, "a.tar is missing")],
)
def test_verify(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    problems: list[str],
    code: int,
    said: str,
) -> None:
    index = SimpleNamespace(num_clips=48, digest="ab12")
    monkeypatch.setattr(DatasetIndex, "open", lambda uri: index)
    monkeypatch.setattr(
        orchestrator.data.packing.verify, "verify_dataset", lambda index, clips: problems
    )
    for extra in ([], ["--json"]):
        argv = ["orchestrator", "data", "verify", "some/dataset", "--clips", "10", *extra]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == code
        out = capsys.readouterr().out
        if extra:
            assert json.loads(out)["wrong"] == problems
        else:
            assert said in out


def test_a_source_is_as_good_as_a_job() -> None:
    job = train_job_of("physics://mixed?clips=8", ["data.size=64"])
    assert (job.data.source, job.data.size) == ("physics://mixed?clips=8", 64)
    with pytest.raises(RequestError, match="no such file"):
        train_job_of("missing.yaml", [])
