"""IntPhys 2019, dev set (arXiv 1803.07616).

Layout: `O1` to `O3` (object permanence, shape constancy, continuity), in each `01` to `30`, in
each videos `1` to `4`: `scene/scene_001.png` to `scene_100.png` (15 a second, 288 x 288), beside
`depth` and `masks`, and `status.json` with `header.is_possible`. Two are possible, two are not, in
no fixed order; a pair begins with the same frames.

Read in bootphon/intphys (`Tools/make_archives.py`), rronan/IntPhys-verify-quadruplets and the
loader of facebookresearch/jepa-intuitive-physics. The real set was not at hand.
"""

from __future__ import annotations

import json
import re

from orchestrator.errors import DataError, RequestError
from orchestrator.evaluation.benchmarks.scenes import (
    BenchmarkScene,
    ExcludedItem,
    SceneListing,
    VideoRef,
    requested_properties,
)
from orchestrator.job.config.benchmark import IntPhys
from orchestrator.storage import Storage

BLOCKS = ("O1", "O2", "O3")
VIDEOS = ("1", "2", "3", "4")
_NUMBER = re.compile(r"(\d+)\.png$")


def list_scenes(benchmark: IntPhys, storage: Storage) -> SceneListing:
    """Every quadruplet below the folder, or below its `dev`.

    Raises:
        RequestError: the folder has no block of IntPhys, or they hold no scene.
    """
    root = "dev/" if "dev" in storage.folders() else ""
    there = [name for name in BLOCKS if name in storage.folders(root.rstrip("/"))]
    if not there:
        raise RequestError(
            "no folder O1, O2 or O3 in it",
            where=storage.root,
            hint="name the folder that dev.tar.gz unpacks to",
        )
    found = SceneListing([], [])
    for block in requested_properties(benchmark.properties, there):
        names = storage.folders(f"{root}{block}")
        if not names:
            raise RequestError(
                f"'{block}' is empty", where=storage.root, hint="unpack dev.tar.gz again"
            )
        for name in names:
            try:
                found.scored.append(_scene(storage, root, block, name, benchmark.fps))
            except DataError as error:
                found.excluded.append(ExcludedItem(f"{block}/{name}", error.what))
    return found


def _scene(storage: Storage, root: str, block: str, name: str, fps: float) -> BenchmarkScene:
    shots: dict[bool, list[VideoRef]] = {True: [], False: []}
    for video in VIDEOS:
        path = f"{root}{block}/{name}/{video}"
        shots[_is_possible(storage, path, video)].append(
            VideoRef(f"{path}/scene", _pictures(storage, path, video), fps)
        )
    if len(shots[True]) != 2:
        raise DataError(f"{len(shots[True])} of its 4 videos are possible, not 2")
    return BenchmarkScene(
        block, f"{block}/{name}", tuple(shots[True]), tuple(shots[False]), paired=False
    )


def _is_possible(storage: Storage, path: str, video: str) -> bool:
    try:
        said = storage.read_json(f"{path}/status.json")["header"]["is_possible"]
    except FileNotFoundError:
        # The test set has none: its labels are not public.
        raise DataError(f"video {video} has no status.json that says whether it can be") from None
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        said = None
    if not isinstance(said, bool):
        raise DataError(f"video {video}: status.json has no header.is_possible")
    return said


def _pictures(storage: Storage, path: str, video: str) -> tuple[str, ...]:
    files = storage.files(f"{path}/scene", recursive=False)
    numbered = {}
    for file in files:
        name = file.path.rpartition("/")[2]
        match = _NUMBER.search(name)
        if match:
            numbered[int(match[1])] = name
    if not numbered:
        raise DataError(f"video {video} has no pictures in 'scene'")
    first, last = min(numbered), max(numbered)
    missing = sorted(set(range(first, last + 1)) - numbered.keys())
    if missing:
        raise DataError(f"video {video}: pictures missing: {len(missing)}, first {missing[0]}")
    return tuple(numbered[number] for number in sorted(numbered))
