"""Moving MNIST (Srivastava et al., ICML 2015): the fixed test sequences.

Layout: one file, `mnist_test_seq.npy`, uint8 [20, 10000, 64, 64]: frame, sequence, row, column.
There is no frame rate: a frame is a frame, whatever rate a model was trained at. The file has no
split: a share of its sequences is for choosing.

The form of the file was read in several users' loaders. The real set was not at hand.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from orchestrator.errors import RequestError
from orchestrator.evaluation.benchmarks.clips import BenchmarkClip, ClipListing, DecodedClips
from orchestrator.evaluation.benchmarks.model_inputs import ClipFormat
from orchestrator.evaluation.benchmarks.scenes import (
    ExcludedItem,
    hash_fraction,
    select_names_by_hash,
)
from orchestrator.job.config.benchmark import MovingMnist
from orchestrator.storage import Storage

FILE = "mnist_test_seq.npy"
_HEADER = 4096
"""Bytes in which an array's header ends."""


def list_clips(benchmark: MovingMnist, storage: Storage, shape: ClipFormat) -> ClipListing:
    """Every sequence; a share of them is for choosing.

    Raises:
        RequestError: the file is not there, is something else, or is shorter than a clip.
    """
    if not storage.exists(FILE):
        raise RequestError(
            f"no {FILE} in it", where=storage.root, hint="name the folder that holds it"
        )
    (frames, sequences, *_), _ = _header(storage)
    if frames < shape.frames:
        raise RequestError(
            f"its sequences have {frames} frames, the model's clip has {shape.frames}",
            where=storage.uri(FILE),
            hint=f"judge a model whose clips have {frames} frames or fewer",
        )
    clips = {
        f"{number:05d}": BenchmarkClip(f"{number:05d}", FILE, number) for number in range(sequences)
    }
    kept = select_names_by_hash(clips, benchmark.selection_fraction)
    scored = sorted(clips.keys() - kept, key=lambda name: -hash_fraction(name))[: benchmark.scenes]
    if not scored:
        raise RequestError(f"{sequences} sequence: none is left to score", where=storage.uri(FILE))
    return ClipListing([clips[name] for name in scored], [clips[name] for name in sorted(kept)])


def decode_clips(
    storage: Storage, clips: Sequence[BenchmarkClip], shape: ClipFormat
) -> DecodedClips:
    """The first frames of some sequences, as the model is to see them."""
    (_, sequences, height, width), begin = _header(storage)
    area = height * width
    out = np.empty((len(clips), shape.frames, shape.size, shape.size, 3), np.uint8)
    read: list[BenchmarkClip] = []
    faults = []
    with storage.fs.open_input_file(storage.fs_path(FILE)) as file:
        for clip in clips:
            pictures = [
                file.read_at(area, begin + (t * sequences + int(clip.sequence or 0)) * area)
                for t in range(shape.frames)
            ]
            if any(len(picture) < area for picture in pictures):
                faults.append(ExcludedItem(clip.name, "the file ends before it"))
                continue
            for t, picture in enumerate(pictures):
                grey = Image.frombytes("L", (width, height), picture)
                size = (shape.size, shape.size)
                scaled = grey.resize(size, Image.Resampling.BILINEAR)
                out[len(read), t] = np.asarray(scaled)[..., None]
            read.append(clip)
    return DecodedClips(
        read, out[: len(read)], np.empty((len(read), shape.frames, 0), np.float32), faults
    )


def _header(storage: Storage) -> tuple[tuple[int, ...], int]:
    """The array's shape, and where its data begin.

    Raises:
        RequestError: it is no array of this form.
    """
    file = io.BytesIO(storage.read_range(FILE, 0, _HEADER))
    try:
        version = np.lib.format.read_magic(file)
        read_header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, turned, kind = read_header(file)
    except ValueError as error:
        raise RequestError(
            f"is no NumPy array: {error}", where=storage.uri(FILE), hint="fetch it again"
        ) from None
    if len(shape) != 4 or kind != np.uint8 or turned:
        raise RequestError(
            f"holds {kind} {list(shape)}",
            where=storage.uri(FILE),
            hint="Moving MNIST is uint8 [20, 10000, 64, 64]",
        )
    return shape, file.tell()
