"""Readers of public benchmarks: what belongs together, and what cannot be used, by name."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from orchestrator.errors import DataError, RequestError
from orchestrator.evaluation.benchmarks import pairs
from orchestrator.evaluation.benchmarks.decode import decode_pairs, decode_video
from orchestrator.evaluation.benchmarks.scenes import (
    BenchmarkScene,
    SceneListing,
    VideoRef,
    split_selection_and_scored,
)
from orchestrator.job import build_job
from orchestrator.job.config.benchmark import ViolationOfExpectation
from orchestrator.storage import Storage
from tests.support import benchmarks as made


def benchmark_of(kind: str, folder: Path, **options: Any) -> ViolationOfExpectation:
    if kind == "intphys":
        options.setdefault("fps", made.FPS)
    benchmark = {"kind": kind, "folder": str(folder), **options}
    job = build_job({"kind": "evaluate", "name": "b", "model": "m", "benchmark": benchmark})
    return job.benchmark  # type: ignore[union-attr, return-value]


def read(kind: str, folder: Path, **options: Any) -> SceneListing:
    return pairs.list_scenes(benchmark_of(kind, folder, **options), Storage(str(folder)))


@pytest.mark.parametrize("kind", made.BENCHMARK_WRITERS)
def test_every_pair_shares_its_context_and_the_possible_one_fits_it(
    kind: str, tmp_path: Path
) -> None:
    made.copy_benchmark(kind, tmp_path)
    found = read(kind, tmp_path)
    assert not found.excluded
    for scene in [*found.scored, *found.selection]:
        shown = decode_pairs(Storage(str(tmp_path)), scene, 16, 8.0, found.align)
        assert len(shown) == len(scene.possible)
        for possible, impossible in shown:
            assert possible.shape == impossible.shape == (12, 16, 16, 3)
            context, outcome = made.context_and_outcome(possible)
            assert outcome == context, scene.name
            assert made.context_and_outcome(impossible)[0] == context, scene.name
            assert made.context_and_outcome(impossible)[1] != context, scene.name
            # One scene's videos, and no other's.
            assert abs(float(possible[0, ..., 2].mean()) - float(impossible[0, ..., 2].mean())) < 8


@pytest.mark.parametrize(
    ("kind", "properties", "scenes", "in_each"),
    [
        ("intphys", ["O1", "O2"], 4, 2),
        ("intphys2", ["continuity", "immutability", "permanence", "solidity"], 8, 2),
        ("grasp", ["Collision", "Inertia2"], 6, 1),
        ("inflevel", ["continuity", "gravity", "solidity"], 8, 2),
    ],
)
def test_scenes_and_properties_are_those_of_the_set(
    kind: str, properties: list[str], scenes: int, in_each: int, tmp_path: Path
) -> None:
    made.copy_benchmark(kind, tmp_path)
    found = read(kind, tmp_path)
    assert sorted({scene.property for scene in found.scored}) == properties
    assert len({scene.name for scene in found.scored}) == len(found.scored) == scenes
    assert {len(scene.possible) for scene in found.scored} == {in_each}
    some = read(kind, tmp_path, properties=properties[:1])
    assert {scene.property for scene in some.scored} == {properties[0]}
    with pytest.raises(RequestError, match=f"did you mean '{properties[-1]}'"):
        read(kind, tmp_path, properties=[properties[-1] + "x"])
    with pytest.raises(RequestError, match="in it"):
        read(kind, tmp_path / "nothing")


def test_intphys_is_found_below_dev_too(tmp_path: Path) -> None:
    made.copy_benchmark("intphys", tmp_path / "dev")
    assert len(read("intphys", tmp_path).scored) == 4


def test_grasp_is_found_from_its_level_and_from_above(tmp_path: Path) -> None:
    made.copy_benchmark("grasp", tmp_path / "videos")
    for folder in (tmp_path, tmp_path / "videos", tmp_path / "videos/level2"):
        assert len(read("grasp", folder).scored) == 6


def test_the_codec_of_grasp_is_read(tmp_path: Path) -> None:
    """Its videos are MPEG-4 part 2, not H.264."""
    made.grasp(tmp_path, scenes=2, names=("Gravity",))
    video = made.benchmark_frames("a", "b", 3)
    path = tmp_path / "level2/IP_Gravity/000.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=50, options={"qscale": "2"})
        stream.width, stream.height, stream.pix_fmt = made.SIDE, made.SIDE, "yuv420p"
        for frame in video:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
    shown = decode_video(Storage(str(tmp_path)), VideoRef("level2/IP_Gravity/000.mp4"), 16, 25.0)
    assert shown.shape == (12, 16, 16, 3)
    assert made.context_and_outcome(shown) == ("a", "b")


def test_both_layouts_of_intphys2_hold_the_same(tmp_path: Path) -> None:
    made.copy_benchmark("intphys2", tmp_path / "videos")
    made.intphys2(tmp_path / "pictures", as_pictures=True)
    videos = read("intphys2", tmp_path / "videos")
    images = read("intphys2", tmp_path / "pictures", fps=made.FPS)
    assert [(s.property, s.name) for s in videos.scored] == [
        (s.property, s.name) for s in images.scored
    ]
    assert len(videos.selection) == len(images.selection) == 4
    assert all(scene.name.startswith("Debug/") for scene in videos.selection)
    for one, other in zip(videos.scored, images.scored, strict=True):
        coded = decode_pairs(Storage(str(tmp_path / "videos")), one, 16, 8.0, "start")
        plain = decode_pairs(Storage(str(tmp_path / "pictures")), other, 16, 8.0, "start")
        for pair, same in zip(coded, plain, strict=True):
            for video, still in zip(pair, same, strict=True):
                assert np.abs(video.astype(int) - still).max() < 12  # but for the coding


def test_the_scored_split_of_intphys2_can_spare_a_share(tmp_path: Path) -> None:
    made.copy_benchmark("intphys2", tmp_path)
    assert read("intphys2", tmp_path, choose="share").selection == []
    for file in (tmp_path / "Debug").rglob("*"):
        if file.is_file():
            file.unlink()
    for folder in (tmp_path / "Debug/Videos", tmp_path / "Debug"):
        folder.rmdir()
    with pytest.raises(RequestError, match="no folder 'Debug'") as error:
        read("intphys2", tmp_path)
    assert "benchmark.selection_split=share" in str(error.value)


def test_frames_are_those_shown_at_the_models_rate(tmp_path: Path) -> None:
    ramp = np.repeat(np.arange(24, dtype=np.uint8)[:, None] * 10, made.SIDE**2 * 3, 1)
    frames = ramp.reshape(24, made.SIDE, made.SIDE, 3)
    made.write_video(tmp_path / "video.mp4", frames, fps=15)
    made.write_pictures(tmp_path / "stills", frames)
    names = tuple(f"scene_{i:03d}.png" for i in range(1, 25))
    storage = Storage(str(tmp_path))
    for shot in (VideoRef("video.mp4"), VideoRef("stills", names, fps=15.0)):
        # 23 steps of a fifteenth last 1.53 s: the frames at 0, .2, .4, ... 1.4 s are numbers 0, 3,
        # 6, ... 21.
        shown = decode_video(storage, shot, 16, 5.0)
        assert np.allclose(shown.mean((1, 2, 3)), np.arange(0, 24, 3) * 10, atol=3)
        # At .75 of the rate: 0, 1, 2, 4, 5, 6, 8, ... (the last frame not after 4/45 s, ...).
        expected = [10 * int(i * 15 / 11.25 + 1e-6) for i in range(18)]
        shown = decode_video(storage, shot, 16, 11.25)
        assert np.allclose(shown.mean((1, 2, 3)), expected, atol=3)
        with pytest.raises(DataError, match="frames would be shown twice"):
            decode_video(storage, shot, 16, 30.0)


def test_a_longer_filmed_video_loses_its_beginning_and_a_longer_simulated_one_its_end(
    tmp_path: Path,
) -> None:
    made.write_video(tmp_path / "short.mp4", made.benchmark_frames("a", "a", 0, 24))
    made.write_video(tmp_path / "long.mp4", made.benchmark_frames("a", "b", 0, 28))
    scene = BenchmarkScene("p", "s", (VideoRef("short.mp4"),), (VideoRef("long.mp4"),))
    for align, level in (("end", made.LEVEL["b"]), ("start", 120)):
        ((possible, impossible),) = decode_pairs(Storage(str(tmp_path)), scene, 16, 8.0, align)
        assert len(possible) == len(impossible) == 12
        # The outcome begins at frame 16 of 28: at 8 a second, at frame 6 of the last 12.
        assert abs(float(impossible[6, ..., 1].mean()) - level) < 8
    made.write_video(tmp_path / "long.mp4", made.benchmark_frames("a", "b", 0, 60))
    with pytest.raises(DataError, match=r"differ by 2\.2 s in length"):
        decode_pairs(Storage(str(tmp_path)), scene, 16, 8.0, "end")


def test_priming_is_not_shown_where_a_table_says_when_it_ends(tmp_path: Path) -> None:
    made.copy_benchmark("inflevel", tmp_path)
    tables = tmp_path / "tables"
    names = {c: sorted((tmp_path / "inflevel_lab" / c).iterdir()) for c in made.INFLEVEL}
    for category, files in names.items():
        by_type = {file.name: f"{category}/{file.name}" for file in files}
        rows = []
        for one, other in (("vv", "vi"), ("ii", "iv"), ("ui", "uv"), ("cv", "ci")):
            for name, path in by_type.items():
                if f"__{one}" in name:
                    rows.append(
                        {
                            "vid1_path": path,
                            "vid1_end_priming_2": "3",
                            "vid1_label": "possible",
                            "vid2_path": by_type[name.replace(f"__{one}", f"__{other}")],
                            "vid2_end_priming_2": "3",
                            "vid2_label": "impossible",
                        }
                    )
        made.write_table(tables / f"{category}.csv", rows)
    found = read("inflevel", tmp_path, priming=str(tables))
    assert not found.excluded
    assert {shot.skip_frames for scene in found.scored for shot in scene.possible} == {4}
    ((possible, _), _) = decode_pairs(Storage(str(tmp_path)), found.scored[0], 16, 8.0, found.align)
    assert len(possible) == (made.FRAMES - 4) // 2
    (tables / "gravity.csv").write_text("vid1_path,vid2_path\na.mp4,b.mp4\n")
    with pytest.raises(RequestError, match="is no table of pairs: a row without vid1_path or"):
        read("inflevel", tmp_path, priming=str(tables))
    (tables / "gravity.csv").unlink()
    with pytest.raises(RequestError, match="cannot be read"):
        read("inflevel", tmp_path, priming=str(tables))


def test_what_is_chosen_on_is_never_scored_and_does_not_move() -> None:
    def scenes(count: int) -> list[BenchmarkScene]:
        shot = (VideoRef("v"),)
        return [
            BenchmarkScene(p, f"{p}/{i}", shot, shot) for p in ("one", "two") for i in range(count)
        ]

    choosing, scoring = split_selection_and_scored(SceneListing(scenes(20), []), 0.2, None)
    assert len(choosing) == 8
    assert {scene.property for scene in choosing} == {"one", "two"}
    assert not {s.name for s in choosing} & {s.name for s in scoring}
    assert len(choosing) + len(scoring) == 40
    again = split_selection_and_scored(SceneListing(scenes(20)[::-1], []), 0.2, None)
    assert {s.name for s in again[0]} == {s.name for s in choosing}
    _, few = split_selection_and_scored(SceneListing(scenes(20), []), 0.2, 3)
    assert len(few) == 6
    # A larger share takes more, and nothing that was asked for with fewer scenes is lost to it.
    wider, _ = split_selection_and_scored(SceneListing(scenes(20), []), 0.5, None)
    assert {s.name for s in choosing} < {s.name for s in wider}
    assert not {s.name for s in few} & {s.name for s in wider}
    with pytest.raises(RequestError, match="'one' has one scene"):
        split_selection_and_scored(SceneListing(scenes(1), []), 0.2, None)


Break = Callable[[Path], object]


def _status(text: str) -> Break:
    return lambda folder: (folder / "O1/01/2/status.json").write_text(text)


def _possible_by_mistake(folder: Path) -> None:
    for video in "1234":
        (folder / f"O1/01/{video}/status.json").write_text('{"header": {"is_possible": true}}')


def _without_pictures(folder: Path) -> None:
    for file in (folder / "O2/01/3/scene").iterdir():
        file.unlink()


def _row_lost(folder: Path) -> None:
    path = folder / "Main/metadata.csv"
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    made.write_table(path, [row for row in rows if row["file_name"] != "Videos/main_00_0.mp4"])


def _other_condition(folder: Path) -> None:
    path = folder / "Main/metadata.csv"
    path.write_text(path.read_text().replace(",solidity,", ",levity,"))


BROKEN: list[tuple[str, Break, str, str, int]] = [
    # (kind, how it is broken, the scene, the reason, how many)
    ("intphys", lambda f: (f / "O1/01/2/status.json").unlink(), "O1/01", "no status.json", 1),
    ("intphys", _status("{"), "O1/01", "no header.is_possible", 1),
    ("intphys", _status('{"header": {"is_possible": "yes"}}'), "O1/01", "no header", 1),
    ("intphys", _possible_by_mistake, "O1/01", "4 of its 4 videos are possible", 1),
    ("intphys", _without_pictures, "O2/01", "video 3 has no pictures", 1),
    (
        "intphys",
        lambda f: (f / "O2/02/1/scene/scene_007.png").unlink(),
        "O2/02",
        "pictures missing: 1, first 7",
        1,
    ),
    (
        "intphys2",
        lambda f: (f / "Main/Videos/main_00_0.mp4").unlink(),
        "Main/0",
        "2_Impossible: neither Videos nor Images has",
        1,
    ),
    ("intphys2", _row_lost, "Main/0", "unpaired: no row of type 2_Impossible", 1),
    ("intphys2", _other_condition, "Main/6", "condition 'levity'", 2),
    (
        "grasp",
        lambda f: (f / "level2/IP_Inertia2/001.mp4").unlink(),
        "Inertia2/001",
        "unpaired: not in IP_Inertia2",
        1,
    ),
    (
        "grasp",
        lambda f: [(f / "level2" / name).mkdir() for name in ("P_Gravity", "IP_Gravity")],
        "Gravity",
        "hold no video",
        1,
    ),
    (
        "inflevel",
        lambda f: (f / "inflevel_lab/gravity/center__gravity__cup__duck__ci.mp4").unlink(),
        "gravity/center__cup__duck/cv",
        "unpaired: no video of type ci",
        1,
    ),
    (
        "inflevel",
        lambda f: (f / "inflevel_lab/solidity/notes.txt").write_text("x"),
        "solidity/notes.txt",
        "not named as videos",
        1,
    ),
]


@pytest.mark.parametrize(("kind", "damage", "scene", "reason", "count"), BROKEN)
def test_what_cannot_be_used_is_named(
    kind: str, damage: Break, scene: str, reason: str, count: int, tmp_path: Path
) -> None:
    made.copy_benchmark(kind, tmp_path)
    whole = len(read(kind, tmp_path).scored)
    damage(tmp_path)
    found = read(kind, tmp_path)
    faults = {fault.scene: fault.reason for fault in found.excluded}
    assert reason in faults[scene]
    assert len(faults) == count
    # The rest is there; InfLevel's group and GRASP's other scenes keep what is whole of them.
    lost = 0 if kind == "inflevel" or scene == "Gravity" else count
    assert len(found.scored) == whole - lost


@pytest.mark.parametrize(
    ("kind", "damage", "said"),
    [
        ("intphys2", lambda f: (f / "Main/metadata.csv").unlink(), "neither metadata.csv nor"),
        (
            "intphys2",
            lambda f: (f / "Main/metadata.csv").write_text("name,type\na,1_Possible\n"),
            "no column 'SceneIndex', 'condition', 'file_name'",
        ),
        (
            "intphys2",
            lambda f: (f / "Main/metadata.csv").write_text("SceneIndex,type,condition,file_name\n"),
            "the table has no rows",
        ),
        ("intphys", lambda f: (f / "O3").mkdir(), "'O3' is empty"),
        (
            "inflevel",
            lambda f: [p.unlink() for p in (f / "inflevel_lab/gravity").iterdir()],
            "'gravity' holds no video",
        ),
    ],
)
def test_a_folder_that_is_no_such_benchmark_is_refused(
    kind: str, damage: Break, said: str, tmp_path: Path
) -> None:
    made.copy_benchmark(kind, tmp_path)
    damage(tmp_path)
    with pytest.raises(RequestError, match=said):
        read(kind, tmp_path)


def test_videos_that_cannot_be_told_apart_are_no_pair(tmp_path: Path) -> None:
    made.copy_benchmark("intphys", tmp_path)
    for video in "1234":
        made.write_pictures(tmp_path / f"O1/01/{video}/scene", made.benchmark_frames("a", "a", 1))
    scene = next(s for s in read("intphys", tmp_path).scored if s.name == "O1/01")
    with pytest.raises(DataError, match="no pair can be told by its first frames"):
        decode_pairs(Storage(str(tmp_path)), scene, 16, 8.0, "start")
