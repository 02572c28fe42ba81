"""Decoding in processes: the same pixels, and nothing that a clip does harms the training."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from orchestrator.data.augment import build_cutter
from orchestrator.data.isolated import IsolatedCutter
from orchestrator.errors import DataError
from orchestrator.job import Data
from tests.data.made_clips import small_video, train_job

CLIP = {"frames": 4, "fps": 8.0, "size": 24}
TIMES = np.arange(4) / 8

AUGMENTATIONS = """
import os, pathlib, signal
import numpy as np
from pydantic import BaseModel

class Broken:
    class Config(BaseModel):
        flag: str = ""
        crash: str = ""

    def __init__(self, config, size):
        self.config, self.size = config, size

    def __call__(self, frames, rng):
        if self.config.flag and not os.path.exists(self.config.flag):
            pathlib.Path(self.config.flag).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.config.crash == "always":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.config.crash == "raise":
            raise ZeroDivisionError("mine")
        return np.full((len(frames), self.size, self.size, 3), os.getpid() % 251, np.uint8)
"""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_augmentations.py").write_text(AUGMENTATIONS)
    monkeypatch.syspath_prepend(tmp_path)
    return "my_augmentations:Broken"


def data(**changes: object) -> Data:
    return train_job(**CLIP, **changes).data


def frames() -> np.ndarray:
    return np.empty((4, 24, 24, 3), np.uint8)


def test_pixels_are_those_that_this_process_would_decode() -> None:
    job, ours = data(), frames()
    with closing(IsolatedCutter(job)) as cutter:
        for seed in range(5):
            theirs = frames()
            cutter(small_video(seed), TIMES, np.random.default_rng(seed), theirs)
            build_cutter(job)(small_video(seed), TIMES, np.random.default_rng(seed), ours)
            np.testing.assert_array_equal(ours, theirs)


def test_a_bad_clip_is_named_and_the_next_one_is_fine() -> None:
    with closing(IsolatedCutter(data())) as cutter:
        with pytest.raises(DataError, match="cannot be decoded"):
            cutter(b"no video", TIMES, np.random.default_rng(0), frames())
        cutter(small_video(), TIMES, np.random.default_rng(0), frames())


def test_a_child_that_is_killed_once_costs_nothing(broken: str, tmp_path: Path) -> None:
    job = data(augment={"kind": broken, "flag": str(tmp_path / "killed")})
    with closing(IsolatedCutter(job)) as cutter:
        cutter(small_video(), TIMES, np.random.default_rng(0), frames())
    assert (tmp_path / "killed").exists()


def test_a_clip_that_crashes_the_decoder_is_a_bad_clip(broken: str) -> None:
    job = data(augment={"kind": broken, "crash": "always"})
    with (
        closing(IsolatedCutter(job)) as cutter,
        pytest.raises(DataError, match=r"crashes the decoder .*SIGSEGV"),
    ):
        cutter(small_video(), TIMES, np.random.default_rng(0), frames())


def test_what_an_augmentation_raises_arrives_with_its_traceback(broken: str) -> None:
    job = data(augment={"kind": broken, "crash": "raise"})
    with (
        closing(IsolatedCutter(job)) as cutter,
        pytest.raises(ZeroDivisionError, match="mine") as caught,
    ):
        cutter(small_video(), TIMES, np.random.default_rng(0), frames())
    assert "my_augmentations.py" in "".join(caught.value.__notes__)


def test_each_thread_has_a_process_and_all_end_with_the_cutter(broken: str) -> None:
    cutter, out = IsolatedCutter(data(augment={"kind": broken})), [frames() for _ in range(8)]
    before = children()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda one: cutter(small_video(), TIMES, np.random.default_rng(0), one), out))
        started = children() - before
    cutter.close()
    assert 1 <= len(started) <= 2
    assert not children() & started


PARENT = """
import signal
from tests.data.test_isolated import *
IsolatedCutter(data())(small_video(), TIMES, np.random.default_rng(0), frames())
print("ready", flush=True)
signal.pause()
"""


def test_a_child_ends_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        left = children(parent.pid)
        parent.kill()
    assert left
    until = time.monotonic() + 30
    while any(os.path.exists(f"/proc/{pid}") for pid in left) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in left)


def children(of: int | None = None) -> set[int]:
    found = Path(f"/proc/{of or os.getpid()}/task").glob("*/children")
    return {int(pid) for task in found for pid in task.read_text().split()}
