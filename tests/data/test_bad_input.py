"""Everything that can be wrong with a file: a row with its reason, in bounded memory."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from orchestrator.data.packing.dataset import read_quarantine
from orchestrator.data.packing.pack import run_pack
from orchestrator.progress import SilentProgress
from orchestrator.storage import Storage
from tests.support.videos import pack_job, write_audio, write_video

ON_LINUX = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc")


def test_each_bad_file_is_quarantined_with_its_reason(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    good = write_video(folder / "good.mp4", frames=60)
    fast = write_video(folder / "x.mp4", frames=300, faststart=True).read_bytes()
    (folder / "x.mp4").unlink()
    (folder / "zero.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("Dear diary\n" * 100)
    (folder / "random.mkv").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "cut.mp4").write_bytes(good.read_bytes()[:900])
    (folder / "half.mp4").write_bytes(fast[: len(fast) // 2])
    (folder / "playlist.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{good}\n#EXT-X-ENDLIST\n")
    write_audio(folder / "sound.mp4")
    write_video(folder / "still.mp4", frames=1)
    (folder / "folder.mp4").mkdir()
    (index,) = run_pack(
        pack_job(folder, tmp_path / "out", bad_limit=1.0), SilentProgress(), local=True
    )
    rows = {Path(r.source).name: r.reason for r in read_quarantine(Storage(index.uri))}
    assert index.num_clips == 1
    assert rows["zero.mp4"] == "zero bytes"
    assert rows["sound.mp4"] == "no video stream (audio only)"
    assert rows["still.mp4"] == "one frame is not a video"
    assert rows["half.mp4"].startswith("truncated")
    for name in ("text.mp4", "random.mkv", "cut.mp4", "playlist.mp4"):
        assert rows.pop(name)
    assert len(rows) == 4


def test_a_name_of_any_kind_becomes_a_plain_key(tmp_path: Path) -> None:
    names = ["ü ö.mp4", "a.b.c.mp4", "-.mp4", "x" * 200 + ".mp4", "new\nline.mp4", "'q\".mp4"]
    for name in names:
        write_video(tmp_path / "in" / name, frames=4)
    (index,) = run_pack(pack_job(tmp_path / "in", tmp_path / "out"), SilentProgress(), local=True)
    keys = index.shard_rows(0)["key"].to_pylist()
    assert len(set(keys)) == len(names)
    assert all(key.replace("-", "").replace("_", "").isalnum() and key.isascii() for key in keys)


SCRIPT = """
import re, sys
from tests.support.videos import pack_job
from orchestrator.data.packing.pack import run_pack
from orchestrator.progress import SilentProgress

job = pack_job(sys.argv[1], sys.argv[2], bad_limit=1.0, encode={"segment": 600.0})

def peak_kb():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

# Everything is imported by the first packing; what the second adds is the video's own.
run_pack(pack_job(sys.argv[3], sys.argv[2]), SilentProgress(), local=True)
open("/proc/self/clear_refs", "w").write("5")
before = peak_kb()
(index,) = run_pack(job, SilentProgress(), local=True)
print(index.num_clips, (peak_kb() - before) // 1024)
"""


def growth_mb(video: Path, tmp_path: Path) -> tuple[int, int]:
    """Clips made of a video, and by how many MB packing it raised the peak of memory."""
    small = write_video(tmp_path / "small/a.mp4")
    command = [sys.executable, "-c", SCRIPT, str(video), str(tmp_path / "out"), str(small)]
    here = str(Path(__file__).parents[2])
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"PYTHONPATH": here}
    )
    clips, growth = done.stdout.split()
    return int(clips), int(growth)


@pytest.mark.integration
@ON_LINUX
def test_a_ten_hour_video_is_packed_in_bounded_memory(tmp_path: Path) -> None:
    """36,000 frames at one a second, cut into 60 segments."""
    path = tmp_path / "long.mkv"
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("mpeg4", rate=1)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((48, 32), np.uint8), format="yuv420p")
        for number in range(36_000):
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    clips, growth = growth_mb(path, tmp_path)
    assert clips == 60
    assert growth < 100


@pytest.mark.integration
@ON_LINUX
def test_gigantic_frames_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "in/huge.mkv"
    path.parent.mkdir()
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("mjpeg", rate=2)
        stream.width = stream.height = 10000
        stream.pix_fmt = "yuvj420p"
        frame = av.VideoFrame.from_ndarray(
            np.full((10000 * 3 // 2, 10000), 128, np.uint8), format="yuvj420p"
        )
        for number in range(2):
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    write_video(tmp_path / "in/a.mp4")
    clips, growth = growth_mb(tmp_path / "in", tmp_path)
    (dataset,) = [p for p in (tmp_path / "out/datasets").iterdir() if read_rows(p)]
    assert clips == 1
    assert growth < 300
    assert "10000x10000 pixels are too large" in read_rows(dataset)[0]


def read_rows(dataset: Path) -> list[str]:
    return [row.reason for row in read_quarantine(Storage(str(dataset)))]


@pytest.mark.integration
def test_a_full_disk_keeps_what_is_committed(tmp_path: Path) -> None:
    """A limit on file size stands in for a small disk: writing beyond it fails half-way."""
    for number in range(3):
        noise = tmp_path / f"in/v{number}.mp4"
        write_video(noise, frames=40, fps=20)
    script = """
import resource, signal, sys
from tests.support.videos import pack_job
from orchestrator.data.packing.pack import run_pack
from orchestrator.errors import JobFailed
from orchestrator.progress import SilentProgress

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    run_pack(pack_job(sys.argv[1], sys.argv[2]), SilentProgress(), local=True)
except JobFailed as error:
    print(error)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "in"), str(tmp_path / "out")]
    here = str(Path(__file__).parents[2])
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": here})
    assert "packing stopped" in done.stdout
    assert done.stderr == ""
    (index,) = run_pack(pack_job(tmp_path / "in", tmp_path / "out"), SilentProgress(), local=True)
    assert index.num_clips == 3
    assert len(list(Path(index.uri).glob("*.tar"))) == index.num_shards
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 2000
