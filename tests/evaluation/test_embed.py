"""Features on disk are the model's, of the clips that were promised, whatever interrupted them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from orchestrator import load_job, load_model, run
from orchestrator.cli.run import show_summary
from orchestrator.data.codec.decode import Crop, decode_clip
from orchestrator.data.store.index import DatasetIndex
from orchestrator.errors import DataError, JobFailed, RequestError
from orchestrator.features import Features
from orchestrator.features.driver import run_embed
from orchestrator.physics.simulated_video import simulate_video
from orchestrator.progress import SilentProgress
from tests.support.embedding import FPS, embed_job, save_tiny_model, write_noise_videos


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, and five videos of 2.5 s."""
    folder = tmp_path_factory.mktemp("embed")
    save_tiny_model(folder / "model")
    write_noise_videos(folder / "videos", [2.5] * 5)
    return folder


def embedded(here: Path, storage: Path, **changes: Any) -> Features:
    found = run_embed(
        embed_job(storage, here / "model", here / "videos", **changes), SilentProgress(), local=True
    )
    return Features.open(found.uri)


def clips_of(index: DatasetIndex, starts: list[float]) -> np.ndarray:
    """8 frames at 8 a second from each start of each segment, the middle 32 columns of 48."""
    rows = [row for shard in range(index.num_shards) for row in index.shard_rows(shard).to_pylist()]
    clips = []
    for row in rows:
        payload = index.read_bytes(0, row["offset"], row["bytes"])
        for start in starts:
            times = np.array([start + i / FPS for i in range(8)])
            clips.append(
                decode_clip(
                    payload, times, size=32, choose_crop=lambda w, h: Crop((w - h) / 2, 0, h, h)
                )
            )
    return np.stack(clips)


@pytest.mark.parametrize("pooling", ["tokens", "frames", "mean"])
def test_features_are_what_encode_gives_of_the_clips(
    here: Path, tmp_path: Path, pooling: str
) -> None:
    features = embedded(here, tmp_path, pooling=pooling, data__clips=2)
    index = DatasetIndex.open(features.info["data"][0]["uri"])
    # A segment of 2.5 s has 1.625 s of room: the middles of its halves.
    clips = clips_of(index, [1.625 / 4, 1.625 * 3 / 4])
    wanted = load_model(str(here / "model")).encode(clips)
    assert wanted.shape == (10, 4 * 4 * 4, 24)
    if pooling == "frames":
        wanted = wanted.view(10, 4, 16, 24).mean(2)
    elif pooling == "mean":
        wanted = wanted.mean(1)
    assert features.shape == tuple(wanted.shape[1:])
    np.testing.assert_allclose(features.array(), wanted.numpy(), rtol=1e-4, atol=1e-5)
    rows = features.table(["key", "clip", "start_s", "video"]).to_pylist()
    assert [row["clip"] for row in rows] == [0, 1] * 5
    assert rows[1]["start_s"] == pytest.approx(1.625 * 3 / 4)
    assert {Path(row["video"]).name for row in rows} == {f"v{i}.mp4" for i in range(5)}


def test_float16_is_the_rounded_float32_and_may_lie_in_a_file(here: Path, tmp_path: Path) -> None:
    exact = embedded(here, tmp_path, name="exact").array()
    half = embedded(here, tmp_path, name="half", dtype="float16").array(tmp_path / "mapped.npy")
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, exact.astype(np.float16))


class Killed(SilentProgress):
    """Stops everything after some units."""

    def __init__(self, units: int) -> None:
        self.left = units

    def update(
        self, stage: str, done: float, total: float, facts: dict[str, float | str] | None = None
    ) -> None:
        if stage == "embed":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def files_of(features: Features) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in Path(features.folder.root).rglob("*.*")}


def test_what_was_interrupted_goes_on_and_ends_in_the_same_bytes(
    here: Path, tmp_path: Path
) -> None:
    small = {"part_bytes": 24 * 4 * 2}  # two clips a file
    whole = embedded(here, tmp_path / "whole", **small)
    assert [part["rows"] for part in whole.info["parts"]] == [2, 2, 1]
    job = embed_job(tmp_path / "cut", here / "model", here / "videos", **small)
    with pytest.raises(KeyboardInterrupt):
        run_embed(job, Killed(2), local=True)
    folder = tmp_path / "cut/features/features"
    with pytest.raises(RequestError, match="not finished"):
        Features.open(str(folder))
    written = {path: path.stat().st_mtime_ns for path in (folder / "parts").iterdir()}
    assert len(written) == 2
    resumed = Features.open(run_embed(job, SilentProgress(), local=True).uri)
    assert {path: path.stat().st_mtime_ns for path in written} == written, "nothing is done twice"
    ours, theirs = files_of(resumed), files_of(whole)
    for name in [*(part for part in ours if part.startswith("part-")), "bad.parquet"]:
        assert ours[name] == theirs[name]
    assert resumed.info["parts"] == whole.info["parts"]
    assert resumed.digest == whole.digest
    assert not (folder / "units").exists()


