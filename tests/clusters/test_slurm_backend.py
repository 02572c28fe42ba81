"""Slurm's words in those of this library, and what is said where Slurm is away."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from orchestrator.cluster_profile.schema import Slurm
from orchestrator.clusters.backend import Submission, SubmissionStatus
from orchestrator.clusters.slurm import commands as slurmcalls
from orchestrator.clusters.slurm.backend import SlurmBackend
from orchestrator.errors import RequestError

SUBMISSION_ENV = {"NCCL_SOCKET_IFNAME": "ib0"}


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for Slurm's commands; the file that squeue shows."""
    shown = tmp_path / "queue"
    shown.write_text("")
    commands = {
        "squeue": f'cat "{shown}"',
        "sbatch": f'for last; do :; done; test -x "$last/code/tool" && echo "41;here"\n'
        f'echo "41|PENDING|Resources" >"{shown}"',
        "scancel": f'echo "41|CANCELLED|None" >"{shown}"',
    }
    (tmp_path / "bin").mkdir()
    for name, text in commands.items():
        file = tmp_path / "bin" / name
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return shown


def backend(tmp_path: Path) -> SlurmBackend:
    nodes = {"head": {"cpus": 1, "memory": "1GiB"}}
    data = {"name": "here", "nodes": nodes, "workdir": tmp_path / "shared"}
    return SlurmBackend(Slurm.model_validate(data))


def send(tmp_path: Path, member: str = "tool") -> SubmissionStatus:
    package = tmp_path / "package.zip"
    with zipfile.ZipFile(package, "w") as archive:
        info = zipfile.ZipInfo(member)
        info.external_attr = 0o100755 << 16
        archive.writestr(info, "#!/bin/sh\n")
    job = {"name": "small", "kind": "train"}
    return backend(tmp_path).submit(
        Submission("small", job, package, ("true",), SUBMISSION_ENV, "print", "digest")
    )


@pytest.mark.parametrize(
    ("shown", "state", "message"),
    [
        ("41|PENDING|Resources", "queued", "Resources"),
        ("41|RUNNING|None", "running", ""),
        ("41|COMPLETING|None", "running", ""),
        ("41|CANCELLED|None", "stopped", "cancelled"),
        ("41|TIMEOUT|TimeLimit", "failed", "ended without a word: TIMEOUT"),
        ("", "failed", "ended without a word: Slurm has forgotten it"),
    ],
)
def test_slurm_s_states_are_those_of_every_backend(
    shown: str, state: str, message: str, queue: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("orchestrator.clusters.slurm.backend._STATE_FILE_WAIT_S", 0.0)
    sent = send(tmp_path)
    assert (sent.id, sent.state, sent.job) == ("41", "queued", {"name": "small", "kind": "train"})
    queue.write_text(shown + "\n" if shown else "")
    (row,) = backend(tmp_path).list_submissions()
    assert (row.state, row.message, row.code) == (state, message, "digest")
    queue.write_text("")  # what has ended stays so when Slurm forgets it
    if state not in ("queued", "running"):
        assert backend(tmp_path).status("small").state == state


@pytest.mark.parametrize(
    ("code", "state"), [(0, "done"), (143, "stopped"), (1, "failed"), (2, "failed")]
)
def test_the_job_s_own_end_counts(code: int, state: str, queue: Path, tmp_path: Path) -> None:
    send(tmp_path)
    folder = tmp_path / "shared" / "small" / "1"
    (folder / "state").write_text(f"began=1000\nended=1060\ncode={code}\n")
    (folder / "log").write_bytes("said é".encode())
    row = backend(tmp_path).status("small")
    assert (row.state, row.exit_code, row.began_at, row.ended_at) == (state, code, 1000, 1060)
    assert list(backend(tmp_path).logs("small", follow=True)) == ["said é"]


def test_one_live_submission_of_a_name(
    queue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.clusters.slurm.backend._STATE_FILE_WAIT_S", 0.0)
    send(tmp_path)
    with pytest.raises(RequestError, match="'small' was sent there and goes on"):
        send(tmp_path)
    backend(tmp_path).stop("small")
    assert backend(tmp_path).status("small").state == "stopped"
    assert send(tmp_path).state == "queued"
    assert (tmp_path / "shared" / "small" / "2" / "sent.json").exists()


def test_what_slurm_or_the_package_refuses_leaves_nothing(queue: Path, tmp_path: Path) -> None:
    (tmp_path / "bin" / "sbatch").write_text(
        "#!/bin/sh\necho 'sbatch: error: Batch job submission failed: Invalid partition name"
        " specified' >&2; exit 1\n"
    )
    with pytest.raises(RequestError, match="does not take the job: Invalid partition name"):
        send(tmp_path)
    with pytest.raises(RequestError, match="leads out"):
        send(tmp_path, "../../out")
    assert not [path for path in (tmp_path / "shared" / "small").iterdir() if path.is_dir()]
    assert backend(tmp_path).list_submissions() == []


def test_slurm_away_is_one_line(
    queue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(tmp_path)
    (tmp_path / "bin" / "squeue").write_text(
        "#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact slurm controller (connect"
        " failure)' >&2; exit 1\n"
    )
    with pytest.raises(RequestError, match=r"Slurm does not answer: .*connect failure"):
        backend(tmp_path).list_submissions()
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(RequestError, match="this machine has no squeue"):
        slurmcalls.query_jobs(["41"], "here")


def test_names_that_were_never_sent_are_suggested(queue: Path, tmp_path: Path) -> None:
    send(tmp_path)
    with pytest.raises(RequestError, match="did you mean 'small'"):
        backend(tmp_path).status("smal")
