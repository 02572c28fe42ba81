"""IntPhys 2 (arXiv 2506.09849).

As distributed (IntPhys2.zip and huggingface.co/datasets/facebook/IntPhys2): folders `Debug`,
`Main` and `HeldOut`; in the first two `metadata.csv` and `Videos/*.mp4`. Columns that are used:
`SceneIndex` (a text: 124_1 is one), `type` (`1_Possible`, `1_Impossible`, `2_Possible`,
`2_Impossible`: equal numbers are a pair), `condition`, and `file_name` (`Videos/NAME.mp4`) or, in
the authors' scripts, `filename` (NAME).

As the authors' loader of prediction models wants it: in each split `labels.csv` and
`Images/FILENAME/*.png`. Of its columns that loader shows `filename` only; the others are looked
for under the names above.

Some scenes of `Debug` are scenes of `Main` too, with the same videos under the same names: where
`Debug` is chosen on, those are not scored.

Read in facebookresearch/IntPhys2 (`prediction_evals/evals/intphys2/intphys2_dataset.py`,
`IntPhys2_transformers.py`, `ComputeScoreIntPhys2.ipynb`, from which the grouping of conditions),
in the data set's card, and in users' loaders. The real set was not at hand.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping

from orchestrator.errors import DataError, RequestError
from orchestrator.evaluation.benchmarks.scenes import (
    BenchmarkScene,
    ExcludedItem,
    SceneListing,
    VideoRef,
    requested_properties,
)
from orchestrator.job.config.benchmark import IntPhys2
from orchestrator.storage import Storage

PROPERTIES = {
    "permanence": "permanence",
    "immutability": "immutability",
    "immutability_texture": "immutability",
    "continuity": "continuity",
    "continuity_swap": "continuity",
    "solidity": "solidity",
}
TYPES = ("1_Possible", "1_Impossible", "2_Possible", "2_Impossible")
TABLES = ("metadata.csv", "labels.csv")

Row = Mapping[str, str]


def list_scenes(benchmark: IntPhys2, storage: Storage) -> SceneListing:
    """The scored split's scenes, and those of the split that is chosen on.

    Raises:
        RequestError: a split or its table is not there, or has not the columns.
    """
    scored, faults = _split(benchmark, storage, benchmark.split)
    chosen_on: list[BenchmarkScene] = []
    if benchmark.selection_split == "Debug":
        chosen_on, more = _split(benchmark, storage, "Debug")
        faults = [*faults, *more]
    there = sorted({scene.property for scene in scored})
    wanted = requested_properties(benchmark.properties, there)
    scored = [scene for scene in scored if scene.property in wanted]
    known = {name for scene in chosen_on for name in _names(scene)}
    twins = [scene.name for scene in scored if known & _names(scene)]
    return SceneListing(
        [scene for scene in scored if scene.name not in twins],
        # All of what is meant for calibration: it need not have every property.
        chosen_on,
        faults,
        twins,
    )


def _names(scene: BenchmarkScene) -> set[str]:
    """Its videos' names, without folder and extension."""
    shots = (*scene.possible, *scene.impossible)
    return {shot.path.rpartition("/")[2].removesuffix(".mp4") for shot in shots}


def _split(
    benchmark: IntPhys2, storage: Storage, split: str
) -> tuple[list[BenchmarkScene], list[ExcludedItem]]:
    rows, where = _rows(storage, split)
    pictures = _picture_folders(storage, split)
    videos = {file.path for file in storage.files(f"{split}/Videos")}
    scenes: dict[str, list[Row]] = {}
    for row in rows:
        scenes.setdefault(row["SceneIndex"], []).append(row)
    found, faults = [], []
    for index, mine in scenes.items():
        name = f"{split}/{index}"
        try:
            found.append(_scene(benchmark, split, name, mine, videos, pictures))
        except DataError as error:
            faults.append(ExcludedItem(name, error.what))
    if not scenes:
        raise RequestError("the table has no rows", where=where, hint="fetch the benchmark again")
    return found, faults


