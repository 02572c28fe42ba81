"""From the bytes of a coded clip to uint8 frames: chosen by timestamp, cropped and scaled.

Only what is needed is decoded: from the key frame before the first frame wanted to the last
frame wanted, and of H.264's frames that no other frame refers to only the wanted ones.
One thread per decoder: many clips are decoded side by side, and FFmpeg releases the GIL.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import av
import numpy as np

from orchestrator.errors import DataError

# Pictures with nal_ref_idc 0 are never referred to. HEVC's and AV1's counterparts may be, by
# higher temporal layers, so there everything is decoded.
_SKIPPABLE = ("h264",)

# swscale's names of the colour matrices that a decoder reports (ISO/IEC 23091-2 codes).
_MATRICES = {1: "bt709", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 9: "bt2020nc"}

# What makes a frame upright, by quarter turns to the left.
_UPRIGHT: tuple[list[tuple[str, str | None]], ...] = (
    [],
    [("transpose", "cclock")],
    [("hflip", None), ("vflip", None)],
    [("transpose", "clock")],
)


_KEPT_PACKETS = 256
"""Of a clip that is short its packets are read once; a thousand that are kept set off Python's
garbage collection."""

_KEPT_GRAPHS = 8
"""Filter graphs of a thread: enough for whole frames, mirrored or not, of some sizes; random crops
are hardly ever met again."""


@dataclass(frozen=True)
class Crop:
    """A box in pixels of the upright frame, and whether it is mirrored."""

    x: float
    y: float
    width: float
    height: float
    flip: bool = False


STILL_S = 0.0
"""Seconds that a picture lasts, by the index: no video does, and that tells them apart."""

ChooseCrop = Callable[[float, float], Crop]
"""From the upright frame's width and height to a crop."""


def clip_times(rng: np.random.Generator, duration_s: float, frames: int, fps: float) -> np.ndarray:
    """Seconds from a video's first frame at which a clip's frames are taken; float64 [T].

    The start is drawn evenly from all that fit. A picture has one moment, at which all are taken.

    Raises:
        DataError: the video is shorter than a clip.
    """
    if duration_s == STILL_S:
        return np.zeros(frames)
    span = (frames - 1) / fps
    room = duration_s - span
    if room <= 0:
        raise DataError(f"lasts {duration_s:.2f} s, a clip needs more than {span:.2f} s")
    return np.asarray(rng.random() * room + np.arange(frames) / fps)


