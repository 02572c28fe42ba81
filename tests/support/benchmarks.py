"""Public benchmarks in miniature, in the layouts of the real ones, for the tests of their readers.

A video's colours say what it is: red the context, green the outcome after the middle, blue the
scene. So a pair that is matched rightly has one red, and a possible video red equal to green.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from orchestrator.data.codec.encode import encode_h264

FRAMES, FPS, SIDE = 24, 16, 32
LEVEL = {"a": 60, "b": 180}
"""Of a context and of an outcome."""

MIDDLE = FRAMES // 2


def benchmark_frames(context: str, outcome: str, scene: int, frames: int = FRAMES) -> np.ndarray:
    """uint8 [frames, SIDE, SIDE, 3]: the outcome shows in the second half only."""
    video = np.empty((frames, SIDE, SIDE, 3), np.uint8)
    video[..., 0] = LEVEL[context]
    video[..., 1] = 120
    video[frames - MIDDLE :, ..., 1] = LEVEL[outcome]
    video[..., 2] = 20 * (scene % 10) + 20
    return video


def write_video(path: Path, frames: np.ndarray, fps: float = FPS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_h264(frames, fps, gop=8, crf=10))


def write_pictures(folder: Path, frames: np.ndarray, name: str = "scene_{:03d}.png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames, start=1):
        Image.fromarray(frame).save(folder / name.format(number))


def context_and_outcome(video: np.ndarray) -> tuple[str, str]:
    """(context, outcome) as a decoded video shows them."""
    return tuple(
        min(LEVEL, key=lambda name: abs(LEVEL[name] - float(video[at, ..., channel].mean())))
        for at, channel in ((0, 0), (-1, 1))
    )  # type: ignore[return-value]


# In the first and third the first possible video belongs to the last impossible one.
ORDERS = ("aa bb ba ab", "ab aa bb ba", "ba ab aa bb", "bb ba ab aa")


def intphys(folder: Path, scenes: int = 2, blocks: tuple[str, ...] = ("O1", "O2")) -> Path:
    for block in blocks:
        for number in range(1, scenes + 1):
            order = ORDERS[number % len(ORDERS)].split()
            for video, (context, outcome) in enumerate(order, start=1):
                path = folder / block / f"{number:02d}" / str(video)
                write_pictures(path / "scene", benchmark_frames(context, outcome, number))
                write_pictures(path / "depth", benchmark_frames("a", "a", 0, 12)[:1])
                said = {"header": {"is_possible": context == outcome}}
                (path / "status.json").write_text(json.dumps(said))
    return folder


CONDITIONS = ("permanence", "immutability_texture", "continuity_swap", "solidity")
# (name in the table, context, outcome)
TYPES = (("1_Possible", "aa"), ("1_Impossible", "ab"), ("2_Possible", "bb"), ("2_Impossible", "ba"))


def intphys2(folder: Path, *, as_pictures: bool = False, scenes: int = 2) -> Path:
    """`scenes` of each condition in Main, one in Debug."""
    for split, count in (("Main", scenes), ("Debug", 1)):
        rows = []
        for c, condition in enumerate(CONDITIONS):
            for s in range(count):
                number = c * count + s
                for i, (kind, (context, outcome)) in enumerate(reversed(TYPES)):
                    name = f"{split.lower()}_{number:02d}_{i}"
                    frames = benchmark_frames(context, outcome, number)
                    row = {"SceneIndex": f"{number}_0" if s else str(number), "type": kind}
                    if as_pictures:
                        # Numbers without leading zeros: 10 comes after 9.
                        write_pictures(folder / split / "Images" / name, frames, "{}.png")
                        row["filename"] = name
                    else:
                        write_video(folder / split / "Videos" / f"{name}.mp4", frames)
                        row["file_name"] = f"Videos/{name}.mp4"
                    rows.append({**row, "condition": condition, "Camera": "Fixed"})
        table = folder / split / ("labels.csv" if as_pictures else "metadata.csv")
        write_table(table, rows)
    return folder


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(out.getvalue())


def grasp(
    folder: Path, scenes: int = 3, names: tuple[str, ...] = ("Collision", "Inertia2")
) -> Path:
    for name in names:
        for number in range(scenes):
            context = "ab"[number % 2]
            other = "ba"[number % 2]
            for prefix, outcome in (("P", context), ("IP", other)):
                path = folder / "level2" / f"{prefix}_{name}" / f"{number:03d}.mp4"
                write_video(path, benchmark_frames(context, outcome, number))
    return folder


INFLEVEL = {
    "continuity": {"vv": "aa", "vi": "ab", "ii": "bb", "iv": "ba"},
    "gravity": {"ui": "aa", "uv": "ab", "cv": "bb", "ci": "ba"},
    "solidity": {"ui": "aa", "uv": "ab", "cv": "bb", "ci": "ba"},
}


def inflevel(folder: Path, objects: tuple[str, ...] = ("duck", "ball")) -> Path:
    for category, kinds in INFLEVEL.items():
        for number, thing in enumerate(objects):
            for kind, (context, outcome) in kinds.items():
                for way in ("__LR", "__RL") if category == "continuity" else ("",):
                    name = f"center__{category}__cup__{thing}__{kind}{way}.mp4"
                    frames = benchmark_frames(context, outcome, number)
                    write_video(folder / "inflevel_lab" / category / name, frames)
    return folder


def moving_mnist(folder: Path, sequences: int = 30, frames: int = 20) -> Path:
    """A bright square on its way to the right; the sequence's number is its row."""
    data = np.zeros((frames, sequences, 64, 64), np.uint8)
    for number in range(sequences):
        for t in range(frames):
            row, column = 2 * (number % 24), 2 * t
            data[t, number, row : row + 16, column : column + 16] = 255
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "mnist_test_seq.npy", data)
    return folder


