"""H.264 out of frames: what comes back when it is decoded."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from orchestrator.data.codec.decode import decode_clip
from orchestrator.data.codec.encode import encode_h264
from orchestrator.job import TranscodeConfig


def _frames(count: int = 20, height: int = 48, width: int = 64) -> np.ndarray:
    """A soft pattern that moves, uint8 `[count, height, width, 3]`."""
    t, y, x = np.mgrid[:count, :height, :width]
    planes = [np.sin((x + 2 * t) / 9), np.cos((y - t) / 7), np.sin((x + y) / 12)]
    return np.stack([127 + 100 * plane for plane in planes], axis=3).astype(np.uint8)


def test_frames_come_back_alike_at_their_times() -> None:
    frames = _frames()
    payload = encode_h264(frames, Fraction(30000, 1001), gop=8, crf=18)
    with av.open(io.BytesIO(payload)) as container:
        stream = container.streams.video[0]
        decoded = list(container.decode(stream))
        assert stream.codec_context.name == "h264"
        assert stream.average_rate == Fraction(30000, 1001)
        assert stream.codec_context.pix_fmt == "yuv420p"
    assert [f.time for f in decoded] == pytest.approx([n * 1001 / 30000 for n in range(20)])
    back = np.stack([f.to_ndarray(format="rgb24") for f in decoded])
    error = np.mean((back.astype(float) - frames) ** 2)
    assert 10 * np.log10(255**2 / error) > 33
    keys = [n for n, f in enumerate(decoded) if f.key_frame]
    assert np.diff([*keys, 20]).max() <= 8


@pytest.mark.parametrize(("height", "width"), [(48, 64), (96, 96), (98, 50)])
def test_same_frames_same_bytes_whatever_lies_in_memory(height: int, width: int) -> None:
    frames = _frames(12, height, width)
    first = encode_h264(frames, 24, gop=60, crf=23)
    rubbish: list[np.ndarray] = []
    for turn in range(8):
        # The allocator hands the encoder what these leave behind.
        rubbish.append(np.random.default_rng(turn).integers(0, 255, 70000 * (turn + 1)))
        if turn % 3 == 2:
            rubbish.clear()
        assert encode_h264(iter(frames), Fraction(24), gop=60, crf=23) == first


def test_full_chroma_keeps_coloured_edges() -> None:
    frames = np.full((6, 32, 32, 3), 90, np.uint8)
    for t, frame in enumerate(frames):
        frame[8:19, 5 + 2 * t : 16 + 2 * t] = (220, 40, 60)  # odd edges: between chroma's samples
    times, errors = np.arange(6) / 8, {}
    for chroma in ("half", "full"):
        payload = encode_h264(frames, 8, gop=8, crf=4, chroma=chroma)
        with av.open(io.BytesIO(payload)) as container:
            found = container.streams.video[0].codec_context.pix_fmt
        assert found == {"half": "yuv420p", "full": "yuv444p"}[chroma]
        back = decode_clip(payload, times, size=32)
        errors[chroma] = float(np.mean((back.astype(float) - frames) ** 2))
    assert errors["full"] < errors["half"] / 10


def test_what_was_packed_before_there_was_a_choice_stays_the_same() -> None:
    plain = TranscodeConfig().model_dump(mode="json")
    assert "chroma" not in plain
    assert TranscodeConfig(chroma="full").model_dump(mode="json") == {**plain, "chroma": "full"}
    assert TranscodeConfig.model_validate(plain).chroma == "half"


def test_a_higher_crf_is_smaller() -> None:
    frames = _frames()
    sizes = [len(encode_h264(frames, 24, gop=60, crf=crf)) for crf in (18, 28, 38)]
    assert sizes[0] > sizes[1] > sizes[2]


def test_what_cannot_be_encoded_is_refused() -> None:
    with pytest.raises(ValueError, match="even"):
        encode_h264(_frames(2, 47, 64), 24, gop=60, crf=23)
    with pytest.raises(ValueError, match="uint8"):
        encode_h264(_frames(2).astype(float), 24, gop=60, crf=23)
    with pytest.raises(ValueError, match="change size"):
        encode_h264([_frames(1)[0], _frames(1, 64, 64)[0]], 24, gop=60, crf=23)
    with pytest.raises(ValueError, match="no frames"):
        encode_h264([], 24, gop=60, crf=23)