def test_a_corrupt_clip_is_named_and_the_others_are_embedded(here: Path, tmp_path: Path) -> None:
    whole = embedded(here, tmp_path)
    index = DatasetIndex.open(whole.info["data"][0]["uri"])
    rows = index.shard_rows(0).to_pylist()
    broken = rows[2]
    with open(index.tar_uri(0), "r+b") as tar:
        tar.seek(broken["offset"] + broken["bytes"] // 2)
        tar.write(b"\0" * 64)
    job = embed_job(tmp_path, here / "model", index.uri, name="again")
    with pytest.raises(JobFailed, match=f"1 of 5 clips cannot be used.*{broken['key']}"):
        run_embed(job, SilentProgress(), local=True)
    job = embed_job(tmp_path, here / "model", index.uri, name="again", data__bad_limit=0.2)
    found = Features.open(run_embed(job, SilentProgress(), local=True).uri)
    assert found.num_rows == 4
    (bad,) = found.failed_clips()
    assert (bad["key"], bad["video"], bad["short"]) == (broken["key"], broken["source"], False)
    assert "sha256 differs" in bad["reason"]
    kept = [i for i in range(5) if i != 2]
    np.testing.assert_allclose(found.array(), whole.array()[kept], rtol=1e-5, atol=1e-6)
    assert broken["key"] not in found.table(["key"])["key"].to_pylist()


def test_segments_shorter_than_a_clip_are_listed_and_do_not_count(
    here: Path, tmp_path: Path
) -> None:
    videos = write_noise_videos(tmp_path / "videos", [2.5, 0.5, 2.5])
    found = Features.open(
        run_embed(embed_job(tmp_path, here / "model", videos), SilentProgress(), local=True).uri
    )
    assert (found.num_rows, found.info["failed"], found.info["short"]) == (2, 0, 1)
    (bad,) = found.failed_clips()
    assert bad["key"].startswith("v1-")
    assert "lasts 0.50 s" in bad["reason"]
    short = write_noise_videos(tmp_path / "short", [0.5])
    with pytest.raises(RequestError, match=r"longest segment lasts 0\.50 s"):
        run_embed(
            embed_job(tmp_path, here / "model", short, name="s"), SilentProgress(), local=True
        )


def test_another_model_or_other_data_under_the_same_name_are_refused(
    here: Path, tmp_path: Path
) -> None:
    found = embedded(here, tmp_path)
    assert embedded(here, tmp_path).digest == found.digest, "done is done"
    other = save_tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(RequestError, match=f"model: '{found.model_digest}' -> "):
        run_embed(embed_job(tmp_path, other, here / "videos"), SilentProgress(), local=True)
    more = write_noise_videos(tmp_path / "more", [2.5, 2.5])
    with pytest.raises(RequestError, match=r"data\.0: '[0-9a-f]+' -> "):
        run_embed(embed_job(tmp_path, here / "model", more), SilentProgress(), local=True)
    with pytest.raises(RequestError, match="pooling: 'mean' -> 'tokens'"):
        embedded(here, tmp_path, pooling="tokens")
    # The same weights elsewhere are the same model.
    shutil.copytree(here / "model", tmp_path / "copy")
    job = embed_job(tmp_path, tmp_path / "copy", here / "videos")
    assert Features.open(run_embed(job, SilentProgress(), local=True).uri).digest == found.digest


def test_a_reader_refuses_what_it_did_not_ask_for(here: Path, tmp_path: Path) -> None:
    found = embedded(here, tmp_path)
    where = found.folder.root
    assert Features.open(where, model=found.model_digest, data=found.data_digests).num_rows == 5
    with pytest.raises(RequestError, match="of another model"):
        Features.open(where, model="0" * 16)
    with pytest.raises(RequestError, match="of other data"):
        Features.open(where, data=["0" * 16])
    part = Path(where) / found.info["parts"][0]["file"]
    about = json.loads(pq.read_schema(part).metadata[b"orchestrator"])
    assert about["identity"]["model"] == found.model_digest
    assert about["identity"]["data.0"] == found.data_digests[0]
    assert about["identity"]["pooling"] == "mean"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(DataError, match="sha256 differs"):
        found.array()


def test_labels_of_a_manifest_travel_along(here: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "list.csv"
    lines = [f"{here / 'videos' / f'v{i}.mp4'} {i % 2}" for i in range(3)]
    manifest.write_text("\n".join(lines))
    job = embed_job(tmp_path, here / "model", manifest)
    table = Features.open(run_embed(job, SilentProgress(), local=True).uri).table(
        ["video", "label"]
    )
    names = [Path(video).name for video in table["video"].to_pylist()]
    assert dict(zip(names, table["label"].to_pylist(), strict=True)) == {
        "v0.mp4": "0",
        "v1.mp4": "1",
        "v2.mp4": "0",
    }


def test_states_contacts_and_family_of_simulated_scenes_travel_along(
    here: Path, tmp_path: Path
) -> None:
    uri = "physics://drop?clips=2&size=32&fps=16&seconds=2&seed=3"
    job = embed_job(tmp_path, here / "model", uri, data__clips=2)
    rows = Features.open(run_embed(job, SilentProgress(), local=True).uri).table(
        ["start_s", "label", "states", "states_shape", "subject", "contacts"]
    )
    assert len(rows) == 4
    for number, row in enumerate(rows.to_pylist()):
        truth = simulate_video("drop", 3, number // 2, size=32, fps=16, seconds=2)
        assert row["label"] == "drop"
        roles = [thing["role"] for thing in truth.meta["objects"]]
        only = roles.index("mover") if roles.count("mover") == 1 else -1
        assert row["subject"] == only
        states = np.array(row["states"]).reshape(row["states_shape"])
        for i, state in enumerate(states):
            frame = int((row["start_s"] + i / 8) * 16 + 1e-6)
            np.testing.assert_array_equal(state, truth.states[frame])
        shown = [
            one
            for one in truth.meta["contacts"]
            if row["start_s"] <= one["time"] < row["start_s"] + 1
        ]
        assert [(one["a"], one["b"]) for one in row["contacts"]] == [
            (one["a"], one["b"]) for one in shown
        ]
        for one, true in zip(row["contacts"], shown, strict=True):
            assert one["time"] == pytest.approx(true["time"] - row["start_s"], abs=1e-5)


def test_an_untrained_model_is_another_model_of_the_same_shape(here: Path, tmp_path: Path) -> None:
    trained = embedded(here, tmp_path)
    random = embedded(here, tmp_path, name="random", untrained=0)
    again = embedded(here, tmp_path, name="again", untrained=1)
    assert len({trained.model_digest, random.model_digest, again.model_digest}) == 3
    assert random.info["model"]["shape"] == trained.info["model"]["shape"]
    assert not np.allclose(random.array(), trained.array(), atol=1e-2)
    assert not np.allclose(random.array(), again.array(), atol=1e-2)


def test_the_terminal_says_what_was_written(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = write_noise_videos(tmp_path / "videos", [2.5, 0.5])
    summary = run(embed_job(tmp_path, here / "model", videos, dtype="float16"), local=True)
    show_summary(summary)
    said = capsys.readouterr().out
    features = Features.open(summary.features["uri"])
    assert "1 clips, float16 [24] each" in said
    assert f"model {features.model_digest}, data {videos} ({features.data_digests[0]})" in said
    assert "1 short: see bad.parquet" in said
    assert said.rstrip().endswith(f"features {features.folder.root}")


@pytest.mark.parametrize("name", ["video/embed", "physics/embed", "physics/probe"])
def test_the_job_files_are_right(name: str) -> None:
    jobs = Path(__file__).parents[2] / "jobs"
    assert load_job(jobs / f"{name}.yaml").name == name.replace("/", "-")


def test_a_diverged_model_is_refused_and_what_does_not_fit_is_named(
    here: Path, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match="7 frames do not divide by the model's tubelet 2"):
        embedded(here, tmp_path, data__frames=7)
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(here / "model", broken)
    weights = load_file(broken / "model.safetensors")
    weights["encoder.norm.weight"] = torch.full_like(weights["encoder.norm.weight"], float("nan"))
    save_file(weights, broken / "model.safetensors")
    with pytest.raises(JobFailed, match="not finite"):
        run_embed(
            embed_job(tmp_path, broken, here / "videos", name="b"), SilentProgress(), local=True
        )


@pytest.mark.integration
def test_on_ray_the_bytes_are_the_same(here: Path, tmp_path: Path) -> None:
    small = {"part_bytes": 24 * 4 * 2, "data__bad_limit": 1}
    videos = write_noise_videos(tmp_path / "videos", [2.5, 0.5, 2.5, 2.5, 2.5])
    jobs = [embed_job(tmp_path / name, here / "model", videos, **small) for name in ("ray", "here")]
    there = Features.open(run_embed(jobs[0], SilentProgress(), local=False).uri)
    alone = Features.open(run_embed(jobs[1], SilentProgress(), local=True).uri)
    assert there.info["parts"] == alone.info["parts"]
    # Each has packed for itself, into tars of other names.
    bad = [[{**row, "shard": ""} for row in one.failed_clips()] for one in (there, alone)]
    assert bad[0] == bad[1]
    assert len(bad[0]) == 1
    np.testing.assert_array_equal(there.array(), alone.array())
