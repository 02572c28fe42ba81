"""One name, one live job: sent, attached to, refused; states and exit codes in our words."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.cli.submit import exit_code
from orchestrator.cluster_profile import PROFILES, Profile
from orchestrator.clusters import submit as sending
from orchestrator.clusters.backend import SubmissionStatus
from orchestrator.clusters.ray_jobs.backend import RayJobsBackend
from orchestrator.clusters.submit import submit
from orchestrator.errors import RequestError
from orchestrator.job import Job, build_job


class FakeRay:
    """Ray's job server, as far as the backend asks it."""

    def __init__(self) -> None:
        self.jobs: dict[str, Any] = {}
        self.refusals: list[str] = []

    def submit_job(self, **sent: Any) -> str:
        if self.refusals:
            raise RuntimeError(self.refusals.pop(0))
        found = SimpleNamespace(
            submission_id=sent["submission_id"],
            status="RUNNING",
            metadata=sent["metadata"],
            driver_exit_code=None,
            start_time=1000 * (1 + len(self.jobs)),
            end_time=None,
            message="",
            sent=sent,
        )
        self.jobs[found.submission_id] = found
        return str(found.submission_id)

    def list_jobs(self) -> list[Any]:
        return list(self.jobs.values())

    def get_job_info(self, number: str) -> Any:
        return self.jobs[number]

    def stop_job(self, number: str) -> bool:
        self.end(number, "FAILED", 143)
        return True

    def end(self, number: str, status: str, code: int | None) -> None:
        found = self.jobs[number]
        found.status, found.driver_exit_code, found.end_time = status, code, 9000


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setattr(RayJobsBackend, "_client", fake)
    monkeypatch.setattr(sending, "page_links", lambda *given: {})
    (tmp_path / "part.py").write_text("A = 1\n")
    monkeypatch.chdir(tmp_path)
    return fake


def profile() -> Profile:
    nodes = {"head": {"cpus": 2, "memory": "4GiB"}}
    given = {"kind": "local", "name": "here", "address": "http://127.0.0.1:1", "nodes": nodes}
    return PROFILES["local"].model_validate(given)


def job(**changes: Any) -> Job:
    return build_job({"kind": "pack", "name": "p", "source": "s3://videos", **changes})


def send(**changes: Any) -> sending.SubmitResult:
    return submit(job(**changes), profile(), doctor=False)


def test_a_name_is_sent_once_while_it_lives(ray: FakeRay) -> None:
    first = send()
    assert (first.row.id, first.row.state, first.attached) == ("p--1", "running", False)
    assert send().attached
    assert len(ray.jobs) == 1
    with pytest.raises(RequestError, match=r"bad_limit: 0\.01 -> 0\.5"):
        send(bad_limit=0.5)
    ray.end("p--1", "SUCCEEDED", 0)
    assert send().row.id == "p--2"


def test_changed_code_under_a_live_job_is_said(ray: FakeRay, tmp_path: Path) -> None:
    send()
    (tmp_path / "part.py").write_text("A = 2\n")
    (note,) = send().notes
    assert "code here has changed" in note


def test_nothing_secret_is_sent(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "very-secret")
    send()
    assert "very-secret" not in str(ray.jobs["p--1"].sent)


@pytest.mark.parametrize(
    ("status", "code", "state", "exits"),
    [
        ("SUCCEEDED", 0, "done", 0),
        ("FAILED", 1, "failed", 1),
        ("FAILED", 2, "failed", 2),
        ("FAILED", 143, "stopped", 143),
        ("FAILED", -15, "stopped", 143),
        ("FAILED", None, "failed", 1),
        ("STOPPED", None, "stopped", 143),
    ],
)
def test_ends_in_the_words_of_all_backends(
    ray: FakeRay, status: str, code: int | None, state: str, exits: int
) -> None:
    send()
    ray.end("p--1", status, code)
    row = RayJobsBackend(profile()).status("p")
    assert (row.state, exit_code(row)) == (state, exits)


def test_stop_waits_for_a_clean_end(ray: FakeRay) -> None:
    send()
    backend = RayJobsBackend(profile())
    backend.stop("p")
    assert backend.status("p").state == "stopped"
    sent = ray.jobs["p--1"].sent
    assert int(sent["runtime_env"]["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 600


def test_the_last_of_a_name_counts_and_others_jobs_do_not(ray: FakeRay) -> None:
    send()
    ray.end("p--1", "FAILED", 1)
    send()
    send(name="q")
    foreign = SimpleNamespace(**{**vars(ray.jobs["p--1"]), "metadata": {}, "submission_id": "x"})
    ray.jobs["x"] = foreign
    rows: list[SubmissionStatus] = RayJobsBackend(profile()).list_submissions()
    assert [row.id for row in rows] == ["q--1", "p--2"]
    with pytest.raises(RequestError, match="no job 'pp'") as error:
        RayJobsBackend(profile()).status("pp")
    assert "did you mean 'p'" in error.value.hint


def test_a_cluster_that_has_just_come_up_is_waited_for(
    ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.clusters.ray_jobs.backend._POLL_S", 0.01)
    ray.refusals = ["status code 500: No available agent to submit job"] * 3
    assert send().row.id == "p--1"
    ray.refusals = ["Traceback\n  ...\nValueError: no room"]
    with pytest.raises(RequestError, match="does not take it: ValueError: no room"):
        send(name="q")
