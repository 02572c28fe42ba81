"""Looking at data that acts, and training on it from memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.bench.in_process_training import load_clips, train_in_process
from orchestrator.data.inspection.report import inspect_dataset
from orchestrator.progress import SilentProgress
from tests.support.action_videos import action_job, pack_numbered_videos, read_frame_number


def test_inspect_says_what_stands_beside_the_videos(tmp_path: Path) -> None:
    index = pack_numbered_videos(tmp_path)
    for act in ({}, None):
        report = inspect_dataset(
            action_job(index.uri, tmp_path, act=act), tmp_path / "sheet.png", 2
        )
        assert report.arrays == {"actions of 3, states of 3": 6}
        assert "\narrays     actions of 3, states of 3 (6)\n" in str(report)
        assert (report.clips, report.quarantine) == (6, {})
    plain = pack_numbered_videos(tmp_path, tag="plain", change=bare)
    report = inspect_dataset(action_job(plain.uri, tmp_path, act=None), tmp_path / "sheet.png", 2)
    assert report.arrays == {}
    assert "arrays" not in str(report)


def bare(video: int, made: dict[str, Any]) -> None:
    del made["actions"], made["states"]


def test_clips_in_memory_keep_what_was_done_in_them(tmp_path: Path) -> None:
    job = action_job(pack_numbered_videos(tmp_path).uri, tmp_path)
    clips = load_clips(job, 10, SilentProgress())
    assert clips.action_config is not None
    assert clips.action_config.frameskip == 2
    assert (len(clips.video), len(clips.clip_actions)) == (10, 10)
    for video, moved in zip(clips.video, clips.clip_actions, strict=True):
        shown = [read_frame_number(frame) for frame in video]
        np.testing.assert_array_equal(moved.states[:, 0], [1000 + f for f in shown])
    (reached,) = train_in_process(job, clips, [2])
    assert np.isfinite(reached.loss)
