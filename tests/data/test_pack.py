"""Packing: every clip once, whatever interrupts it; nothing half-done is ever an index."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from orchestrator.data.codec.decode import decode_clip
from orchestrator.data.packing import dataset
from orchestrator.data.packing import unit as unit_module
from orchestrator.data.packing.dataset import read_quarantine
from orchestrator.data.packing.pack import run_pack
from orchestrator.data.packing.shard_writer import ShardWriter
from orchestrator.data.packing.unit import UnitManifest, pack_unit
from orchestrator.data.packing.verify import verify_dataset
from orchestrator.data.sources.base import RawClip, Rejected, WorkUnit
from orchestrator.data.sources.folder import FolderSource
from orchestrator.data.sources.open import open_source
from orchestrator.data.store.index import DatasetIndex
from orchestrator.errors import JobFailed, RequestError
from orchestrator.job import TranscodeConfig
from orchestrator.progress import SilentProgress
from orchestrator.storage import Storage
from tests.support.videos import (
    RecordingProgress,
    decode_all_frames,
    grey_level,
    pack_job,
    write_video,
)
from tests.support.waiting import wait_until


def videos(folder: Path, count: int, **options: Any) -> Path:
    for number in range(count):
        write_video(folder / f"v{number}.mp4", frames=40, fps=20, **options)
    return folder


def rows(index: DatasetIndex) -> list[dict[str, Any]]:
    return [row for shard in range(index.num_shards) for row in index.shard_rows(shard).to_pylist()]


def pack(source: Path | str, storage: Path, **keys: Any) -> DatasetIndex:
    (index,) = run_pack(pack_job(source, storage, **keys), SilentProgress(), local=True)
    return index


def test_a_folder_becomes_tars_with_an_index_beside_them(tmp_path: Path) -> None:
    videos(tmp_path / "in", 3)
    told = RecordingProgress()
    job = pack_job(tmp_path / "in", tmp_path / "out", unit=2, encode={"segment": 1.0})
    (index,) = run_pack(job, told, local=True)
    found = rows(index)
    assert [row["key"].rpartition("-")[0].rpartition("-")[0] for row in found] == [
        name for name in ("v0", "v1", "v2") for _ in range(2)
    ]
    assert len({row["key"] for row in found}) == 6
    assert {row["source"] for row in found} == {str(tmp_path / f"in/v{n}.mp4") for n in range(3)}
    for row in found:
        shard = [index.shard_info(s)["shard"] for s in range(index.num_shards)].index(row["shard"])
        payload = index.read_bytes(shard, row["offset"], row["bytes"], row["sha256"])
        frames = decode_all_frames(payload)
        assert len(frames) == row["frames"] == 20
        assert frames[0].shape == (row["height"], row["width"], 3)
    assert verify_dataset(index) == []
    assert told.updates[-1][:3] == ("pack", 3, 3)
    assert told.updates[-1][3]["clips"] == 6
    facts = json.loads((Path(index.uri) / "dataset.json").read_text())
    assert (facts["layout"], facts["clips"], facts["inputs"], facts["quarantined"]) == (1, 6, 3, 0)
    assert facts["digest"] == Path(index.uri).name


def test_any_reader_of_tars_sees_key_mp4_and_key_json(tmp_path: Path) -> None:
    write_video(tmp_path / "in/a.mp4", frames=40, fps=20)
    (tmp_path / "in/list.csv").write_text("a.mp4 7\n")
    index = pack(tmp_path / "in/list.csv", tmp_path / "out")
    (row,) = rows(index)
    with tarfile.open(index.tar_uri(0)) as tar:
        names = tar.getnames()
        facts = json.loads(tar.extractfile(f"{row['key']}.json").read())  # type: ignore[union-attr]
        payload = tar.extractfile(f"{row['key']}.mp4").read()  # type: ignore[union-attr]
    assert names == [f"{row['key']}.mp4", f"{row['key']}.json"]
    assert (facts["label"], facts["frames"], facts["fps"]) == (7, 40, 20.0)
    assert payload == index.read_bytes(0, row["offset"], row["bytes"])
    extra = {e["name"]: index.read_bytes(0, e["offset"], e["bytes"]) for e in row["extras"]}
    assert json.loads(extra["json"]) == facts


def test_tars_stay_below_their_bound(tmp_path: Path) -> None:
    videos(tmp_path / "in", 6)
    index = pack(tmp_path / "in", tmp_path / "out", encode={"shard_bytes": 12_000})
    assert index.num_shards > 1
    for shard in range(index.num_shards):
        info = index.shard_info(shard)
        assert info["bytes"] == os.path.getsize(index.tar_uri(shard))
        assert info["bytes"] <= 12_000 or info["count"] == 1
    assert index.num_clips == 6


def test_packing_again_does_nothing_and_the_same_input_gives_the_same_bytes(
    tmp_path: Path,
) -> None:
    videos(tmp_path / "in", 2)
    first = pack(tmp_path / "in", tmp_path / "one")
    before = {p.name: p.stat().st_mtime_ns for p in Path(first.uri).iterdir()}
    again = pack(tmp_path / "in", tmp_path / "one")
    assert {p.name: p.stat().st_mtime_ns for p in Path(again.uri).iterdir()} == before
    other = pack(tmp_path / "in", tmp_path / "two")
    assert other.digest == first.digest
    assert Path(other.uri).name == Path(first.uri).name


def test_the_name_follows_inputs_and_options(tmp_path: Path) -> None:
    videos(tmp_path / "in", 2)
    names = {Path(pack(tmp_path / "in", tmp_path / "out").uri).name}
    names.add(Path(pack(tmp_path / "in", tmp_path / "out", encode={"crf": 30}).uri).name)
    os.utime(tmp_path / "in/v1.mp4", ns=(5, 5))
    names.add(Path(pack(tmp_path / "in", tmp_path / "out").uri).name)
    assert len(names) == 3


class Stopping(FolderSource):
    """Fails at one of its videos, as a crash in the middle would."""

    def __init__(self, uri: str, unit: int, at: str, error: Exception) -> None:
        super().__init__(uri, unit)
        self.at, self.error = at, error

    def clips(self, unit: WorkUnit, encode: TranscodeConfig) -> Iterator[RawClip | Rejected]:
        for item in super().clips(unit, encode):
            yield item
            if item.source.endswith(self.at):
                raise self.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on the storage"),
        (ValueError("boom"), "ValueError: boom"),
    ],
)
def test_what_is_committed_survives_a_failure_and_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    videos(tmp_path / "in", 6)
    job = pack_job(tmp_path / "in", tmp_path / "out", unit=2)
    failing = Stopping(str(tmp_path / "in"), 2, "v4.mp4", error)
    monkeypatch.setattr("orchestrator.data.packing.pack.open_source", lambda uri, unit: failing)
    with pytest.raises(JobFailed, match=said) as caught:
        run_pack(job, SilentProgress(), local=True)
    assert "2 of 3 units are kept" in caught.value.hint
    monkeypatch.undo()
    (folder,) = (tmp_path / "out/datasets").iterdir()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    assert len(kept) == 2
    assert not (folder / "index.parquet").exists()
    (folder / "orphan-of-a-killed-attempt-000.tar").write_bytes(b"half a tar")
    (index,) = run_pack(job, SilentProgress(), local=True)
    assert index.uri == str(folder)
    assert Counter(row["source"].rpartition("/")[2] for row in rows(index)) == {
        f"v{number}.mp4": 1 for number in range(6)
    }
    tars = {path: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    assert len(tars) == 3
    assert kept.items() <= tars.items()
    assert not (folder / "units").exists()
    assert verify_dataset(index) == []


def test_the_first_manifest_wins_and_the_second_attempt_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two attempts at one unit at the same time, as after a lost node that comes back."""
    videos(tmp_path / "in", 2)
    storage = Storage(str(tmp_path / "out"))
    source = FolderSource(str(tmp_path / "in"), 2)
    (unit,) = source.units()
    finish = ShardWriter.finish
    first: list[Any] = []

    def overtaken(self: ShardWriter) -> Any:
        if not first:
            first.append(None)
            first[0] = pack_unit(storage, source, unit, TranscodeConfig())
        return finish(self)

    monkeypatch.setattr(unit_module.ShardWriter, "finish", overtaken)
    second = pack_unit(storage, source, unit, TranscodeConfig())
    assert second == first[0]
    (manifest,) = (tmp_path / "out/units").glob("*.json")
    named = {shard.shard for shard in UnitManifest.decode(manifest.read_bytes()).shards}
    assert {path.name for path in (tmp_path / "out").glob("*.tar")} == named


