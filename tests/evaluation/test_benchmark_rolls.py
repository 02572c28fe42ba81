"""Rollouts on Moving MNIST and CLEVRER in miniature: the right frames, states and splits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import JobFailed, RequestError
from orchestrator.evaluation.benchmarks import clevrer, moving_mnist
from orchestrator.evaluation.benchmarks import rollout_summary as roll_scores
from orchestrator.evaluation.benchmarks import rollouts as rolls
from orchestrator.evaluation.benchmarks.model_inputs import ClipFormat
from orchestrator.evaluation.benchmarks.rollouts import RolloutRawResults, measure_rollouts
from orchestrator.evaluation.measures.rollout import Rollout
from orchestrator.evaluation.measures.surprise import ContextSpec
from orchestrator.jepa.model_files import WorldModel, randomly_initialized_model
from orchestrator.job import EvaluateJob, build_job
from orchestrator.progress import SilentProgress
from orchestrator.storage import Storage
from tests.support import benchmarks as made
from tests.support.tiny import model_config, tiny_job

SHAPE = ClipFormat(32, 8, 8.0, 2)


def job_of(kind: str, folder: Path, *changes: str, **options: Any) -> EvaluateJob:
    job = build_job(
        {
            "kind": "evaluate",
            "name": "b",
            "model": "unused",
            "benchmark": {"kind": kind, "folder": str(folder), **options},
            "random": 0,
        },
        list(changes),
    )
    assert isinstance(job, EvaluateJob)
    return job


def judged(job: EvaluateJob, model: WorldModel) -> RolloutRawResults:
    return measure_rollouts(job, job.benchmark, model, SilentProgress(), local=True)  # type: ignore[arg-type]


def verdict(job: EvaluateJob, found: RolloutRawResults) -> dict[str, Any]:
    return roll_scores.summarize(job, job.benchmark, found)  # type: ignore[arg-type]


def read_mnist(folder: Path, shape: ClipFormat = SHAPE, **options: Any) -> Any:
    job = job_of("moving-mnist", folder, **options)
    return moving_mnist.list_clips(job.benchmark, Storage(str(folder)), shape)  # type: ignore[arg-type]


def read_clevrer(folder: Path, **options: Any) -> Any:
    job = job_of("clevrer", folder, **options)
    return clevrer.list_clips(job.benchmark, Storage(str(folder)))  # type: ignore[arg-type]


def test_moving_mnist_gives_each_sequence_its_own_frames(tmp_path: Path) -> None:
    made.moving_mnist(tmp_path)
    found = read_mnist(tmp_path)
    assert len(found.selection) == 6
    assert len(found.scored) == 24
    names = {clip.name for clip in [*found.scored, *found.selection]}
    assert names == {f"{number:05d}" for number in range(30)}
    array = np.load(tmp_path / "mnist_test_seq.npy")
    shown = moving_mnist.decode_clips(
        Storage(str(tmp_path)), found.scored, ClipFormat(64, 8, 99.0, 2)
    )
    assert shown.clips == found.scored
    for clip, frames in zip(shown.clips, shown.frames, strict=True):
        assert (frames == array[:8, int(clip.name), :, :, None]).all()
    small = moving_mnist.decode_clips(Storage(str(tmp_path)), found.scored[:1], SHAPE)
    assert small.frames.shape == (1, 8, 32, 32, 3)
    wanted = array[:8, int(found.scored[0].name)].reshape(8, 32, 2, 32, 2).mean((2, 4))
    assert abs(small.frames[0, ..., 0].astype(float).mean() - wanted.mean()) < 1
    assert len(read_mnist(tmp_path, scenes=5).scored) == 5


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), "no mnist_test_seq.npy in it"),
        (lambda path: path.write_bytes(b"nothing"), "is no NumPy array"),
        (lambda path: np.save(path, np.zeros((20, 3, 64, 64))), "holds float64"),
        (lambda path: np.save(path, np.zeros((20, 64), np.uint8)), r"holds uint8 \[20, 64\]"),
        (lambda path: np.save(path, np.zeros((6, 9, 64, 64), np.uint8)), "have 6 frames, the"),
        (lambda path: np.save(path, np.zeros((20, 1, 64, 64), np.uint8)), "none is left to score"),
    ],
)
def test_what_is_no_moving_mnist_is_refused(
    spoil: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    made.moving_mnist(tmp_path, sequences=3)
    spoil(tmp_path / "mnist_test_seq.npy")
    with pytest.raises(RequestError, match=said):
        read_mnist(tmp_path)


def test_a_file_that_is_cut_off_costs_the_sequences_that_it_lacks_by_name(
    tmp_path: Path, tiny_model: WorldModel
) -> None:
    made.moving_mnist(tmp_path, frames=8)
    path = tmp_path / "mnist_test_seq.npy"
    path.write_bytes(path.read_bytes()[: -5 * 64 * 64])
    with pytest.raises(JobFailed, match="of 30 scenes cannot be used"):
        judged(job_of("moving-mnist", tmp_path), tiny_model)
    job = job_of("moving-mnist", tmp_path, bad_limit=0.2)
    found = verdict(job, judged(job, tiny_model))
    lost = [one["scene"] for one in found["left_out"]]
    assert lost == ["00025", "00026", "00027", "00028", "00029"]
    assert found["counts"]["scored"] + found["counts"]["chosen_on"] == 25


def test_rollouts_have_a_row_for_each_horizon_and_random_models_beside(
    tmp_path: Path, tiny_model: WorldModel
) -> None:
    made.moving_mnist(tmp_path)
    job = job_of("moving-mnist", tmp_path, "random=2")
    rolled = judged(job, tiny_model)
    found = verdict(job, rolled)
    assert rolled.context_spec.context == 4  # half of the clip
    assert len(found["chosen_from"]) == len(tiny_model.predictor.mask_tokens)  # type: ignore[union-attr]
    assert [row["tubelets_ahead"] for row in found["rollout"]] == [1, 2]
    assert found["probe"] == {}
    assert not set(rolled.selection_clips) & set(rolled.scored)
    assert len(found["random"]) == 2
    mine, theirs = (
        np.concatenate([one.errors[name] for one in rolled.model]).mean()
        for name in ("model", "copy")
    )
    whole = found["overall"]["skill_over_copy"]
    assert whole["value"] == pytest.approx(1 - mine / theirs)
    assert whole["low"] <= whole["value"] <= whole["high"]
    assert sum(one.errors["model"].shape[0] for one in rolled.model) == 24 == len(rolled.scored)
    other = verdict(job_of("moving-mnist", tmp_path, choose_share=0.3), rolled)
    assert other["protocol"] != found["protocol"]
    with pytest.raises(RequestError, match="2 contexts; errors at other horizons"):
        judged(job_of("moving-mnist", tmp_path, "surprise.context_frames=[2,4]"), tiny_model)


def test_a_foreseer_has_full_skill_and_a_copier_none(
    tmp_path: Path, tiny_model: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.moving_mnist(tmp_path)
    for blend, wanted in ((0.0, 1.0), (1.0, 0.0)):

        def roll_out(
            model: WorldModel, clips: np.ndarray, view: ContextSpec, b: float = blend
        ) -> Rollout:
            rng = np.random.default_rng(len(clips))
            copy, linear = rng.random((len(clips), 2)) + 1, rng.random((len(clips), 2)) + 2
            wanted = rng.random((len(clips), 4, 3))
            errors = {"model": b * copy, "copy": copy, "linear": linear}
            return Rollout(errors, wanted[:, 2:], wanted)

        monkeypatch.setattr(rolls, "rollout_clips", roll_out)
        job = job_of("moving-mnist", tmp_path)
        found = verdict(job, judged(job, tiny_model))
        assert found["overall"]["skill_over_copy"]["value"] == pytest.approx(wanted)
        assert found["rollout"][0]["cross_clip"]["@1"] == 1.0


def test_the_mask_token_is_chosen_where_nothing_is_scored(
    tmp_path: Path, tiny_model: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Token 1 sees better what is chosen on, and worse what is scored: it is chosen."""
    made.moving_mnist(tmp_path)
    job = job_of("moving-mnist", tmp_path)
    chosen_on = judged(job, tiny_model).selection_clips
    rows = {2 * (int(name) % 24) for name in chosen_on}

    def roll_out(model: WorldModel, clips: np.ndarray, view: ContextSpec) -> Rollout:
        bright = clips[:, 0, :, :, 0].max(2) > 128  # [clips, rows], half the size
        first = 2 * bright.argmax(1)
        known = np.array([any(abs(int(row) - one) <= 1 for one in rows) for row in first])
        error = np.where(known == (view.mask == 1), 0.1, 0.9)[:, None]
        wanted = np.random.default_rng(0).random((len(clips), 4, 3))
        errors = {"model": error, "copy": np.ones_like(error), "linear": np.ones_like(error)}
        return Rollout(errors, wanted[:, 3:], wanted)

    monkeypatch.setattr(rolls, "rollout_clips", roll_out)
    found = judged(job, tiny_model)
    assert found.context_spec.mask == 1
    assert found.selection_skill[found.context_spec] == pytest.approx(0.9)
    assert verdict(job, found)["overall"]["skill_over_copy"]["value"] < 0.9


def test_clevrer_is_split_by_its_numbers_wherever_its_folders_lie(tmp_path: Path) -> None:
    made.clevrer(tmp_path)
    found = read_clevrer(tmp_path)
    assert [clip.name for clip in found.selection] == ["00000", "00001", "00002"]
    assert {clip.name for clip in found.scored} == {"10000", "10001", "10002", "10003"}
    for old, new in (("video_train", "videos/train"), ("annotation_train", "annotations/train")):
        (tmp_path / new).parent.mkdir()
        (tmp_path / old).rename(tmp_path / new)
    again = read_clevrer(tmp_path)
    assert [clip.name for clip in again.selection] == [clip.name for clip in found.selection]
    assert again.selection[0].path == "videos/train/video_00000-01000/video_00000.mp4"
    shared = read_clevrer(tmp_path, choose="share")
    assert len(shared.selection) == 1
    assert {clip.name for clip in [*shared.selection, *shared.scored]} == {
        clip.name for clip in found.scored
    }
    assert len(read_clevrer(tmp_path, scenes=2, choose_scenes=1).scored) == 2
    assert len(read_clevrer(tmp_path, scenes=2, choose_scenes=1).selection) == 1


def test_states_are_those_of_the_frames_that_are_shown(tmp_path: Path) -> None:
    made.clevrer(tmp_path)
    found = read_clevrer(tmp_path)
    shown = clevrer.decode_clips(Storage(str(tmp_path)), found.scored, SHAPE)
    assert shown.targets.shape == (4, 8, 5)
    for clip, frames, targets in zip(shown.clips, shown.frames, shown.targets, strict=True):
        numbers = made.clevrer_numbers(frames)
        # At 8 a second of 25: three frames further, every eighth time four.
        assert {3, 4} >= set(np.diff(numbers))
        start = 4 * (int(clip.name) % 7)
        # The state of the very frame that is shown; what is out of view is left out.
        assert targets[:, 0].tolist() == [(start + t / 2) % 40 for t in numbers]
        assert (targets[:, 1] == targets[:, 0] / 2).all()
        assert (targets[:, 2:] == [0.5, -0.5, 1.0]).all()
    # Clips do not all begin at one time.
    assert len({made.clevrer_numbers(frames)[0] for frames in shown.frames}) > 1


def _edit(folder: Path, change: Callable[[Any], object]) -> None:
    path = next(folder.rglob("annotation_10001.json"))
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: next(f.rglob("annotation_10001.json")).unlink(), "it has no annotation"),
        (lambda f: next(f.rglob("video_10001.mp4")).unlink(), "it has no video"),
        (lambda f: next(f.rglob("video_10001.mp4")).write_bytes(b"x" * 99), "not a readable video"),
        (lambda f: next(f.rglob("annotation_10001.json")).write_text("{"), "is no JSON"),
        (lambda f: _edit(f, lambda said: said.pop("motion_trajectory")), "it lacks 'motion_traj"),
        (lambda f: _edit(f, lambda said: said["motion_trajectory"].clear()), "is no annotation"),
        (
            lambda f: _edit(
                f, lambda said: [one.pop("velocity") for r in said["motion_trajectory"]
                                 for one in r["objects"]]
            ),
            "it lacks 'velocity'",
        ),
    ],
)  # fmt: skip
def test_a_video_of_clevrer_that_cannot_be_used_is_named(
    spoil: Callable[[Path], object], said: str, tmp_path: Path, tiny_model: WorldModel
) -> None:
    made.clevrer(tmp_path)
    spoil(tmp_path)
    with pytest.raises((JobFailed, RequestError), match=f"(?s)1 of 7 scenes.*10001: .*{said}"):
        judged(job_of("clevrer", tmp_path), tiny_model)
    job = job_of("clevrer", tmp_path, bad_limit=0.2)
    found = verdict(job, judged(job, tiny_model))
    assert [one["scene"] for one in found["left_out"]] == ["10001"]
    assert found["counts"]["scored"] == 3


def test_clevrer_without_a_split_says_what_to_do(tmp_path: Path, tiny_model: WorldModel) -> None:
    made.clevrer(tmp_path, train=0)
    with pytest.raises(RequestError, match="no video of the train split") as error:
        read_clevrer(tmp_path)
    assert "benchmark.selection_split=share" in str(error.value)
    with pytest.raises(RequestError, match="no video of the validation split"):
        read_clevrer(tmp_path / "nothing")
    long = randomly_initialized_model(model_config(tiny_job(frames=16)), 0)
    with pytest.raises(JobFailed, match=r"lasts 1\.60 s, the model's clip of 16 frames"):
        judged(job_of("clevrer", tmp_path, choose="share"), long)


def test_a_probe_reads_where_things_are_and_not_what_was_shuffled(
    tmp_path: Path, tiny_model: WorldModel
) -> None:
    made.clevrer(tmp_path, train=14, validation=10)
    job = job_of("clevrer", tmp_path, "random=1")
    rolled = judged(job, tiny_model)
    found = verdict(job, rolled)
    assert set(found["probe"]) == {"model", "random"}
    assert list(found["probe"]["model"]) == ["x", "y", "vx", "vy", "objects"]
    # Even a random encoder lets a ridge probe see where a square is.
    assert found["probe"]["model"]["x"] > 0.8
    assert found["probe"]["random"]["x"] > 0.8
    # Nothing can be said of a state that is always the same.
    assert found["probe"]["model"]["objects"] is None
    for fitted, held_out in rolled.state_rows.values():
        assert sum(len(one.groups) for one in fitted) == 14 * 4
        assert sum(len(one.groups) for one in held_out) == 10 * 4
    fitted, held_out = rolled.state_rows["model"]
    rng = np.random.default_rng(0)
    for one in fitted:
        rng.shuffle(one.targets)
    assert roll_scores.probe_object_states(fitted, held_out)["x"] < 0.3
