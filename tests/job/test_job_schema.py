"""The schema that a person reads, and the job files of the project."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from orchestrator.errors import RequestError
from orchestrator.job import job_schema, load_job
from orchestrator.job.schema_listing import schema_lines

JOBS = sorted((Path(__file__).parents[2] / "jobs").rglob("*.yaml"))


@pytest.mark.parametrize("path", JOBS, ids=lambda path: str(path.relative_to(path.parents[1])))
def test_every_job_file_of_the_project_is_valid(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])  # paths in a job are taken from there
    load_job(path)


@pytest.mark.parametrize("kind", ["train", "pack", "study"])
def test_every_key_says_what_it_is(kind: str) -> None:
    lines = [line for line in schema_lines(kind) if not line.key.startswith("#")]
    assert len(lines) > 15
    assert [line.key for line in lines if len(line.text) < 8] == []
    assert [line.key for line in lines if line.value == "..." and "required" not in line.type] == []


def test_defaults_in_the_listing_are_the_ones_that_hold(job_file: Path) -> None:
    job = load_job(job_file)
    assert job.kind == "train"
    shown = {line.key: line.value for line in schema_lines("train") if line.indent == 1}
    for key, value in job.scale.model_dump(mode="json").items():
        assert yaml.safe_load(shown[key]) == value


def test_a_kind_that_is_not_there() -> None:
    with pytest.raises(RequestError, match="did you mean 'train'"):
        job_schema("trian")
