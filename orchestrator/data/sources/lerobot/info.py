"""Detects LeRobot v3 folders and reads their description, `meta/info.json`."""

from __future__ import annotations

import io
import json
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.data.sources.inputs import check_not_lfs_pointer
from orchestrator.errors import DataError, RequestError, suggest
from orchestrator.storage import Storage

INFO_FILE, EPISODES_FOLDER = "meta/info.json", "meta/episodes"
ACTION_FEATURE, STATE_FEATURE = "action", "observation.state"
CONVERT_HINT = (
    "convert it with LeRobot itself: python -m lerobot.datasets.v30.convert_dataset_v21_to_v30"
    " --repo-id=NAME"
)
INCOMPLETE_COPY_HINT = (
    "check that the folder was copied completely; to use only its videos, name its folder 'videos'"
)

_MAX_FPS = 1e6
INDEX_FIELDS = ("chunk_index", "file_index")
_LEROBOT_KEYS = {"data_path", "fps", "features", "robot_type", "total_episodes"}
_OTHER_MARKERS = (EPISODES_FOLDER, "meta/episodes.jsonl", "meta/tasks.jsonl", "meta/tasks.parquet")


@dataclass(frozen=True)
class LeRobotInfo:
    """The description of a LeRobot folder, for one of its cameras."""

    fps: float
    camera: str
    """Feature whose video is read."""

    data_path: str
    """Path template of the tables, relative to the folder."""

    video_path: str
    """Path template of the videos, relative to the folder."""

    names: dict[str, Any]
    """Names of the numbers of `action` and `observation.state`, for those that exist."""

    num_episodes: int | None = None
    """Number of episodes that there should be; None if the folder does not say."""


def is_lerobot(storage: Storage) -> bool:
    """Whether a folder was written by LeRobot, in any version, complete or not.

    Decided by `meta/info.json`, or by the other files if it is missing. A JSON object without
    LeRobot's keys is another tool's file.
    """
    if storage.exists(INFO_FILE):
        try:
            info = _read_info_json(storage)
        except RequestError:
            return True
        return "codebase_version" in info or len(_LEROBOT_KEYS & info.keys()) > 1
    if any(storage.exists(path) for path in _OTHER_MARKERS):
        return True
    if not (storage.is_dir("data") and storage.is_dir("videos")):
        return False
    chunks = [f"data/{name}" for name in storage.folders("data") if name.startswith("chunk-")]
    return any(file.path.endswith(".parquet") for path in chunks for file in storage.files(path))


def _read_info_json(storage: Storage) -> dict[str, Any]:
    """Read the JSON object in meta/info.json.

    Raises:
        RequestError: it is missing, cannot be read, or is not a JSON object.
    """
    where = storage.uri(INFO_FILE)
    try:
        body = storage.read_bytes(INFO_FILE)
    except FileNotFoundError:
        raise RequestError(
            "not a LeRobot folder: no such file", where=where, hint=INCOMPLETE_COPY_HINT
        ) from None
    except OSError as error:
        raise RequestError(
            f"cannot be read: {error}", where=where, hint=INCOMPLETE_COPY_HINT
        ) from None
    try:
        check_not_lfs_pointer(io.BytesIO(body))
        value = json.loads(body)
    except DataError as error:
        raise RequestError(error.what, where=where, hint=INCOMPLETE_COPY_HINT) from None
    except (ValueError, RecursionError) as error:
        reason = f"is truncated or not JSON: {error}" if body.strip() else "is empty"
        raise RequestError(reason, where=where, hint=INCOMPLETE_COPY_HINT) from None
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise RequestError(
            f"is not a JSON object but a {kind}", where=where, hint=INCOMPLETE_COPY_HINT
        )
    return value


