"""GRASP, level 2 (arXiv 2311.09048).

Layout of `videos.zip`: `level2/P_SCENE/000.mp4` to `127.mp4`, possible, and the same names in
`level2/IP_SCENE`, impossible: what has one number was simulated with one seed, and is a pair.
MPEG-4 part 2, 50 frames a second. Sixteen scenes, from Collision to Unchangeableness2.

Read in i-machine-think/grasp (`tools/generate_videos.py`, `tools/prepare_data.py`, README) and the
loader of facebookresearch/jepa-intuitive-physics. The real set was not at hand.
"""

from __future__ import annotations

from orchestrator.errors import RequestError
from orchestrator.evaluation.benchmarks.scenes import (
    BenchmarkScene,
    ExcludedItem,
    SceneListing,
    VideoRef,
    requested_properties,
)
from orchestrator.job.config.benchmark import Grasp
from orchestrator.storage import Storage

_ROOTS = ("", "level2", "videos/level2", "data/videos/level2")


def list_scenes(benchmark: Grasp, storage: Storage) -> SceneListing:
    """Every pair of every scene.

    Raises:
        RequestError: no folder P_... or IP_... is there.
    """
    root, folders = _root(storage)
    names = sorted({name.partition("_")[2] for name in folders})
    found = SceneListing([], [])
    for name in requested_properties(benchmark.properties, names):
        possible, impossible = (
            {
                file.path.rpartition("/")[2]: file.path
                for file in storage.files(f"{root}{prefix}_{name}", recursive=False)
                if file.path.endswith(".mp4")
            }
            for prefix in ("P", "IP")
        )
        if not possible and not impossible:
            found.excluded.append(ExcludedItem(name, f"P_{name} and IP_{name} hold no video"))
        for file in sorted(possible.keys() | impossible.keys()):
            scene = f"{name}/{file.removesuffix('.mp4')}"
            if file not in possible or file not in impossible:
                lacks = "IP" if file in possible else "P"
                found.excluded.append(ExcludedItem(scene, f"unpaired: not in {lacks}_{name}"))
                continue
            shots = (VideoRef(possible[file]),), (VideoRef(impossible[file]),)
            found.scored.append(BenchmarkScene(name, scene, *shots))
    return found


def _root(storage: Storage) -> tuple[str, list[str]]:
    for root in _ROOTS:
        folders = [name for name in storage.folders(root) if name.startswith(("P_", "IP_"))]
        if folders:
            return f"{root}/" if root else "", folders
    raise RequestError(
        "no folders P_... and IP_... in it",
        where=storage.root,
        hint="name the folder that videos.zip of GRASP unpacks to, or its level2",
    )
