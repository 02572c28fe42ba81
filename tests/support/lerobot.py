"""Miniature folders in LeRobot's v3 layout, as `lerobot` 0.4 lays it out; none is a real one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.codec.encode import encode_h264

CAMERA = "observation.images.top"
FPS = 10


def row_frame(episode: int, row: int, size: int = 48) -> np.ndarray:
    """Grey that says which row of which episode it is."""
    return np.full((size, size, 3), 20 + 40 * episode + 3 * row, np.uint8)


def states_of(episode: int, length: int) -> np.ndarray:
    return (100 * episode + np.arange(length)[:, None] + [0, 0.25, 0.5]).astype(np.float32)


def actions_of(episode: int, length: int) -> np.ndarray:
    return (1 + 100 * episode + np.arange(length)[:, None] + [0, 0.5]).astype(np.float32)


def write_lerobot_dataset(
    folder: Path,
    lengths: list[int] | None = None,
    *,
    cameras: tuple[str, ...] = (CAMERA,),
    frames: list[int] | None = None,
    per_file: int = 2,
    fps: float = FPS,
    video_fps: float | None = None,
    version: str = "v3.0",
    without: tuple[str, ...] = (),
) -> Path:
    """`lengths`: rows of each episode. `frames`: of its video, where it shall have others.
    `per_file`: episodes that share a table and a video."""
    lengths = lengths or [12, 9, 15]
    frames = frames or lengths
    listed: list[dict[str, Any]] = []
    for number, first in enumerate(range(0, len(lengths), per_file)):
        part = range(first, min(first + per_file, len(lengths)))
        name = f"chunk-000/file-{number:03d}"
        _table(folder / f"data/{name}.parquet", {e: lengths[e] for e in part}, fps)
        for camera in cameras:
            path = folder / f"videos/{camera}/{name}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            shown = [row_frame(e, row) for e in part for row in range(frames[e])]
            # Key frames far apart: an episode begins between two of them.
            path.write_bytes(encode_h264(shown, video_fps or fps, gop=50, crf=10))
        begin = 0.0
        for episode in part:
            row: dict[str, Any] = {
                "episode_index": episode,
                "tasks": [f"task {episode}"],
                "length": lengths[episode],
                "data/chunk_index": 0,
                "data/file_index": number,
                "dataset_from_index": sum(lengths[:episode]),
                "dataset_to_index": sum(lengths[: episode + 1]),
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
            }
            for camera in cameras:
                row[f"videos/{camera}/chunk_index"] = 0
                row[f"videos/{camera}/file_index"] = number
                row[f"videos/{camera}/from_timestamp"] = begin
                row[f"videos/{camera}/to_timestamp"] = begin + frames[episode] / fps
            listed.append(row)
            begin += frames[episode] / fps
    write_parquet(folder / "meta/episodes/chunk-000/file-000.parquet", pa.Table.from_pylist(listed))
    _info(folder, cameras, fps, version, without)
    return folder


def write_parquet(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def _table(path: Path, lengths: dict[int, int], fps: float) -> None:
    rows = [(e, row) for e, length in lengths.items() for row in range(length)]
    columns = {
        "action": [actions_of(e, lengths[e])[row].tolist() for e, row in rows],
        "observation.state": [states_of(e, lengths[e])[row].tolist() for e, row in rows],
        "timestamp": pa.array([row / fps for _, row in rows], pa.float32()),
        "frame_index": [row for _, row in rows],
        "episode_index": [e for e, _ in rows],
        "index": list(range(len(rows))),
        "task_index": [e for e, _ in rows],
    }
    write_parquet(path, pa.table(columns))


def _info(
    folder: Path, cameras: tuple[str, ...], fps: float, version: str, without: tuple[str, ...]
) -> None:
    features: dict[str, Any] = {
        "action": {"dtype": "float32", "shape": [2], "names": ["x", "y"]},
        "observation.state": {"dtype": "float32", "shape": [3], "names": None},
    }
    for camera in cameras:
        features[camera] = {"dtype": "video", "shape": [48, 48, 3], "names": None}
    info = {
        "codebase_version": version,
        "fps": fps,
        "chunks_size": 1000,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {name: value for name, value in features.items() if name not in without},
    }
    (folder / "meta/info.json").write_text(json.dumps(info))
