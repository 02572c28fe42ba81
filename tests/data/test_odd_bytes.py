"""Bytes that were changed, cut, repeated or wiped end in a reason, never in another error; and
finding a clip takes few seeks, whatever the container."""

from __future__ import annotations

import contextlib
import io
import random
from pathlib import Path
from typing import Any

import pytest

from orchestrator.data.codec import container, packet_reader
from orchestrator.data.codec.decode import decode_clip
from orchestrator.data.codec.seekable import probe_seekable
from orchestrator.data.sources.raw_clips import split_into_clips
from orchestrator.errors import DataError
from orchestrator.job import TranscodeConfig
from tests.support.unusual_videos import set_edit_list, write_with_timestamps

KINDS: dict[str, dict[str, Any]] = {
    "a.mp4": {"bf": "2"},
    "a.mkv": {"bf": "2"},
    "a.ts": {},
    "a.flv": {},
    "a.avi": {"codec": "mpeg4"},
    "a.mpg": {"codec": "mpeg2video", "rate": 25},
    "a.webm": {"codec": "libvpx-vp9"},
    "edited.mp4": {"bf": "2"},
}


def video(folder: Path, name: str) -> bytes:
    path = write_with_timestamps(folder / name, 24, **KINDS[name])
    if name == "edited.mp4":
        set_edit_list(path, [(1.5, 0.5)])
    return path.read_bytes()


def damaged(body: bytes, rng: random.Random) -> bytes:
    """One of five kinds of damage, at a drawn place."""
    changed, at = bytearray(body), rng.randrange(len(body))
    kind = rng.choice(["bytes", "headers", "cut", "zeros", "repeated"])
    if kind == "cut":
        return body[:at]
    if kind == "zeros":
        changed[at : at + rng.randrange(400)] = bytes(200)
    elif kind == "repeated":
        changed[at:at] = changed[at : at + rng.randrange(3000)]
    else:
        first = max(0, body.find(b"moov"))
        room = len(body) if kind == "bytes" else min(700, len(body) - first)
        for _ in range(rng.choice([1, 3, 20])):
            changed[rng.randrange(room) + (first if kind == "headers" else 0)] = rng.randrange(256)
    return bytes(changed)


def use(body: bytes) -> None:
    """Every way a video is used; nothing but a reason may come of it."""
    for mode in ("h264", "copy"):
        encode = TranscodeConfig(mode=mode, segment=1.0, short_side=64)  # type: ignore[arg-type]
        with contextlib.suppress(DataError):
            list(split_into_clips(io.BytesIO(body), "key", "source", encode, {}))
    with contextlib.suppress(DataError):
        facts = probe_seekable(io.BytesIO(body))
        decode_clip(body, facts.frame_times[[0, facts.frames // 2, -1]])


@pytest.mark.parametrize("name", KINDS)
def test_damage_of_any_kind_ends_in_a_reason(name: str, tmp_path: Path) -> None:
    body = video(tmp_path, name)
    for seed in range(8):
        use(damaged(body, random.Random(f"{name}{seed}")))


def test_a_header_that_asks_for_a_place_no_file_has_is_damage(tmp_path: Path) -> None:
    """Of a file on a disk such a seek is an error of the system, which would stop the packing."""
    path = tmp_path / "a.mp4"
    path.write_bytes(video(tmp_path, "a.mp4"))
    with open(path, "rb") as file:
        bounded = container._SeekClampedFile(file)
        assert bounded.seek(1 << 62) == path.stat().st_size
        assert bounded.read(1) == b""
        assert bounded.seek(-5) == 0
        assert len(bounded.read(8)) == 8


@pytest.mark.nightly
@pytest.mark.parametrize("name", KINDS)
def test_much_damage_of_any_kind_ends_in_a_reason(name: str, tmp_path: Path) -> None:
    body = video(tmp_path, name)
    for seed in range(250):
        use(damaged(body, random.Random(f"much {name}{seed}")))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.flv"])
def test_a_clip_is_found_with_few_seeks(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container without an index is searched in steps that double, not tick by tick."""
    body = write_with_timestamps(tmp_path / name, 250, **{"g": "50", **KINDS[name]}).read_bytes()
    calls: list[int] = []
    until = packet_reader._take_until

    def counted(*args: Any) -> list[Any]:
        packets = until(*args)
        calls.append(len(packets))
        return packets

    monkeypatch.setattr(packet_reader, "_take_until", counted)
    facts = probe_seekable(io.BytesIO(body))
    for number in (0, 49, 50, 120, 249):
        calls.clear()
        decode_clip(body, facts.frame_times[number : number + 1])
        assert len(calls) <= 7
        assert sum(calls) <= 260
