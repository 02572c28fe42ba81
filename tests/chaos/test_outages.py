"""A full disk, an object store that fails, an MLflow that is away: waited out, nothing lost."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from orchestrator.bench.fault_injection import RunHarness
from orchestrator.storage import Storage
from orchestrator.tracking.server import mlflow_client
from orchestrator.tracking.ui import run_mlflow_server
from orchestrator.training.audit import audit_run
from orchestrator.training.checkpoints.manager import checkpoint_step, list_complete_checkpoints
from tests.support.ports import free_port
from tests.support.s3_proxy import Proxy, ProxyMode, s3_server


def log(arena: RunHarness, name: str) -> str:
    return (arena.folder / f"{name}.log").read_text()


def newest(storage: Storage, name: str) -> int:
    there = list_complete_checkpoints(storage.subfolder("runs", name, "checkpoints"))
    return checkpoint_step(there[-1]) if there else 0


def check_losses(arena: RunHarness, mine: RunHarness, name: str) -> None:
    """Every step's loss once, and that of the uninterrupted run.

    To rounding: one process adds up a step's clips in another order than two ranks.
    """
    expected, found = arena.losses("calm"), mine.losses(name)
    assert [step for step, _ in found] == [step for step, _ in expected]
    assert max(abs(a - b) for (_, a), (_, b) in zip(expected, found, strict=True)) <= 1e-5


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.nightly
def test_a_full_disk_is_waited_out(fault_arena: RunHarness, disk: Path, tmp_path: Path) -> None:
    mine = RunHarness(fault_arena.job, tmp_path)
    mine.env, mine.storage = dict(fault_arena.env), Storage(str(disk))
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    process = mine.start("full", "--local", track__uri=uri)
    mine.wait_for(process, "full", lambda: newest(mine.storage, "full") >= 10)
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as out:
        try:
            while True:
                out.write(bytes(65536))
        except OSError:
            pass
    mine.wait_for(process, "full", lambda: "the storage fails, retrying" in log(mine, "full"))
    stood = newest(mine.storage, "full")
    filler.unlink()
    mine.finish(process, "full")
    assert stood >= 10
    assert audit_run(mine.storage, "full").good
    check_losses(fault_arena, mine, "full")


def remount(disk: Path, how: str) -> None:
    """ro or rw; a file system with a file open for writing refuses for a moment."""
    until = time.monotonic() + 30
    while subprocess.run(
        ["mount", "-o", f"remount,{how}", str(disk)], capture_output=True
    ).returncode:
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.nightly
def test_a_storage_that_turns_read_only_is_waited_out(
    fault_arena: RunHarness, disk: Path, tmp_path: Path
) -> None:
    mine = RunHarness(fault_arena.job, tmp_path)
    mine.env, mine.storage = dict(fault_arena.env), Storage(str(disk))
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    process = mine.start("ro", "--local", track__uri=uri)
    mine.wait_for(process, "ro", lambda: newest(mine.storage, "ro") >= 10)
    remount(disk, "ro")
    mine.wait_for(process, "ro", lambda: "the storage fails, retrying" in log(mine, "ro"))
    stood = newest(mine.storage, "ro")
    remount(disk, "rw")
    mine.finish(process, "ro")
    assert stood >= 10
    assert audit_run(mine.storage, "ro").good
    check_losses(fault_arena, mine, "ro")


@pytest.mark.nightly
def test_a_storage_that_stays_read_only_ends_the_run_and_keeps_the_checkpoint(
    fault_arena: RunHarness, disk: Path, tmp_path: Path
) -> None:
    mine = RunHarness(fault_arena.job, tmp_path)
    mine.env, mine.storage = dict(fault_arena.env), Storage(str(disk))
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    process = mine.start("stays", "--local", track__uri=uri)
    mine.wait_for(process, "stays", lambda: newest(mine.storage, "stays") >= 10)
    remount(disk, "ro")
    assert process.wait(300) == 1
    said = log(mine, "stays")
    assert "Read-only file system" in said
    assert "Traceback" not in said
    stood = newest(mine.storage, "stays")
    remount(disk, "rw")
    mine.finish(mine.start("stays", "--local", track__uri=uri), "stays")
    assert f"resumed at step {stood}" in log(mine, "stays")
    assert audit_run(mine.storage, "stays").good
    check_losses(fault_arena, mine, "stays")


CLOCK = """
import time