def decode_clip(
    payload: bytes | memoryview,
    times: np.ndarray,
    *,
    size: int | None = None,
    crop: ChooseCrop | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The frames shown at `times`; uint8 [T, size, size, 3], or [T, H, W, 3] without `size`.

    Args:
        times: float64: seconds from the first frame, ascending. The frame shown at t is the last
            one whose timestamp is not after t. int64: numbers of frames from 0, in the order in
            which they are shown, whatever their timestamps are.
        size: pixels of the square that the crop (default: the whole frame) is scaled to.
        crop: chooses the box once the upright frame's size is known.
        out: where to write, if not into a new array.

    Raises:
        DataError: the payload is not a video, is damaged, or ends before the last time.
    """
    try:
        with av.open(io.BytesIO(payload)) as container:
            if not container.streams.video:
                raise DataError("has no video stream")
            return _decode(container, times, size, crop, out)
    except av.FFmpegError as error:
        raise DataError(f"cannot be decoded: {error.strerror}") from None


def _decode(
    container: Any,
    times: np.ndarray,
    size: int | None,
    crop: ChooseCrop | None,
    out: np.ndarray | None,
) -> np.ndarray:
    stream = container.streams.video[0]
    base = float(stream.time_base)
    kept: list[Any] = []
    if times.dtype.kind == "i":
        wanted, kept = _shown_at(container, stream, times)
    else:
        wanted = (stream.start_time or 0) + times / base
    packets = _cut_out(kept, wanted) or _read_packets(container, stream, wanted)
    chosen = _choose(packets, wanted, base)
    slots: dict[int, list[int]] = {}
    for slot, pts in enumerate(chosen.tolist()):
        slots.setdefault(pts, []).append(slot)

    picture: _Picture | None = None
    left = set(slots)
    for frame in _frames(stream.codec_context, packets, left):
        if frame.is_corrupt:
            raise DataError(f"is damaged at {frame.time:.2f} s")
        if picture is None or not picture.fits(frame):
            picture = _Picture(frame, stream.sample_aspect_ratio, size, crop)
        image = picture.image(frame)
        if out is None:
            out = np.empty((len(times), *image.shape), np.uint8)
        if image.shape != out.shape[1:]:
            raise DataError("changes its frame size on the way")
        for slot in slots[frame.pts]:
            out[slot] = image
        left.discard(frame.pts)
    if left or out is None:
        raise DataError(f"{len(left)} of {len(slots)} frames are missing")
    return out


def _shown_at(container: Any, stream: Any, numbers: np.ndarray) -> tuple[np.ndarray, list[Any]]:
    """Timestamps (ticks) of frames by their numbers, counted as packing counts them, and all
    packets, in decoding order, if they are few. Nothing is decoded for it."""
    shown: list[tuple[Any, bool]] = []
    kept: list[Any] = []
    for packet in container.demux(stream):
        if packet.size:
            shown.append((packet.pts, packet.is_discard))
            if len(shown) <= _KEPT_PACKETS:
                kept.append(packet)
    if any(tick is None for tick, _ in shown):
        raise DataError("has frames without a timestamp", mend="pack it with mode h264")
    if numbers[-1] >= len(shown):
        raise DataError(f"has {len(shown)} frames, frame {numbers[-1]} is wanted")
    shown.sort()
    chosen = [shown[number] for number in numbers.tolist()]
    if any(hidden for _, hidden in chosen):
        raise DataError("hides frames that rows of its arrays stand for")
    ticks = np.array([tick for tick, _ in chosen], dtype=np.float64)
    return ticks, kept if len(kept) == len(shown) else []


def _cut_out(packets: list[Any], wanted: np.ndarray) -> list[Any]:
    """What `_read_packets` would read again; none where no key frame comes early enough."""
    for first in reversed(range(len(packets))):
        if packets[first].is_keyframe and packets[first].pts <= wanted[0] + 0.5:
            return _until(packets[first:], wanted[-1])
    return []


def _read_packets(container: Any, stream: Any, wanted: np.ndarray) -> list[Any]:
    """Packets, in decoding order, from the key frame before the first time to the last time."""
    target = int(wanted[0])
    while True:
        container.seek(target, stream=stream, backward=True)
        packets = _until(container.demux(stream), wanted[-1])
        if not packets:
            raise DataError("holds no frames")
        first = packets[0]
        # A demuxer that seeks by decoding time can land on a key frame that is shown too late.
        if first.pts <= wanted[0] + 0.5 or target <= (stream.start_time or 0):
            return packets
        earlier = first.pts if first.dts is None else first.dts
        target = max(min(target, earlier) - 1, stream.start_time or 0)


def _until(stream: Iterable[Any], last: float) -> list[Any]:
    """Packets from the first key frame to the last time."""
    packets: list[Any] = []
    for packet in stream:
        if packet.size == 0 or (not packets and not packet.is_keyframe):
            continue
        if packet.pts is None:
            raise DataError("has frames without a timestamp", mend="pack it with mode h264")
        if packet.is_corrupt:
            raise DataError("is damaged")
        # Frames are shown no earlier than they are decoded: nothing wanted comes after this.
        # (Matroska does not store decoding times; right after a seek they are unknown.)
        if packet.dts is not None and packet.dts > last + 0.5:
            break
        packets.append(packet)
    return packets


def _choose(packets: list[Any], wanted: np.ndarray, base: float) -> np.ndarray:
    """Timestamps of the frames shown at the wanted times (both in ticks of `base` seconds)."""
    shown = np.sort(np.array([p.pts for p in packets if not p.is_discard], dtype=np.int64))
    at = np.searchsorted(shown, wanted + 0.5, side="right") - 1
    if not len(shown) or at[0] < 0:
        raise DataError("has no key frame before the clip's first frame")
    longest = max(packets[-1].duration or 0, int(np.max(np.diff(shown), initial=1)))
    end = shown[-1] + longest
    if wanted[-1] > end + 0.5:
        short = (wanted[-1] - end) * base
        raise DataError(f"ends {short:.2f} s before the clip's last frame")
    return np.asarray(shown[at])


def _frames(context: Any, packets: list[Any], wanted: set[int]) -> Any:
    """Yield the wanted frames; `wanted` may shrink on the way."""
    context.thread_type, context.thread_count = "NONE", 1
    may_skip = context.name in _SKIPPABLE
    last = max(i for i, packet in enumerate(packets) if packet.pts in wanted)
    skipping = False
    for packet in [*packets[: last + 1], None]:
        if may_skip and packet is not None and (packet.pts not in wanted) != skipping:
            skipping = not skipping
            context.skip_frame = "NONREF" if skipping else "DEFAULT"
        for frame in context.decode(packet):
            if frame.pts in wanted:
                yield frame


class _Picture:
    """Crops, scales, turns and mirrors frames of one geometry, with one FFmpeg filter graph."""

    def __init__(
        self, frame: Any, aspect: Any, size: int | None, choose: ChooseCrop | None
    ) -> None:
        self._like = _geometry(frame)
        turns = round(frame.rotation / 90) % 4
        width, height = float(frame.width), float(frame.height)
        stretch = float(aspect) if aspect else 1.0  # width of a stored pixel over its height
        upright = (height, width * stretch) if turns % 2 else (width * stretch, height)
        box = choose(*upright) if choose else Crop(0, 0, *upright)
        x, y, w, h = _stored_box(box, upright, turns)
        filters: list[tuple[str, str | None]]
        filters = [("crop", _even_box(x / stretch, y, w / stretch, h, frame))]
        if size is not None:
            # First to the size, then to RGB: half the time of swscale's direct way.
            filters += [("scale", f"{size}:{size}:flags=bilinear"), ("format", _stored(frame))]
        filters += _UPRIGHT[turns] + ([("hflip", None)] if box.flip else [])
        filters += [("scale", None), ("format", "rgb24"), ("buffersink", None)]
        self._graph = _graph(frame, filters)

    def fits(self, frame: Any) -> bool:
        return _geometry(frame) == self._like

    def image(self, frame: Any) -> np.ndarray:
        """uint8 [H, W, 3], upright."""
        try:
            self._graph.push(frame)
            image: np.ndarray = self._graph.pull().to_ndarray()
        except av.FFmpegError:
            _thread.graphs.clear()  # the next clip must not get what this one left in it
            raise
        return image


def _stored(frame: Any) -> str:
    """Colour at full resolution where the video has it, else at half."""
    return "yuv444p" if frame.format.name == "yuv444p" else "yuv420p"


def _geometry(frame: Any) -> tuple[Any, ...]:
    return frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range


def _stored_box(
    box: Crop, upright: tuple[float, float], turns: int
) -> tuple[float, float, float, float]:
    """The box in the stored frame, which `turns` quarter turns to the left make upright."""
    width, height = upright
    right, bottom = width - box.x - box.width, height - box.y - box.height
    return {
        0: (box.x, box.y, box.width, box.height),
        1: (bottom, box.x, box.height, box.width),
        2: (right, bottom, box.width, box.height),
        3: (box.y, right, box.height, box.width),
    }[turns]


def _even_box(x: float, y: float, width: float, height: float, frame: Any) -> str:
    """As the crop filter takes it: even numbers (two pixels share a chroma sample), inside."""
    w = min(max(round(width / 2) * 2, 2), frame.width)
    h = min(max(round(height / 2) * 2, 2), frame.height)
    left = min(max(int(x), 0), frame.width - w) // 2 * 2
    top = min(max(int(y), 0), frame.height - h) // 2 * 2
    return f"{w}:{h}:{left}:{top}"


class _Thread(threading.local):
    """What a thread keeps from clip to clip: to build a graph takes longer than a small clip's
    frames in it."""

    def __init__(self) -> None:
        self.graphs: dict[tuple[tuple[str, str | None], ...], Any] = {}


_thread = _Thread()


def _graph(frame: Any, filters: list[tuple[str, str | None]]) -> Any:
    source = f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1"
    if frame.colorspace in _MATRICES:
        source += f":colorspace={_MATRICES[frame.colorspace]}"
    if frame.color_range in (1, 2):
        source += f":range={'tv' if frame.color_range == 1 else 'pc'}"
    nodes = (("buffer", source), *filters)
    kept = _thread.graphs
    if nodes not in kept:
        if len(kept) >= _KEPT_GRAPHS:
            kept.pop(next(iter(kept)))
        kept[nodes] = _built(nodes)
    return kept[nodes]


def _built(nodes: tuple[tuple[str, str | None], ...]) -> Any:
    graph = av.filter.Graph()
    graph.threads = 1
    graph.link_nodes(*(graph.add(name, args) for name, args in nodes))
    graph.configure()
    return graph
