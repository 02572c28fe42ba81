"""Videos as the field has them: odd timestamps, edit lists, orientations, colours and streams.

Every frame carries its number as black and white squares and a coloured bar at its top and left
side, so that a wrong frame, order, orientation or colour is seen in its pixels.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

WIDTH, HEIGHT = 96, 64
TOP_BAR_COLOUR, LEFT_BAR_COLOUR = (220, 30, 30), (30, 60, 200)
"""Colours of the bars."""


def numbered_frame(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """uint8 [height, width, 3]: 8 bits as squares below a red bar and right of a blue one."""
    frame = np.full((height, width, 3), 90, np.uint8)
    bits = (number >> np.arange(8).reshape(2, 4)) & 1
    squares = bits.repeat(height // 4, 0).repeat(width // 6, 1)
    top, left = height // 4, width // 5
    frame[top : top + squares.shape[0], left : left + squares.shape[1]] = (
        30 + 190 * squares[..., None]
    )
    frame[: height // 8] = TOP_BAR_COLOUR
    frame[:, : width // 10] = LEFT_BAR_COLOUR
    return frame


def encode_frames(
    frames: Sequence[np.ndarray],
    *,
    codec: str = "libx264",
    rate: int = 10,
    pix_fmt: str = "yuv420p",
    colour: tuple[int, int] | None = None,
    pixel: Fraction | None = None,
    **options: str,
) -> bytes:
    """A plain file of frames, a tick each.

    Args:
        colour: matrix and range by their ISO/IEC 23091-2 codes; None: not named.
        pixel: width of a pixel over its height.
    """
    if codec == "libx264":
        options = {"crf": "4", "sc_threshold": "0", "bf": "0", "g": "12", **options}
    buffer = io.BytesIO()
    format = "mov" if codec in ("qtrle", "prores_ks", "png") else "nut"
    with av.open(buffer, "w", format=format) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        context = stream.codec_context
        context.time_base, context.thread_count = Fraction(1, rate), 1
        if pixel:
            context.sample_aspect_ratio = pixel
        if colour:
            context.colorspace, context.color_range = colour
        for number, image in enumerate(frames):
            given = {"dst_colorspace": colour[0], "dst_color_range": colour[1]} if colour else {}
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            picture = picture.reformat(format=pix_fmt, **given)
            picture.pts, picture.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def write_with_timestamps(
    path: Path,
    frames: Sequence[np.ndarray] | int = 40,
    *,
    ticks: Sequence[int | None] | None = None,
    base: Fraction = Fraction(1, 1000),
    rate: int = 10,
    format: str | None = None,
    rotation: int = 0,
    **options: Any,
) -> Path:
    """A video file.

    Args:
        frames: pictures, or a number of numbered ones.
        ticks: presentation times in ticks of `base` seconds, in display order; by default `rate`
            frames a second.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [numbered_frame(n) for n in range(frames)] if isinstance(frames, int) else frames
    if ticks is None:
        ticks = [round(n / rate / base) for n in range(len(pictures))]
    known = [tick for tick in ticks if tick is not None]
    step = max(1, round(1 / rate / base))
    plain = io.BytesIO(encode_frames(pictures, rate=rate, **options))
    with av.open(plain) as read, av.open(str(path), "w", format=format) as out:
        packets = [packet for packet in read.demux(video=0) if packet.size]
        stream: Any = out.add_stream_from_template(read.streams.video[0])
        stream.time_base = base
        if rotation:
            stream.set_display_rotation(rotation)
        order = np.argsort([packet.pts for packet in packets]).tolist()
        early = max(coded - number for number, coded in enumerate(order))
        given = {packets[coded].pts: tick for coded, tick in zip(order, ticks, strict=True)}
        # Decoding times rise and are not after any frame's own time.
        rising = np.maximum.accumulate(np.sort(known) - early * step)
        coded = [given[packet.pts] for packet in packets]
        late = len(rising) == len(coded) and (rising > np.array(coded)).any()
        if len(rising) < len(packets) or (np.diff(rising) <= 0).any() or late:
            rising = min(known) - (early + 1) * step + np.arange(len(packets))
        for number, packet in enumerate(packets):
            tick = given[packet.pts]
            packet.stream, packet.time_base = stream, base
            packet.pts, packet.dts, packet.duration = tick, int(rising[number]), step
            out.mux(packet)
    return path


def set_edit_list(path: Path, edits: Sequence[tuple[float, float]]) -> Path:
    """Replace an mp4's edit list by edits of (duration, start), both in seconds; a start of -1 is
    an empty edit. The table of contents stands behind the pictures, so nothing else moves."""
    body = path.read_bytes()
    with av.open(str(path)) as container:
        media = container.streams.video[0].time_base
    at, stack = body.index(b"edts") - 4, [body.index(b"moov") - 4, body.index(b"trak") - 4]
    size = int.from_bytes(body[at : at + 4], "big")
    movie = int.from_bytes(body[body.index(b"mvhd") + 16 :][:4], "big")
    rows = b"".join(
        struct.pack(">Iii", round(long * movie), -1 if start < 0 else round(start / media), 1 << 16)
        for long, start in edits
    )
    elst = struct.pack(">I4sII", 16 + len(rows), b"elst", 0, len(edits)) + rows
    edts = struct.pack(">I4s", 8 + len(elst), b"edts") + elst
    changed = bytearray(body[:at] + edts + body[at + size :])
    for parent in stack:
        old = int.from_bytes(changed[parent : parent + 4], "big")
        changed[parent : parent + 4] = (old + len(edts) - size).to_bytes(4, "big")
    assert body.index(b"mdat") < stack[0]
    path.write_bytes(changed)
    return path


def remuxed(path: Path, target: Path, *, title: str = "", **options: str) -> Path:
    """The same coded pictures in another file, with options of its container's muxer."""
    with av.open(str(path)) as read, av.open(str(target), "w", options=options) as out:
        if title:
            out.metadata["title"] = title
        stream = out.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    return target


def concatenate_files(path: Path, *parts: Path) -> Path:
    """Files one behind another, as `cat` joins them."""
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


DISPLAY_MATRICES = {
    "upright": (65536, 0, 0, 65536),
    "mirrored": (-65536, 0, 0, 65536),
    "turned": (-65536, 0, 0, -65536),
    "flipped": (65536, 0, 0, -65536),
    "transposed": (0, 65536, 65536, 0),
    "right": (0, 65536, -65536, 0),
    "transversed": (0, -65536, -65536, 0),
    "left": (0, -65536, 65536, 0),
}
"""a, b, c, d of the eight orientations, 16.16 fixed point."""


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Write a display matrix into an mp4's track header."""
    body = bytearray(path.read_bytes())
    at = body.index(b"tkhd") + 4 + 40
    for place, value in zip((0, 4, 12, 16), (a, b, c, d), strict=True):
        body[at + place : at + place + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(body)
    return path