def test_an_input_that_changes_while_packing_is_quarantined(tmp_path: Path) -> None:
    videos(tmp_path / "in", 4)
    storage = Storage(str(tmp_path / "out"))
    source = FolderSource(str(tmp_path / "in"), 4)
    (unit,) = source.units()
    write_video(tmp_path / "in/v1.mp4", frames=50)
    (tmp_path / "in/v2.mp4").unlink()
    seen = []
    for item in source.clips(unit, TranscodeConfig()):
        if item.source.endswith("v3.mp4") and isinstance(item, RawClip):
            os.utime(tmp_path / "in/v3.mp4", ns=(1, 1))
        seen.append((item.source[-6:], getattr(item, "reason", "")))
    changed = "changed while packing"
    assert seen == [
        ("v0.mp4", ""), ("v1.mp4", changed), ("v2.mp4", changed), ("v3.mp4", ""),
        ("v3.mp4", changed),
    ]  # fmt: skip
    report = pack_unit(storage, source, unit, TranscodeConfig())
    assert report.clips == 1
    assert {row.reason for row in report.rejected} == {changed}


def test_a_video_that_changes_while_it_is_read_leaves_no_clip(tmp_path: Path) -> None:
    videos(tmp_path / "in", 2)

    class Changing(FolderSource):
        def clips(self, unit: WorkUnit, encode: TranscodeConfig) -> Iterator[RawClip | Rejected]:
            for item in super().clips(unit, encode):
                os.utime(tmp_path / "in/v1.mp4", ns=(1, 1)) if "v1" in item.source else None
                yield item

    source = Changing(str(tmp_path / "in"), 2)
    report = pack_unit(Storage(str(tmp_path / "out")), source, source.units()[0], TranscodeConfig())
    assert (report.clips, [r.reason for r in report.rejected]) == (1, ["changed while packing"])


