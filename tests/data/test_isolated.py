"""Decoding in processes: the same pixels, and nothing that a clip does harms the training."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.data.loader.clip import EncodedClip
from orchestrator.data.loader.clip_decoder import InProcessDecoder, TrainDecodeConfig
from orchestrator.data.loader.pixel_buffer import PixelBufferPool
from orchestrator.data.loader.subprocess_decoder import SubprocessDecoder
from tests.support.clips import encode_video, feed_job, small_video
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

ROWS = 4

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
        if self.config.crash == "white" and frames.mean() > 250:
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


def recipe(**changes: object) -> TrainDecodeConfig:
    return TrainDecodeConfig.from_job(feed_job(frames=4, fps=8.0, size=24, **changes))


def coded(position: int, payload: bytes | None = None) -> EncodedClip:
    payload = payload or small_video(position)
    return EncodedClip(position, payload, 1.5, hashlib.sha256(payload).hexdigest())


def test_clips_are_those_that_this_process_would_make() -> None:
    what = recipe()
    rows = [coded(0), coded(1), EncodedClip(-1, None), coded(3)]
    here = InProcessDecoder(what, ROWS)
    ours = here.new_buffer()
    expected = here.decode(rows, ours, 0)
    with closing(SubprocessDecoder(what, ROWS)) as maker:
        for _ in range(3):
            theirs = maker.new_buffer()
            found = maker.decode(rows[:3], theirs, 0) + maker.decode(rows[3:], theirs, 3)
            np.testing.assert_array_equal(ours.array, theirs.array)
            for one, other in zip(expected, found, strict=True):
                assert (one.reason, one.sha256) == (other.reason, other.sha256)
                np.testing.assert_equal(one.masks, other.masks)


def test_a_canvas_is_used_again_only_when_nothing_refers_to_it() -> None:
    pool = PixelBufferPool((2, 3))
    buffer = pool.acquire()
    first_block, first = buffer.shared_memory.id, torch.from_numpy(buffer.array)
    del buffer
    kept = first[:1]  # a view of a tensor holds all of it
    number = pool.acquire().shared_memory.id
    del first
    assert pool.acquire().shared_memory.id == number
    second = pool.acquire()
    assert second.shared_memory.id == number
    kept.fill_(7)
    second.array.fill(0)
    assert kept.tolist() == [[7, 7, 7]]
    del kept
    third = pool.acquire()
    assert third.shared_memory.id == first_block != number, "no third block was made"


def test_a_bad_clip_is_named_and_the_others_are_fine() -> None:
    with closing(SubprocessDecoder(recipe(), ROWS)) as maker:
        canvas = maker.new_buffer()
        canvas.array.fill(9)
        found = maker.decode([coded(0), coded(1, b"no video"), coded(2)], canvas, 0)
    assert [clip.reason is None for clip in found] == [True, False, True]
    assert "cannot be decoded" in str(found[1].reason)
    assert not canvas.array[1].any()


def test_a_child_that_is_killed_once_costs_nothing(broken: str, tmp_path: Path) -> None:
    what = recipe(augment={"kind": broken, "flag": str(tmp_path / "killed")})
    with closing(SubprocessDecoder(what, ROWS)) as maker:
        found = maker.decode([coded(0), coded(1)], maker.new_buffer(), 0)
    assert [clip.reason for clip in found] == [None, None]
    assert (tmp_path / "killed").exists()


def test_a_clip_that_crashes_the_decoder_is_a_bad_clip_and_no_other_is(broken: str) -> None:
    what = recipe(augment={"kind": broken, "crash": "white"})
    white = coded(2, encode_video(np.full((12, 32, 32, 3), 255, np.uint8)))
    with closing(SubprocessDecoder(what, ROWS)) as maker:
        canvas = maker.new_buffer()
        canvas.array.fill(9)
        found = maker.decode([coded(0), coded(1), white, coded(3)], canvas, 0)
    reasons = [clip.reason for clip in found]
    assert reasons == [None, None, "crashes the decoder (SIGSEGV)", None]
    assert not canvas.array[2].any()
    assert found[2].sha256 == white.sha256
    assert found[2].masks


def test_what_an_augmentation_raises_arrives_with_its_traceback(broken: str) -> None:
    what = recipe(augment={"kind": broken, "crash": "raise"})
    with (
        closing(SubprocessDecoder(what, ROWS)) as maker,
        pytest.raises(ZeroDivisionError, match="mine") as caught,
    ):
        maker.decode([coded(0)], maker.new_buffer(), 0)
    assert "my_augmentations.py" in "".join(caught.value.__notes__)


def test_each_thread_has_a_process_and_all_end_with_the_maker() -> None:
    maker, before = SubprocessDecoder(recipe(), ROWS), children()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda i: maker.decode([coded(i)], maker.new_buffer(), 0), range(8)))
        started = children() - before
    maker.close()
    assert 1 <= len(started) <= 2
    assert not children() & started


PARENT = """
import signal
from tests.data.test_isolated import *
decoder = SubprocessDecoder(recipe(), ROWS)
decoder.decode([coded(0)], decoder.new_buffer(), 0)
print("ready", flush=True)
signal.pause()
"""


def test_a_child_ends_with_its_parent() -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        left = children(parent.pid)
        parent.kill()
    assert left
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in left))


def children(of: int | None = None) -> set[int]:
    found = Path(f"/proc/{of or os.getpid()}/task").glob("*/children")
    return {int(pid) for task in found for pid in task.read_text().split()}