def clevrer(folder: Path, train: int = 3, validation: int = 4, frames: int = 40) -> Path:
    """A white square that crosses the picture, and what is said of it.

    The bottom rows' grey says which frame it is (`clevrer_numbers`).
    """
    for first, count, names in (
        (0, train, ("video_train", "annotation_train")),
        (10_000, validation, ("video_validation", "annotation_validation")),
    ):
        part = f"{first:05d}-{first + 1000:05d}"
        for number in range(first, first + count):
            start = 4 * (number % 7)
            video = np.full((frames, SIDE, 48, 3), 60, np.uint8)
            rows = []
            for t in range(frames):
                x = (start + t / 2) % 40
                video[t, 8:20, int(x) : int(x) + 8] = 255
                video[t, 24:] = 20 + 5 * t
                rows.append(
                    {
                        "frame_id": t,
                        "objects": [clevrer_object(x, 0.5), clevrer_object(99, 9, seen=False)],
                    }
                )
            write_video(folder / names[0] / f"video_{part}" / f"video_{number:05d}.mp4", video, 25)
            said = {"scene_index": number, "motion_trajectory": rows, "collision": []}
            path = folder / names[1] / f"annotation_{part}" / f"annotation_{number:05d}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(said))
    return folder


def clevrer_numbers(frames: np.ndarray) -> list[int]:
    """Which frames of their video these are."""
    grey = frames[:, -6:].astype(float).mean((1, 2, 3))
    return [round((level - 20) / 5) for level in grey]


def clevrer_object(x: float, speed: float, *, seen: bool = True) -> dict[str, object]:
    return {
        "object_id": int(not seen),
        "location": [x, x / 2, 0.1],
        "velocity": [speed, -speed, 0.0],
        "inside_camera_view": seen,
    }


BENCHMARK_WRITERS = {"intphys": intphys, "intphys2": intphys2, "grasp": grasp, "inflevel": inflevel}


@functools.cache
def _files(kind: str) -> tuple[tuple[str, bytes], ...]:
    with tempfile.TemporaryDirectory() as name:
        root = BENCHMARK_WRITERS[kind](Path(name))
        found = sorted(path for path in root.rglob("*") if path.is_file())
        return tuple((str(path.relative_to(root)), path.read_bytes()) for path in found)


def copy_benchmark(kind: str, folder: Path) -> Path:
    """A benchmark of the default size; encoded once, however many tests take it."""
    for name, data in _files(kind):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder
