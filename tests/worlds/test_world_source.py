"""`world://`: what a URI may say, and that its episodes are the same wherever they are made."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest

from orchestrator.data.packing.pack import run_pack
from orchestrator.data.sources.base import RawClip
from orchestrator.data.sources.open import open_source
from orchestrator.data.store.index import DatasetIndex
from orchestrator.environments import ENVIRONMENTS, build_collector, build_environment
from orchestrator.environments.source import EnvironmentSource
from orchestrator.environments.uri import parse_environment_uri
from orchestrator.errors import RequestError
from orchestrator.job import PackJob, TranscodeConfig
from orchestrator.progress import SilentProgress

SMALL = "world://two-rooms?episodes=3&steps=12&size=32&seed=5"


def _clips(uri: str, encode: TranscodeConfig | None = None) -> list[RawClip]:
    source = EnvironmentSource(uri)
    made = [
        clip for unit in source.units() for clip in source.clips(unit, encode or TranscodeConfig())
    ]
    assert all(isinstance(clip, RawClip) for clip in made)
    return made  # type: ignore[return-value]


def _array(clip: RawClip, name: str) -> np.ndarray:
    found = np.load(io.BytesIO(clip.extras[f"{name}.npy"]), allow_pickle=False)
    assert found.dtype == np.float32
    return found


def _decode(payload: bytes) -> np.ndarray:
    with av.open(io.BytesIO(payload)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


@pytest.mark.integration
def test_the_same_uri_gives_the_same_bytes_in_another_process() -> None:
    code = (
        "import hashlib; from orchestrator.job import TranscodeConfig;"
        "from orchestrator.environments.source import EnvironmentSource;"
        f"s = EnvironmentSource('{SMALL}'); d = hashlib.sha256();"
        "[d.update(c.payload + b''.join(c.extras.values()))"
        " for u in s.units() for c in s.clips(u, TranscodeConfig())]; print(d.hexdigest())"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    digest = hashlib.sha256()
    for clip in _clips(SMALL):
        digest.update(clip.payload + b"".join(clip.extras.values()))
    assert there == digest.hexdigest()
    other = _clips(SMALL.replace("seed=5", "seed=6"))
    assert {clip.payload for clip in other}.isdisjoint(clip.payload for clip in _clips(SMALL))


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_row_f_of_the_actions_leads_from_frame_f_to_the_next(name: str) -> None:
    for clip in _clips(f"world://{name}?episodes=2&steps=20&size=64"):
        states, actions, world = (
            _array(clip, "states"),
            _array(clip, "actions"),
            build_environment(name),
        )
        assert len(states) == len(actions) == clip.frames == 20
        assert clip.fps == world.control_rate
        assert not actions[-1].any()
        assert actions[:-1].any()
        assert json.loads(clip.extras["json"])["world"]["states"] == list(world.state_names)
        world.set_state(states[0])
        for action, after in zip(actions[:-1], states[1:], strict=True):
            world.step(action)
            np.testing.assert_allclose(world.state, after, atol=1e-4)
        pictures = np.stack([world.render_state(state) for state in states])
        error = np.mean((_decode(clip.payload).astype(float) - pictures) ** 2)
        assert 10 * np.log10(255**2 / error) > 28


def test_units_are_fixed_lists_and_more_episodes_leave_them_as_they_are() -> None:
    few, many = (EnvironmentSource(f"world://two-rooms?episodes={n}").units() for n in (32, 100))
    assert many[:2] == few
    assert [int(i) for unit in many for i in unit.inputs] == list(range(100))
    assert len({unit.id for unit in many}) == len(many)
    other = EnvironmentSource("world://two-rooms?episodes=32&seed=1").units()
    assert other[0].identity != few[0].identity


def test_a_long_episode_is_cut_and_no_action_leads_out_of_a_part() -> None:
    uri = "world://two-rooms?episodes=1&steps=41&size=64"
    (whole,) = _clips(uri)
    parts = _clips(uri, TranscodeConfig(segment=2.0, short_side=48))
    assert [part.frames for part in parts] == [14, 14, 13]
    assert {part.width for part in parts} == {48}
    states = np.concatenate([_array(part, "states") for part in parts])
    np.testing.assert_array_equal(states, _array(whole, "states"))
    for part in parts:
        actions = _array(part, "actions")
        start = json.loads(part.extras["json"])["world"]["start"]
        np.testing.assert_array_equal(
            actions[:-1], _array(whole, "actions")[start : start + len(actions) - 1]
        )
        assert not actions[-1].any()


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("world://two-room", "did you mean 'two-rooms'?"),
        ("world://", "world://NAME"),
        ("world://two-rooms?episode=2", "did you mean 'episodes'?"),
        ("world://two-rooms?episodes=many", "whole number from 1"),
        ("world://two-rooms?steps=1", "whole number from 2"),
        ("world://two-rooms?size=63", "size=64"),
        ("world://two-rooms?size=512&steps=1000", "lower steps or size"),
        ("world://two-rooms?seed=1&seed=2", "given twice"),
        ("world://no.such.module:World", "cannot import 'no.such.module'"),
        ("world://orchestrator.environments.base:Episode", "not an environment"),
        ("world://two-rooms/more", "did you mean 'two-rooms'?"),
    ],
)
def test_a_wrong_uri_is_refused_with_a_hint(uri: str, says: str) -> None:
    with pytest.raises(RequestError, match=says.replace("?", r"\?")):
        open_source(uri)


def test_a_world_of_ones_own_goes_by_its_import_path() -> None:
    name = "orchestrator.environments.two_rooms:TwoRooms"
    assert isinstance(build_environment(name, 32), type(build_environment("two-rooms")))
    assert callable(build_collector(name))
    assert parse_environment_uri(f"world://{name}?episodes=3").environment == name


def _pack(storage: Path, *, local: bool) -> DatasetIndex:
    uri = "world://two-rooms?episodes=40&steps=12&size=32"
    job = PackJob(kind="pack", name="w", storage=str(storage), source=uri)
    (index,) = run_pack(job, SilentProgress(), local=local)
    return index


def _tar_members(index: DatasetIndex) -> dict[str, bytes]:
    held: dict[str, bytes] = {}
    for shard in range(index.num_shards):
        with tarfile.open(index.tar_uri(shard)) as tar:
            held |= {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    return held


def test_packing_keeps_states_and_actions_beside_the_video(tmp_path: Path) -> None:
    index = _pack(tmp_path, local=True)
    held = _tar_members(index)
    names = {name.partition(".")[2] for name in held}
    assert index.num_clips == 40
    assert names == {"mp4", "json", "states.npy", "actions.npy"}
    assert len(held) == 160


@pytest.mark.integration
def test_ray_packs_the_same_episodes(tmp_path: Path) -> None:
    ray = _tar_members(_pack(tmp_path / "ray", local=False))
    assert ray == _tar_members(_pack(tmp_path / "here", local=True))