_true = time.time

def jumping():
    with open({file!r}) as offset:
        return _true() + float(offset.read() or 0)

time.time = jumping
time.time_ns = lambda: int(jumping() * 1e9)
"""


@pytest.mark.nightly
def test_a_clock_that_jumps_changes_nothing(fault_arena: RunHarness, tmp_path: Path) -> None:
    """An hour forward, then two back, while it trains; then the run is killed and goes on."""
    mine, offset = RunHarness(fault_arena.job, tmp_path), tmp_path / "offset"
    offset.write_text("0")
    (tmp_path / "sitecustomize.py").write_text(CLOCK.format(file=str(offset)))
    mine.env = fault_arena.env | {"PYTHONPATH": f"{tmp_path}:{fault_arena.env['PYTHONPATH']}"}
    process = mine.start("jumps", "--local")
    for step, seconds in ((10, 3600), (30, -3600)):
        mine.wait_for(process, "jumps", lambda step=step: newest(mine.storage, "jumps") >= step)
        offset.write_text(str(seconds))
    mine.wait_for(process, "jumps", lambda: newest(mine.storage, "jumps") >= 60)
    process.kill()
    process.wait()
    mine.finish(mine.start("jumps", "--local"), "jumps")
    check_losses(fault_arena, mine, "jumps")
    times = [row.timestamp for row in mine.metric_history("jumps", "train/loss")]
    assert max(times) - min(times) > 3600_000, "the clock did jump"
    assert audit_run(mine.storage, "jumps").good


@pytest.mark.nightly
def test_an_object_store_that_fails_is_waited_out(
    fault_arena: RunHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    with s3_server() as port:
        proxy = Proxy(port)
        keys |= {"AWS_DEFAULT_REGION": "us-east-1"}
        keys["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{proxy.port}"
        for key, value in keys.items():
            monkeypatch.setenv(key, value)
        boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}").create_bucket(Bucket="lab")
        mine = RunHarness(fault_arena.job, tmp_path)
        mine.env, mine.storage = {**fault_arena.env, **keys}, Storage("s3://lab/runs")
        mine_uri = f"sqlite:///{tmp_path}/mlflow.db"
        process = mine.start("cut", "--local", track__uri=mine_uri)
        modes: list[ProxyMode] = ["500", "cut"]
        for mode in modes:
            before = newest(mine.storage, "cut")
            mine.wait_for(
                process, "cut", lambda before=before: newest(mine.storage, "cut") > before
            )
            proxy.fail(mode)
            time.sleep(10)
            proxy.mode = "well"
        mine.finish(process, "cut")
        assert proxy.num_refused > 2
        report = audit_run(mine.storage, "cut")
        assert report.good, report.wrong
        assert report.failed == 0, "an outage is no fault of a clip"
        check_losses(fault_arena, mine, "cut")
        proxy.close()


@pytest.mark.integration
def test_an_mlflow_that_goes_away_gets_every_row_once(
    fault_arena: RunHarness, tmp_path: Path
) -> None:
    port = free_port()
    mine = RunHarness(fault_arena.job, tmp_path)
    mine.env = {**fault_arena.env, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    store = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow_client(store).search_experiments()
    with run_mlflow_server(store, port) as (page, _):
        process = mine.start("away", "--local", track__uri=page)
        mine.wait_for(process, "away", lambda: newest(mine.storage, "away") >= 10)
    mine.wait_for(process, "away", lambda: "cannot be written" in log(mine, "away"))
    # Killed with rows unsent: the next start finds them in the storage.
    mine.wait_for(process, "away", lambda: newest(mine.storage, "away") >= 60)
    process.kill()
    process.wait()
    assert list(mine.storage.files("runs/away/spool"))
    with run_mlflow_server(store, port):
        mine.finish(mine.start("away", "--local", track__uri=page), "away")
        check_losses(fault_arena, mine, "away")
    assert not list(mine.storage.files("runs/away/spool"))
