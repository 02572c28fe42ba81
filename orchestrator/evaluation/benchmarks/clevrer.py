"""CLEVRER (arXiv 1910.01442): colliding objects, with their states.

Layout: 20,000 videos of 128 frames, 480 x 320, in folders of a thousand:
`video_10000-11000/video_10000.mp4`, for train and validation with
`annotation_10000-11000/annotation_10000.json`. The number says the split: below 10000 train, below
15000 validation, then test (without annotations). What is above those folders differs from user to
user (`video_train/`, `videos/train/`), so they are looked for anywhere. An annotation holds, in
`motion_trajectory`, for each frame `frame_id` and `objects`: `location`, `velocity`,
`inside_camera_view`.

Read in the data set's README (data.csail.mit.edu/clevrer) and users' loaders. The real set was not
at hand.

Objects have no order that a probe could learn. What is read off are therefore means over the
objects in view (location and velocity along the ground's two axes, in the annotation's units), and
how many there are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np

from orchestrator.data.codec.video_probe import VideoInfo
from orchestrator.errors import DataError, RequestError
from orchestrator.evaluation.benchmarks.clips import BenchmarkClip, ClipListing, DecodedClips
from orchestrator.evaluation.benchmarks.decode import decode_video_clip
from orchestrator.evaluation.benchmarks.model_inputs import ClipFormat
from orchestrator.evaluation.benchmarks.scenes import (
    ExcludedItem,
    hash_fraction,
    select_names_by_hash,
)
from orchestrator.job.config.benchmark import Clevrer
from orchestrator.storage import Storage

STATE_NAMES = ("x", "y", "vx", "vy", "objects")

_VIDEO = re.compile(r"(?:^|/)video_\d{5}-\d{5}/video_(\d{5})\.mp4$")
_ANNOTATION = re.compile(r"(?:^|/)annotation_\d{5}-\d{5}/annotation_(\d{5})\.json$")
_SPLITS = {"train": range(10_000), "validation": range(10_000, 15_000)}


def list_clips(benchmark: Clevrer, storage: Storage) -> ClipListing:
    """The annotated videos of the validation split, and what to choose on.

    Raises:
        RequestError: a split is not there.
    """
    videos: dict[int, str] = {}
    annotations: dict[int, str] = {}
    for file in storage.files():
        for pattern, there in ((_VIDEO, videos), (_ANNOTATION, annotations)):
            match = pattern.search(file.path)
            if match:
                there[int(match[1])] = file.path
    found = ClipListing([], [])
    scored = _split(videos, annotations, "validation", found, storage)
    if benchmark.selection_split == "train":
        chosen = _split(videos, annotations, "train", found, storage)
    else:
        kept = select_names_by_hash(scored, benchmark.selection_fraction)
        chosen = {name: scored.pop(name) for name in sorted(kept)}
    if not scored or not chosen:
        raise RequestError(
            f"{len(chosen)} videos to choose on and {len(scored)} to score",
            where=storage.root,
            hint="unpack more of the benchmark",
        )
    names = sorted(scored, key=lambda name: -hash_fraction(name))[: benchmark.scenes]
    chosen_on = sorted(chosen, key=hash_fraction)[: benchmark.selection_videos]
    found.scored = [scored[name] for name in names]
    found.selection = [chosen[name] for name in sorted(chosen_on)]
    return found


def _split(
    videos: dict[int, str],
    annotations: dict[int, str],
    split: str,
    found: ClipListing,
    storage: Storage,
) -> dict[str, BenchmarkClip]:
    """A split's clips by name; what lacks its other half is a fault."""
    numbers = _SPLITS[split]
    clips = {}
    for number in sorted(n for n in videos.keys() | annotations.keys() if n in numbers):
        name = f"{number:05d}"
        if number not in videos or number not in annotations:
            lacks = "annotation" if number in videos else "video"
            found.excluded.append(ExcludedItem(name, f"unpaired: it has no {lacks}"))
        else:
            clips[name] = BenchmarkClip(name, videos[number], annotation=annotations[number])
    if not clips and not found.excluded:
        mend = "name the folder below which video_10000-11000 and annotation_10000-11000 lie"
        if split == "train":
            mend = "unpack it too, or write benchmark.selection_split=share"
        raise RequestError(f"no video of the {split} split in it", where=storage.root, hint=mend)
    return clips


def decode_clips(
    storage: Storage, clips: Sequence[BenchmarkClip], shape: ClipFormat
) -> DecodedClips:
    """One clip of each video, beginning where its name says, with its states."""
    read, pixels, targets, faults = [], [], [], []
    for clip in clips:
        try:
            shown, facts, times = decode_video_clip(
                storage,
                clip.path,
                size=shape.size,
                fps=shape.fps,
                frames=shape.frames,
                start_fraction=hash_fraction(clip.name),
            )
            states = _states(storage, clip.annotation, facts, times)
        except DataError as error:
            faults.append(ExcludedItem(clip.name, error.what))
            continue
        read.append(clip)
        pixels.append(shown)
        targets.append(states)
    if not read:
        empty = np.empty((0, shape.frames, len(STATE_NAMES)), np.float32)
        return DecodedClips([], np.empty((0, shape.frames, 1, 1, 3), np.uint8), empty, faults)
    return DecodedClips(read, np.stack(pixels), np.stack(targets), faults)


def _states(storage: Storage, path: str, facts: VideoInfo, times: np.ndarray) -> np.ndarray:
    """Means over the objects in view at some times, float32 [times, 5]; NaN with none in view.

    Raises:
        DataError: the annotation cannot be read, or lacks a frame.
    """
    name = path.rpartition("/")[2]
    try:
        rows = storage.read_json(path)["motion_trajectory"]
        by_frame = {int(row["frame_id"]): row["objects"] for row in rows}
        # The frame shown at t is the last one not after it.
        shown = np.searchsorted(facts.frame_times, times + 1e-6, side="right") - 1
        return np.array([_state(by_frame[int(number)]) for number in shown], np.float32)
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or error}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{name} is no JSON: {error}") from None
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"{name} is no annotation of CLEVRER: it lacks {error}") from None


def _state(objects: Sequence[dict[str, object]]) -> list[float]:
    seen = [one for one in objects if one["inside_camera_view"]]
    if not seen:
        return [float("nan")] * len(STATE_NAMES)
    place = np.array([one["location"] for one in seen], float)[:, :2].mean(0)
    speed = np.array([one["velocity"] for one in seen], float)[:, :2].mean(0)
    return [*place.tolist(), *speed.tolist(), float(len(seen))]
