"""Several processes pack the same data at once: one waits for the other, and none loses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.data.packing.dataset import finalize_dataset, is_complete, remove_leftovers
from orchestrator.data.packing.pack import PACKING_LEASE, run_pack
from orchestrator.data.packing.shard_writer import ShardWriter
from orchestrator.data.packing.verify import verify_dataset
from orchestrator.data.sources.base import RawClip
from orchestrator.data.store.index import DatasetIndex
from orchestrator.errors import JobFailed
from orchestrator.progress import SilentProgress
from orchestrator.storage import Storage, lease
from tests.support.videos import RecordingProgress, pack_job, write_video

SCRIPT = """
import sys, time
from tests.support.videos import pack_job
from orchestrator.data.packing import unit
from orchestrator.data.packing.pack import run_pack
from orchestrator.progress import SilentProgress

original = unit.pack_unit
def slowly(*args):
    time.sleep({pause})
    return original(*args)
import orchestrator.data.packing.pack as pack
pack.pack_unit = slowly
(index,) = run_pack(pack_job({source!r}, {storage!r}, unit=1), SilentProgress(), local=True)
print(index.num_clips)
"""


def videos(folder: Path, count: int = 4) -> Path:
    for number in range(count):
        write_video(folder / f"v{number}.mp4", frames=20, fps=20)
    return folder


def packer(source: str, storage: str, pause: float = 0.2) -> subprocess.Popen[str]:
    text = SCRIPT.format(source=source, storage=storage, pause=pause)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, "-c", text],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def dataset_in(storage: str) -> Storage:
    (name,) = Storage(f"{storage}/datasets").folders()
    return Storage(f"{storage}/datasets/{name}")


def is_whole(dataset: Storage, clips: int) -> None:
    """Every clip once, every tar named, nothing beside them."""
    index = DatasetIndex.open(dataset.root)
    assert (index.num_clips, verify_dataset(index)) == (clips, [])
    tars = {entry.path for entry in dataset.files() if entry.path.endswith(".tar")}
    assert tars == {index.shard_info(shard)["shard"] for shard in range(index.num_shards)}
    assert not dataset.exists(PACKING_LEASE)
    assert not dataset.is_dir("units")


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where datasets go: a folder, or a bucket of a real S3 server."""
    if request.param == "disk":
        yield str(tmp_path / "out")
        return
    boto3 = pytest.importorskip("boto3")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="together")
        yield f"s3://together/{tmp_path.name}"  # buckets outlive a server
    server.stop()


@pytest.mark.integration
def test_three_at_once_all_have_the_dataset(tmp_path: Path, place: str) -> None:
    source = videos(tmp_path / "in")
    many = [packer(str(source), place) for _ in range(3)]
    told = [process.communicate(timeout=120) for process in many]
    assert [process.returncode for process in many] == [0, 0, 0], told
    assert [out.strip() for out, _ in told] == ["4", "4", "4"]
    is_whole(dataset_in(place), 4)


@pytest.mark.integration
def test_one_that_is_killed_does_not_stop_the_one_that_waits(tmp_path: Path, place: str) -> None:
    source = videos(tmp_path / "in")
    first = packer(str(source), place, pause=1.0)
    datasets = Storage(f"{place}/datasets")
    for _ in range(600):
        if any(entry.path.endswith(PACKING_LEASE) for entry in datasets.files()):
            break
        time.sleep(0.05)
    second = packer(str(source), place, pause=0.0)
    time.sleep(1.5)
    first.send_signal(signal.SIGKILL)
    first.wait()
    out, errors = second.communicate(timeout=50)  # sooner than a lease goes stale
    assert (second.returncode, out.strip()) == (0, "4"), errors
    is_whole(dataset_in(place), 4)


def test_one_that_fails_leaves_its_turn_to_the_one_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "POLL_S", 0.02)
    source, waits, found = videos(tmp_path / "in", 2), threading.Event(), []

    class Waiting(RecordingProgress):
        def message(self, text: str) -> None:
            waits.set()

    def second() -> None:
        found.extend(run_pack(pack_job(source, tmp_path / "out", unit=1), Waiting(), local=True))

    thread = threading.Thread(target=second)

    def fails(*args: Any) -> DatasetIndex:
        monkeypatch.setattr("orchestrator.data.packing.pack.finalize_dataset", finalize_dataset)
        thread.start()
        assert waits.wait(10)
        raise JobFailed("its disk is full")

    monkeypatch.setattr("orchestrator.data.packing.pack.finalize_dataset", fails)
    with pytest.raises(JobFailed, match="its disk is full"):
        run_pack(pack_job(source, tmp_path / "out", unit=1), SilentProgress(), local=True)
    thread.join(30)
    assert [index.num_clips for index in found] == [2]
    is_whole(dataset_in(str(tmp_path / "out")), 2)


@pytest.mark.parametrize("moment", ["while a tar is written", "when its units are done"])
def test_one_whose_lease_was_taken_over_ends_with_the_other_s_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """As after a minute in which its host stood still."""
    source = videos(tmp_path / "in", 2)
    job = pack_job(source, tmp_path / "out", unit=1)
    others: list[DatasetIndex] = []

    def taken_over() -> None:
        if not others:
            others.append(DatasetIndex.__new__(DatasetIndex))  # once
            storage = dataset_in(str(tmp_path / "out"))
            storage.delete(PACKING_LEASE)
            (others[0],) = run_pack(job, SilentProgress(), local=True)
            assert is_complete(storage)
            remove_leftovers(storage, others[0])

    add = ShardWriter.add

    def add_late(self: ShardWriter, clip: RawClip) -> None:
        add(self, clip)
        taken_over()

    def complete_late(*args: Any) -> DatasetIndex:
        taken_over()
        return finalize_dataset(*args)

    if moment == "while a tar is written":
        monkeypatch.setattr(ShardWriter, "add", add_late)
    else:
        monkeypatch.setattr("orchestrator.data.packing.pack.finalize_dataset", complete_late)
    (index,) = run_pack(job, SilentProgress(), local=True)
    assert index == others[0]
    is_whole(dataset_in(str(tmp_path / "out")), 2)


def test_a_complete_dataset_is_not_tidied_while_its_owner_does(tmp_path: Path) -> None:
    job = pack_job(videos(tmp_path / "in", 2), tmp_path / "out", unit=1)
    (index,) = run_pack(job, SilentProgress(), local=True)
    storage = Storage(index.uri)
    storage.write_json("units/one.json", {})
    storage.write_bytes("of-another-attempt-000.tar", b"being written")
    owner = {"id": "other", "pid": 1, "host": "elsewhere", "processes": "", "renewed": 0}
    storage.write_json(PACKING_LEASE, owner)
    assert run_pack(job, SilentProgress(), local=True) == [index]
    assert storage.exists("of-another-attempt-000.tar")
    storage.delete(PACKING_LEASE)
    run_pack(job, SilentProgress(), local=True)
    assert not storage.exists("of-another-attempt-000.tar")
