"""What a person sees before training: a sheet of clips, crops and masks, and a table."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.data.inspection.report import inspect_dataset
from orchestrator.data.packing.pack import run_pack
from orchestrator.errors import RequestError
from orchestrator.progress import SilentProgress
from tests.support.videos import data_job, pack_job, write_tar, write_video


def folder_of(tmp_path: Path) -> Path:
    write_video(tmp_path / "in/a.mp4", frames=60, fps=20)
    write_video(tmp_path / "in/b.mkv", frames=75, fps=25, width=64, height=96)
    (tmp_path / "in/c.mp4").write_bytes(b"?" * 100)
    return tmp_path / "in"


def test_raw_video_is_looked_at_without_packing_it(tmp_path: Path) -> None:
    job = data_job(tmp_path / "out", source=str(folder_of(tmp_path)))
    report = inspect_dataset(job, tmp_path / "look/sheet.png", 6)
    assert (report.sampled, report.inputs, report.clips) == (True, 3, 2)
    assert report.sizes == {"96x64": 1, "64x96": 1}
    assert report.fps == {"20": 1, "25": 1}
    assert sum(report.quarantine.values()) == 1
    assert "not packed yet: 3 inputs" in str(report)
    assert not (tmp_path / "out").exists()
    with Image.open(tmp_path / "look/sheet.png") as sheet:
        assert sheet.width > 300
        assert sheet.height > 600


def test_a_packed_dataset_is_counted_whole(tmp_path: Path) -> None:
    job = pack_job(folder_of(tmp_path), tmp_path / "out", bad_limit=0.5, encode={"segment": 1.6})
    (index,) = run_pack(job, SilentProgress(), local=True)
    report = inspect_dataset(
        data_job(tmp_path / "out", source=index.uri, frames=4), tmp_path / "s.png", 2
    )
    assert (report.sampled, report.clips) == (False, 4)
    assert report.hours == pytest.approx(6 / 3600)
    assert report.codecs == {"h264": 4}
    assert json.loads(json.dumps(asdict(report)))["sizes"] == {"96x64": 2, "64x96": 2}
    assert len(report.quarantine) == 1


def test_tars_from_elsewhere_and_short_clips(tmp_path: Path) -> None:
    long = write_video(tmp_path / "l.mp4", frames=60, fps=20).read_bytes()
    short = write_video(tmp_path / "s.mp4", frames=20, fps=20).read_bytes()
    write_tar(tmp_path / "tars/x.tar", {"a.mp4": long, "b.mp4": short})
    job = data_job(tmp_path / "out", source=str(tmp_path / "tars"))
    report = inspect_dataset(job, tmp_path / "s.png", 4)
    assert (report.clips, report.too_short) == (2, 1)


def test_nothing_to_show_says_why(tmp_path: Path) -> None:
    write_video(tmp_path / "in/a.mp4", frames=20, fps=20)
    job = data_job(tmp_path / "out", source=str(tmp_path / "in"))
    with pytest.raises(RequestError, match=r"no clip can be shown: none lasts 1\.75 s"):
        inspect_dataset(job, tmp_path / "s.png", 4)
