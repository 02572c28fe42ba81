"""Looking at data that acts, and training on it from memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.bench.in_process_training import clips_in_memory, train_quickly
from orchestrator.data.inspection.report import inspect_dataset
from orchestrator.progress import Silent
from tests.support.action_videos import act_job, number_of, packed


def test_inspect_says_what_stands_beside_the_videos(tmp_path: Path) -> None:
    index = packed(tmp_path)
    for act in ({}, None):
        report = inspect_dataset(act_job(index.uri, tmp_path, act=act), tmp_path / "sheet.png", 2)
        assert report.arrays == {"actions of 3, states of 3": 6}
        assert "\narrays     actions of 3, states of 3 (6)\n" in str(report)
        assert (report.clips, report.quarantine) == (6, {})
    plain = packed(tmp_path, tag="plain", change=bare)
    report = inspect_dataset(act_job(plain.uri, tmp_path, act=None), tmp_path / "sheet.png", 2)
    assert report.arrays == {}
    assert "arrays" not in str(report)


def bare(video: int, made: dict[str, Any]) -> None:
    del made["actions"], made["states"]


def test_clips_in_memory_keep_what_was_done_in_them(tmp_path: Path) -> None:
    job = act_job(packed(tmp_path).uri, tmp_path)
    clips = clips_in_memory(job, 10, Silent())
    assert clips.act is not None
    assert clips.act.block == 2
    assert (len(clips.video), len(clips.moved)) == (10, 10)
    for video, moved in zip(clips.video, clips.moved, strict=True):
        shown = [number_of(frame) for frame in video]
        np.testing.assert_array_equal(moved.states[:, 0], [1000 + f for f in shown])
    (reached,) = train_quickly(job, clips, [2])
    assert np.isfinite(reached.loss)