def read_info(storage: Storage, camera: str | None) -> LeRobotInfo:
    """Read the description of a folder.

    Args:
        camera: feature of the camera to read; None: the only one.

    Raises:
        RequestError: it cannot be read, is of another version, has no such camera or several, or
            one of its keys is invalid.
    """
    where = storage.uri(INFO_FILE)
    info = _read_info_json(storage)
    _check_version(info.get("codebase_version"), where)
    fps, features = info.get("fps"), info.get("features")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < _MAX_FPS:
        raise RequestError(
            f"fps is {json.dumps(fps)}",
            where=where,
            hint="write frames per second, a number above 0",
        )
    if not isinstance(features, dict):
        raise RequestError(
            "'features' is not a JSON object", where=where, hint=INCOMPLETE_COPY_HINT
        )
    for key, value in features.items():
        if not isinstance(value, dict) or not isinstance(value.get("dtype"), str):
            raise RequestError(
                f"the feature '{key}' has no dtype", where=where, hint=INCOMPLETE_COPY_HINT
            )
    chosen = _select_camera(features, camera, where)
    paths = {
        name: validate_path_template(info.get(name), name, allowed, where)
        for name, allowed in (
            ("data_path", INDEX_FIELDS),
            ("video_path", (*INDEX_FIELDS, "video_key")),
        )
    }
    video_path = paths["video_path"].replace("{video_key}", chosen)
    if leaves_folder(video_path):
        raise RequestError(f"the camera '{chosen}' is outside the folder", where=where)
    return LeRobotInfo(
        fps=float(fps),
        camera=chosen,
        data_path=paths["data_path"],
        video_path=paths["video_path"],
        names={
            key: features[key].get("names")
            for key in (STATE_FEATURE, ACTION_FEATURE)
            if key in features
        },
        num_episodes=total if isinstance(total := info.get("total_episodes"), int) else None,
    )


def _check_version(version: Any, where: str) -> None:
    if version is None:
        raise RequestError("no 'codebase_version'", where=where, hint=INCOMPLETE_COPY_HINT)
    number = str(version).removeprefix("v")
    if number.partition(".")[0] != "3":
        raise RequestError(
            f"LeRobot {version}: only v3 is read",
            where=where,
            hint=CONVERT_HINT if number.startswith("2") else "write it as v3.0",
        )


def validate_path_template(value: Any, name: str, allowed_fields: Sequence[str], where: str) -> str:
    """Check a path template with numbered fields, e.g. `data/chunk-{chunk_index:03d}/...`.

    Args:
        value: the template.
        name: its key in `meta/info.json`.
        allowed_fields: fields that v3 has in it.
        where: the file, for errors.

    Returns:
        `value`.

    Raises:
        RequestError: it is not a template, has another field, or leads outside the folder.
    """
    if not isinstance(value, str) or not value:
        raise RequestError(f"no '{name}'", where=where, hint="it is the path template of the files")
    text = f"'{name}' is {value}"
    try:
        fields = [field for field in string.Formatter().parse(value) if field[1] is not None]
    except ValueError as error:
        raise RequestError(f"{text}: {error}", where=where, hint=INCOMPLETE_COPY_HINT) from None
    for _, field, number_format, conversion in fields:
        if field not in allowed_fields:
            raise RequestError(
                f"{text}, and v3 has no '{{{field}}}'",
                where=where,
                hint=f"{CONVERT_HINT}, if an older version wrote it; v3 has"
                f" {', '.join(allowed_fields)}",
            )
        number = field in INDEX_FIELDS and re.fullmatch(r"(0?\d{1,2})?d?", number_format or "")
        if conversion or not (number or not number_format):
            raise RequestError(
                f"{text}: '{number_format}' is not a number format",
                where=where,
                hint=INCOMPLETE_COPY_HINT,
            )
    if leaves_folder(value):
        raise RequestError(f"{text}, outside the folder", where=where, hint=INCOMPLETE_COPY_HINT)
    return value


def leaves_folder(path: str) -> bool:
    """Whether a path leads outside its folder."""
    return path.startswith("/") or ".." in path.split("/")


def _select_camera(features: dict[str, Any], wanted: str | None, where: str) -> str:
    """The feature whose video is read.

    Raises:
        RequestError: there is no such camera, or several and none is wanted.
    """
    cameras = [key for key, value in features.items() if value["dtype"] == "video"]
    if not cameras:
        raise RequestError(
            "no camera is stored as video", where=where, hint="images in tables are not read"
        )
    if wanted is not None and wanted not in cameras:
        raise RequestError(f"no camera '{wanted}'", where=where, hint=suggest(wanted, cameras))
    if wanted is None and len(cameras) > 1:
        raise RequestError(
            f"{len(cameras)} cameras: {', '.join(cameras)}",
            where=where,
            hint=f"name one: lerobot://PATH?camera={cameras[0]}",
        )
    return wanted or cameras[0]