def test_too_many_bad_inputs_stop_the_job_and_are_named(tmp_path: Path) -> None:
    videos(tmp_path / "in", 3)
    (tmp_path / "in/text.mp4").write_text("not a video" * 50)
    with pytest.raises(JobFailed, match=r"1 of 4 inputs.*text\.mp4: not a readable") as caught:
        pack(tmp_path / "in", tmp_path / "out", bad_limit=0.2)
    (folder,) = (tmp_path / "out/datasets").iterdir()
    assert "bad_limit" in caught.value.hint
    assert [r.source[-8:] for r in read_quarantine(Storage(str(folder)))] == ["text.mp4"]
    index = pack(tmp_path / "in", tmp_path / "out", bad_limit=0.25)
    assert index.num_clips == 3
    assert len(read_quarantine(Storage(index.uri))) == 1


def test_no_clip_at_all_is_an_error_and_not_an_empty_dataset(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.mp4").write_bytes(b"")
    with pytest.raises(JobFailed, match=r"not one clip could be made of 1 inputs") as caught:
        pack(tmp_path / "in", tmp_path / "out", bad_limit=1.0)
    assert "zero bytes" in caught.value.hint


def test_keys_that_a_source_repeats_are_quarantined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos(tmp_path / "in", 2)

    class Twice(FolderSource):
        def clips(self, unit: WorkUnit, encode: TranscodeConfig) -> Iterator[RawClip | Rejected]:
            for item in super().clips(unit, encode):
                yield from (item, item)

    twice = Twice(str(tmp_path / "in"), 4)
    monkeypatch.setattr("orchestrator.data.packing.pack.open_source", lambda uri, unit: twice)
    index = pack(tmp_path / "in", tmp_path / "out", bad_limit=1.0)
    assert index.num_clips == 2
    assert all("duplicate key" in r.reason for r in read_quarantine(Storage(index.uri)))


def test_physics_is_packed_like_any_video_with_its_states(tmp_path: Path) -> None:
    index = pack("physics://mixed?clips=3&seconds=1", tmp_path)
    found = rows(index)
    assert len(found) == 3
    assert all({"json", "states.npy"} == {e["name"] for e in row["extras"]} for row in found)


def test_several_sources_become_datasets_of_their_own(tmp_path: Path) -> None:
    videos(tmp_path / "a", 1)
    videos(tmp_path / "b", 2)
    sources = [{"uri": str(tmp_path / "a")}, {"uri": str(tmp_path / "b")}]
    job = pack_job("", tmp_path / "out", sources=sources)
    assert [index.num_clips for index in run_pack(job, SilentProgress(), local=True)] == [1, 2]


# -- with Ray ----------------------------------------------------------------------------------

SCRIPT = """
import os, signal, sys
import psutil
import ray
from tests.support.videos import pack_job
from orchestrator.data.packing.pack import run_pack
from orchestrator.progress import SilentProgress

class Told(SilentProgress):
    def update(self, phase, done, total, facts=None):
        if "die" in sys.argv:  # when a part is done: at once, however busy the machine is
            started = [(one.pid, one.cmdline()[0]) for one in psutil.Process().children(True)]
            # Ray's agents live on for a minute.
            workers = [pid for pid, name in started if "ray::" in name and "Agent" not in name]
            print(*workers, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

ray.init(address="local", num_cpus=2, object_store_memory=200_000_000,
         include_dashboard=False, log_to_driver=False)
job = pack_job(sys.argv[1], sys.argv[2], unit=2, encode={"segment": 1.0})
(index,) = run_pack(job, Told())
print("CLIPS", index.num_clips, flush=True)
"""


def script(source: Path, storage: Path, *more: str) -> subprocess.Popen[str]:
    here = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": here, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(source), str(storage), *more]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    )


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.integration
def test_killed_in_the_middle_and_started_again_no_clip_is_lost_or_twice(tmp_path: Path) -> None:
    source = videos(tmp_path / "in", 16)
    first = script(source, tmp_path / "out", "die")
    assert first.stdout is not None
    last = first.stdout.readlines()[-1]
    assert first.wait() == -signal.SIGKILL
    (folder,) = (tmp_path / "out/datasets").iterdir()
    workers = [int(pid) for pid in last.split()]
    assert workers
    wait_until(lambda: not any(lives(pid) for pid in workers))  # so do the dead driver's tasks
    assert not (folder / "dataset.json").exists()
    kept = {path.name for path in (folder / "units").glob("*.json")}
    assert 1 <= len(kept) < 8
    made = {path: path.stat().st_mtime_ns for path in folder.glob("*.tar")}

    second = script(source, tmp_path / "out")
    output, _ = second.communicate(timeout=500)
    assert second.returncode == 0, output
    assert "CLIPS 32" in output
    index = DatasetIndex.open(str(folder))
    found = rows(index)
    assert Counter(row["source"].rpartition("/")[2] for row in found) == {
        f"v{number}.mp4": 2 for number in range(16)
    }
    assert len({row["key"] for row in found}) == 32
    assert verify_dataset(index) == []
    tars = {path: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    assert len(tars) == index.num_shards == 8
    assert len(made.items() & tars.items()) >= len(kept)
    alone = pack(source, tmp_path / "alone", unit=2, encode={"segment": 1.0})
    assert alone.digest == index.digest


def test_more_cores_than_there_are_is_refused_and_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def two_cores() -> Iterator[Any]:
        yield SimpleNamespace(cluster_resources=lambda: {"CPU": 2.0})

    videos(tmp_path / "in", 1)
    monkeypatch.setattr("orchestrator.units.ray_map.ray_session", two_cores)
    with pytest.raises(RequestError, match="asks for 64 CPU cores, the cluster has 2"):
        run_pack(pack_job(tmp_path / "in", tmp_path / "out", cpus=64), SilentProgress())


def test_variable_rate_and_portrait_survive_the_whole_way(tmp_path: Path) -> None:
    ticks = [*range(0, 1000, 100), *range(1000, 2001, 20)]
    write_video(tmp_path / "in/vfr.mkv", ticks=ticks)
    write_video(tmp_path / "in/phone.mp4", rotation=90, width=128, height=72)
    index = pack(tmp_path / "in", tmp_path / "out")
    phone, vfr = rows(index)
    assert (phone["width"], phone["height"]) == (72, 128)
    payload = index.read_bytes(0, vfr["offset"], vfr["bytes"])
    levels = [grey_level(frame) for frame in decode_clip(payload, np.array([0.5, 1.0, 1.5]))]
    np.testing.assert_allclose(levels, [0.25, 0.5, 0.75], atol=0.03)
    assert isinstance(open_source(index.uri).uri, str)


def test_a_dataset_of_an_earlier_version_is_kept_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that were trained on it go on with the same clips; deleted, it is packed anew."""
    write_video(tmp_path / "in/a.mp4")
    job, told = pack_job(tmp_path / "in", tmp_path / "out"), RecordingProgress()
    with monkeypatch.context() as earlier:
        earlier.setattr(dataset, "PACKING_VERSION", 1)
        earlier.setattr(dataset.dataset_digest, "__kwdefaults__", {"packing_version": 1})
        (before,) = run_pack(job, SilentProgress(), local=True)
    (after,) = run_pack(job, told, local=True)
    assert after.uri == before.uri
    assert [text for text in told.messages if f"delete {before.uri}" in text]
    Storage(before.uri).delete_tree("")
    (anew,) = run_pack(job, SilentProgress(), local=True)
    assert anew.uri != before.uri
    assert anew.digest == before.digest
