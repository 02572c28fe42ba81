"""InfLevel-lab (Weihs et al., TMLR 2022).

Layout of `inflevel_lab.tar.gz`: `continuity`, `gravity` and `solidity`, in each
`CAMERA__CATEGORY__COVER__OBJECT__TYPE.mp4`, in continuity with `__LR` or `__RL` after the type.
What agrees in all but the type belongs together. Possible are `vv` and `ii` of continuity, `ui`
and `cv` of the others; in a pair, `vv` stands with `vi`, `ii` with `iv`, `ui` with `uv` and `cv`
with `ci`. Some groups lack a pair; a pair's videos may differ by some frames, at their beginning.

Read in allenai/inflevel (README, `evaluator.py`) and the loader and tables of
facebookresearch/jepa-intuitive-physics, whose results leave out the priming: its tables say, for
each pair, where that ends. The real set was not at hand.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from orchestrator.errors import DataError, RequestError
from orchestrator.evaluation.benchmarks.scenes import (
    BenchmarkScene,
    ExcludedItem,
    SceneListing,
    VideoRef,
    requested_properties,
)
from orchestrator.job.config.benchmark import InfLevel
from orchestrator.storage import Storage

PAIRS = {
    "continuity": (("vv", "vi"), ("ii", "iv")),
    "gravity": (("ui", "uv"), ("cv", "ci")),
    "solidity": (("ui", "uv"), ("cv", "ci")),
}
"""(possible, impossible) types."""

Group = tuple[str, ...]


def list_scenes(benchmark: InfLevel, storage: Storage) -> SceneListing:
    """Every pair, in groups that share camera, cover, object and direction.

    Raises:
        RequestError: no category is there, or a table of priming cannot be used.
    """
    root = "inflevel_lab/" if "inflevel_lab" in storage.folders() else ""
    there = [name for name in PAIRS if name in storage.folders(root.rstrip("/"))]
    if not there:
        raise RequestError(
            "no folder continuity, gravity or solidity in it",
            where=storage.root,
            hint="name the folder that inflevel_lab.tar.gz unpacks to",
        )
    found = SceneListing([], [], align="end")
    for category in requested_properties(benchmark.properties, there):
        groups: dict[Group, dict[str, str]] = {}
        for file in storage.files(f"{root}{category}", recursive=False):
            try:
                group, kind = _parsed(file.path, category)
            except DataError as error:
                found.excluded.append(ExcludedItem(file.path.removeprefix(root), error.what))
            else:
                groups.setdefault(group, {})[kind] = file.path
        if not groups:
            raise RequestError(
                f"'{category}' holds no video", where=storage.root, hint="unpack it again"
            )
        ends = _priming_ends(benchmark.priming, category)
        for group, kinds in sorted(groups.items()):
            _add(found, category, group, kinds, ends, root)
    return found


def _parsed(path: str, category: str) -> tuple[Group, str]:
    """What a file's name says: its group, and the type of event."""
    stem, _, extension = path.rpartition("/")[2].rpartition(".")
    parts = stem.split("__")
    if extension != "mp4" or len(parts) != (6 if category == "continuity" else 5):
        raise DataError("not named as videos of InfLevel-lab are")
    if parts[4] not in {kind for pair in PAIRS[category] for kind in pair}:
        raise DataError(f"no type of {category} is '{parts[4]}'")
    return (parts[0], *parts[2:4], *parts[5:]), parts[4]


def _add(
    found: SceneListing,
    category: str,
    group: Group,
    kinds: dict[str, str],
    ends: dict[str, int] | None,
    root: str,
) -> None:
    """A group's pairs as one scene; a type without its counterpart is a fault of its own."""
    name = f"{category}/{'__'.join(group)}"
    pairs = []
    for possible, impossible in PAIRS[category]:
        both = [kinds.get(possible), kinds.get(impossible)]
        if both == [None, None]:
            continue
        if None in both:
            has, lacks = (possible, impossible) if both[0] else (impossible, possible)
            found.excluded.append(
                ExcludedItem(f"{name}/{has}", f"unpaired: no video of type {lacks}")
            )
            continue
        shots = [_video_ref(str(path), ends, root) for path in both]
        if None in shots:
            found.excluded.append(
                ExcludedItem(f"{name}/{possible}", "the table of priming has not got it")
            )
            continue
        pairs.append(shots)
    if pairs:
        one, other = zip(*pairs, strict=True)
        found.scored.append(BenchmarkScene(category, name, one, other))


def _video_ref(path: str, ends: dict[str, int] | None, root: str) -> VideoRef | None:
    if ends is None:
        return VideoRef(path)
    listed = path.removeprefix(root)
    return VideoRef(path, skip_frames=ends[listed] + 1) if listed in ends else None


def _priming_ends(folder: str | None, category: str) -> dict[str, int] | None:
    """By video: the last frame of its priming.

    Raises:
        RequestError: the table is not there, or not of this form.
    """
    if folder is None:
        return None
    storage, name = Storage(folder), f"{category}.csv"
    try:
        return dict(_rows(storage.read_bytes(name).decode()))
    except OSError as error:
        text = f"cannot be read: {error.strerror or error}"
    except ValueError as error:
        text = f"is no table of pairs: {error}"
    raise RequestError(
        text,
        where=storage.uri(name),
        hint="benchmark.priming is the folder of jepa-intuitive-physics' tables of InfLevel",
    )


def _rows(text: str) -> Iterator[tuple[str, int]]:
    for row in csv.DictReader(io.StringIO(text)):
        for n in (1, 2):
            path, end = row.get(f"vid{n}_path"), row.get(f"vid{n}_end_priming_2")
            if not path or not end:
                raise ValueError(f"a row without vid{n}_path or vid{n}_end_priming_2")
            yield path, int(end)
