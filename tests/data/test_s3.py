"""Video on an object store, packed to an object store, read from it: a real S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.data.packing.dataset import finalize_dataset
from orchestrator.data.packing.pack import run_pack
from orchestrator.data.packing.prepare import prepare_data
from orchestrator.data.packing.verify import verify_dataset
from orchestrator.data.sources.open import open_source
from orchestrator.data.store.index import DatasetIndex
from orchestrator.errors import RequestError
from orchestrator.job import TrainJob
from orchestrator.progress import SilentProgress
from orchestrator.storage import Storage
from tests.support.videos import pack_job, write_tar, write_video

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URI of an empty bucket; the credentials and the address stand in AWS_*."""
    boto3 = pytest.importorskip("boto3")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    patch.setenv("AWS_ACCESS_KEY_ID", "test")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    boto3.client("s3").create_bucket(Bucket="videos")
    yield "s3://videos"
    patch.undo()
    server.stop()


def upload(uri: str, folder: Path) -> None:
    storage = Storage(uri)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        storage.write_bytes(str(path.relative_to(folder)), path.read_bytes())


def keys(index: DatasetIndex) -> list[str]:
    return [
        row["key"]
        for shard in range(index.num_shards)
        for row in index.shard_rows(shard).to_pylist()
    ]


def payloads(index: DatasetIndex) -> list[bytes]:
    return [
        index.read_bytes(shard, row["offset"], row["bytes"], row["sha256"])
        for shard in range(index.num_shards)
        for row in index.shard_rows(shard).to_pylist()
    ]


def test_a_folder_on_s3_is_packed_to_s3_by_ray(tmp_path: Path, bucket: str) -> None:
    import ray

    for number in range(4):
        write_video(tmp_path / f"in/sub/v{number}.mp4", frames=40, fps=20)
    upload(f"{bucket}/raw", tmp_path / "in")
    options: dict[str, Any] = {"unit": 2, "encode": {"segment": 1.0}}
    job = pack_job(f"{bucket}/raw", f"{bucket}/out", **options)
    ray.init(address="local", num_cpus=2, object_store_memory=200_000_000, include_dashboard=False)
    try:
        (index,) = run_pack(job, SilentProgress())
    finally:
        ray.shutdown()
    assert index.num_clips == 8
    assert index.uri.startswith(f"{bucket}/out/datasets/")
    assert verify_dataset(DatasetIndex.open(index.uri)) == []
    names = [entry.path for entry in Storage(index.uri).files()]
    assert sum(name.endswith(".tar") for name in names) == index.num_shards
    assert not any(name.startswith("units") for name in names)
    (here,) = run_pack(
        pack_job(tmp_path / "in", tmp_path / "out", **options), SilentProgress(), local=True
    )
    assert payloads(index) == payloads(here)
    assert keys(index) == keys(here)


def test_an_interrupted_packing_goes_on_where_it_was(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        write_video(tmp_path / f"v{number}.mp4", frames=20, fps=20)
    upload(f"{bucket}/half", tmp_path)
    job = pack_job(f"{bucket}/half", f"{bucket}/half-out", unit=1)

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("orchestrator.data.packing.pack.finalize_dataset", dies)
    with pytest.raises(KeyboardInterrupt):
        run_pack(job, SilentProgress(), local=True)
    monkeypatch.setattr("orchestrator.data.packing.pack.finalize_dataset", finalize_dataset)
    (name,) = Storage(f"{bucket}/half-out/datasets").folders()
    storage = Storage(f"{bucket}/half-out/datasets/{name}")
    before = {e.identity for e in storage.files() if e.path.endswith(".tar")}
    storage.write_bytes("orphan-000.tar", b"left by a dead attempt")
    (index,) = run_pack(job, SilentProgress(), local=True)
    assert {e.identity for e in storage.files() if e.path.endswith(".tar")} == before
    assert len(before) == index.num_clips == 3
    assert verify_dataset(index) == []


def test_tars_on_s3_are_indexed_in_place(tmp_path: Path, bucket: str) -> None:
    movie = write_video(tmp_path / "a.mp4", frames=40, fps=20).read_bytes()
    for number in range(2):
        write_tar(tmp_path / f"tars/x-{number:02d}.tar", {f"{number}.mp4": movie})
    upload(f"{bucket}/tars", tmp_path / "tars")
    job = pack_job(f"{bucket}/tars/x-{{00..01}}.tar", tmp_path / "out")
    (index,) = run_pack(job, SilentProgress(), local=True)
    assert payloads(index) == [movie, movie]
    assert index.tar_uri(1) == f"{bucket}/tars/x-01.tar"


def test_a_manifest_on_s3_and_a_training_on_it(tmp_path: Path, bucket: str) -> None:
    write_video(tmp_path / "clips/a b.mp4", frames=40, fps=20)
    (tmp_path / "train.csv").write_text("clips/a b.mp4 1\nclips/gone.mp4 2\n")
    upload(f"{bucket}/listed", tmp_path)
    data = {"source": f"{bucket}/listed/train.csv", "frames": 8, "size": 32, "bad_limit": 0.5}
    job = TrainJob.model_validate(
        {
            "kind": "train",
            "name": "t",
            "storage": f"{bucket}/run",
            "data": data,
            "model": {"patch": 8},
            "optim": {"steps": 1},
        }
    )
    prepared = prepare_data(job, SilentProgress(), local=True)
    assert (prepared.indexes[0].num_clips, prepared.quarantined) == (1, 1)
    assert prepare_data(job, SilentProgress(), local=True) == prepared


def test_what_is_not_there_says_so(bucket: str) -> None:
    for uri in (f"{bucket}/nowhere", "s3://no-such-bucket-here/x"):
        with pytest.raises(RequestError, match=r"no such file or folder|cannot be reached"):
            open_source(uri)


def test_create_on_an_object_store_keeps_the_first(bucket: str) -> None:
    storage = Storage(f"{bucket}/made")
    assert storage.write_if_absent("a/b.json", b"1")
    assert not storage.write_if_absent("a/b.json", b"2")
    assert storage.read_bytes("a/b.json") == b"1"