def _rows(storage: Storage, split: str) -> tuple[list[Row], str]:
    """The split's table, and where it is."""
    if split not in storage.folders():
        mend = "name the folder that IntPhys2.zip unpacks to"
        if split == "Debug":
            mend += ", or write benchmark.selection_split=share"
        raise RequestError(f"no folder '{split}' in it", where=storage.root, hint=mend)
    for table in TABLES:
        path = f"{split}/{table}"
        if not storage.exists(path):
            continue
        try:
            text = storage.read_bytes(path).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(
                f"cannot be read: {error}", where=storage.uri(path), hint="fetch it again"
            ) from None
        reader = csv.DictReader(io.StringIO(text))
        columns = reader.fieldnames or []
        missing = [name for name in ("SceneIndex", "type", "condition") if name not in columns]
        if not {"file_name", "filename"} & set(columns):
            missing.append("file_name")
        if missing:
            raise RequestError(
                f"no column {', '.join(repr(name) for name in missing)}",
                where=storage.uri(path),
                hint="IntPhys 2 has SceneIndex, type, condition and file_name",
            )
        # A row that is too short has None where it ends.
        return [{k: v or "" for k, v in row.items()} for row in reader], storage.uri(path)
    raise RequestError(
        f"neither {' nor '.join(TABLES)} in '{split}'",
        where=storage.root,
        hint="without it no video says what it is; HeldOut comes without labels",
    )


def _picture_folders(storage: Storage, split: str) -> dict[str, tuple[str, ...]]:
    """The pictures in each folder of `Images`."""
    found: dict[str, list[str]] = {}
    for file in storage.files(f"{split}/Images"):
        folder, _, name = file.path.rpartition("/")
        if name.lower().endswith((".png", ".jpg", ".jpeg")):
            found.setdefault(folder, []).append(name)
    return {folder: tuple(sorted(names, key=_number)) for folder, names in found.items()}


def _number(name: str) -> tuple[int, str]:
    """Frames in order, also where numbers have no leading zeros."""
    digits = re.findall(r"\d+", name)
    return (int(digits[-1]) if digits else -1, name)


def _scene(
    benchmark: IntPhys2,
    split: str,
    name: str,
    rows: list[Row],
    videos: set[str],
    pictures: Mapping[str, tuple[str, ...]],
) -> BenchmarkScene:
    by_type = {row["type"]: row for row in rows}
    missing = [kind for kind in TYPES if kind not in by_type]
    if missing:
        raise DataError(f"unpaired: no row of type {', '.join(missing)}")
    if len(rows) != len(TYPES):
        raise DataError(f"{len(rows)} rows instead of {len(TYPES)}")
    conditions = {row["condition"] for row in rows}
    if len(conditions) > 1 or not conditions <= PROPERTIES.keys():
        raise DataError(f"condition {' and '.join(sorted(conditions))!r}")
    shots = {
        kind: _video_ref(benchmark, split, by_type[kind], videos, pictures) for kind in TYPES
    }  # in the order of TYPES
    return BenchmarkScene(
        PROPERTIES[conditions.pop()],
        name,
        (shots["1_Possible"], shots["2_Possible"]),
        (shots["1_Impossible"], shots["2_Impossible"]),
    )


def _video_ref(
    benchmark: IntPhys2,
    split: str,
    row: Row,
    videos: set[str],
    pictures: Mapping[str, tuple[str, ...]],
) -> VideoRef:
    given = row.get("file_name") or row.get("filename") or ""
    stem = given.rpartition("/")[2]
    path = f"{split}/Videos/{stem if stem.endswith('.mp4') else stem + '.mp4'}"
    if path in videos:
        return VideoRef(path)
    for folder in (f"{split}/Images/{stem}", f"{split}/Images/{stem.removesuffix('.mp4')}"):
        if folder in pictures:
            return VideoRef(folder, pictures[folder], benchmark.fps)
    raise DataError(f"{row['type']}: neither Videos nor Images has '{given}'")
