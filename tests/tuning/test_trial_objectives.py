"""What trials are ranked by, with labels and without, and videos that none is trained on."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.data.codec.encode import encode_h264
from orchestrator.data.store.index import DatasetIndex
from orchestrator.errors import RequestError
from orchestrator.evaluation.measures.feature_rank import lidar
from orchestrator.evaluation.suite.protocol import protocol_of
from orchestrator.evaluation.suite.units import QuadUnit
from orchestrator.jepa.model_files import ModelConfig, WorldModel, randomly_initialized_model
from orchestrator.jepa.pixel_normalization import normalise
from orchestrator.job import TrainJob, TuneJob, build_job, job_dict
from orchestrator.job.loading.search_space import trial_job_data
from orchestrator.physics.suite.scoring import quad_correct
from orchestrator.progress import SilentProgress
from orchestrator.storage import Storage
from orchestrator.tuning import trial_metrics as objectives
from orchestrator.tuning.trial_metrics import ProbeClips
from orchestrator.tuning.trial_scoring import load_holdout, prepare_holdout_for, score_trial
from tests.support.sweeps import TRAIN_SECTION, tune_job


def trained(job: TuneJob) -> TrainJob:
    train = build_job(trial_job_data(job, 0, {}))
    assert isinstance(train, TrainJob)
    return train


def model_of(train: TrainJob) -> WorldModel:
    config = ModelConfig(
        model=train.model,
        size=train.data.size,
        frames=train.data.frames,
        objective=train.objective.kind,
        job=job_dict(train),
        extra={},
    )
    return randomly_initialized_model(config, 0)


class Told(nn.Module):
    """A predictor that answers what it was told, for the clips in turn."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer, self.at, self.num_mask_tokens = answer, 0, 1

    def forward(self, z: Tensor, context: Tensor, target: Tensor, mask: int = 0) -> Tensor:
        mine = self.answer[self.at : self.at + len(z)]
        self.at += len(z)
        return mine.gather(1, target[..., None].expand(-1, -1, mine.shape[-1]))


def noise(clips: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (clips, 8, 32, 32, 3), dtype=np.uint8)


def copied(model: WorldModel) -> float:
    """Error of the last moment seen, encoded without the future, for all that follow."""
    video = torch.from_numpy(noise(20))
    wanted = model.compared(model.encode(video), video)
    seen = model.compared(model.encode(video[:, :4], seen=4), video[:, :4])
    last = seen[:, -16:].repeat(1, 2, 1)
    return float((last - wanted[:, 32:]).abs().mean())


def test_who_knows_the_future_finds_it_and_who_says_one_thing_finds_nothing(tmp_path: Path) -> None:
    model = model_of(trained(tune_job(tmp_path)))
    wanted = model.encoder(normalise(torch.from_numpy(noise(20)), torch.float32))
    truth = F.layer_norm(wanted, wanted.shape[-1:])
    model.predictor = Told(truth)  # type: ignore[assignment]
    (knows,) = objectives.predict_second_half(model, noise(20))
    assert (knows.retrieval, knows.skill) == (1.0, pytest.approx(1.0, abs=1e-5))

    guess = truth + torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    model.predictor = Told(guess)  # type: ignore[assignment]
    (guessed,) = objectives.predict_second_half(model, noise(20))
    # By hand: 20 clips, 4 moments each, of which the last two are predicted.
    came = guessed.observed.reshape(80, -1)
    places = []
    for clip in range(20):
        for moment in range(2):
            apart = np.abs(came - guessed.predicted[clip, moment]).sum(1)
            places.append(np.log((apart <= apart[4 * clip + 2 + moment]).sum()))
    assert guessed.retrieval == pytest.approx(1 - np.mean(places) / np.log(80))
    errors = (guess - truth)[:, 32:].abs().mean()
    assert guessed.share < knows.share == pytest.approx(1)
    assert 1 - guessed.skill == pytest.approx(float(errors) / copied(model), rel=1e-4)
    model.predictor = Told(truth.mean((0, 1), keepdim=True).expand_as(truth))  # type: ignore[assignment]
    assert objectives.predict_second_half(model, noise(20))[0].retrieval < 0.5

    model.predictor = Told(truth.roll(1, 0))  # type: ignore[assignment]
    assert objectives.predict_second_half(model, noise(20))[0].retrieval < 0.9, (
        "always another clip's"
    )


def test_lidar_is_that_of_tokens_under_noise_and_flicker_moves_nothing(tmp_path: Path) -> None:
    clip = np.full((1, 8, 32, 32, 3), 100, np.uint8)
    clip[0, 3, 10:14, 20:24] = 200
    seen = objectives.with_pixel_noise(clip, 0).astype(float)
    assert not np.array_equal(seen, objectives.with_pixel_noise(clip, 1))
    assert np.std(seen - clip) == pytest.approx(objectives.LIDAR_NOISE_STD, rel=0.05)
    assert abs(np.mean(seen - clip)) < 0.5

    model = model_of(trained(tune_job(tmp_path)))
    found = objectives.log_lidar(model, noise(16))
    views = [
        model.encode(torch.from_numpy(objectives.with_pixel_noise(noise(16), i))).reshape(-1, 24)
        for i in range(objectives.LIDAR_VIEWS)
    ]
    assert found == pytest.approx(np.log(lidar(torch.stack(views, 1))), rel=1e-3)


def test_labels_are_read_where_they_can_be_seen(tmp_path: Path) -> None:
    model = model_of(trained(tune_job(tmp_path)))
    classes = np.arange(60) % 3
    videos = np.clip(noise(60) // 4 + 80 * classes[:, None, None, None, None], 0, 255)
    videos, wanted = videos.astype(np.uint8), np.eye(3)[classes]
    fit, held = ProbeClips(videos[:40], wanted[:40]), ProbeClips(videos[40:], wanted[40:])
    assert objectives.probe_labels(model, fit, held)["label"] > 0.9
    untrue = np.random.default_rng(1).permutation(wanted[:40])
    assert objectives.probe_labels(model, ProbeClips(videos[:40], untrue), held)["label"] < 0.3


def test_quads_are_judged_as_an_evaluation_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = objectives.SUITE_JOB.suite.model_copy(
        update={"scenarios": ("permanence",), "selection_quads": 1}
    )
    monkeypatch.setattr(
        objectives, "SUITE_JOB", objectives.SUITE_JOB.model_copy(update={"suite": suite})
    )
    model = model_of(trained(tune_job(tmp_path)))
    found = objectives.quad_accuracy(model, 2)["quads"]
    rules = protocol_of(objectives.SUITE_JOB, model)
    chosen = QuadUnit(None, "validation", "permanence", 1).measure(model, rules).scores
    scored = (
        QuadUnit(None, "validation", "permanence", 2, first_quad=1).measure(model, rules).scores
    )
    most = max(float(quad_correct(one).mean()) for one in chosen.values())
    best = [
        float(quad_correct(scored[k]).mean())
        for k, v in chosen.items()
        if quad_correct(v).mean() == most
    ]
    assert found in best


def folder_of(path: Path, count: int) -> Path:
    path.mkdir()
    for number in range(count):
        picture = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        still = picture.repeat(8, 0).repeat(8, 1)
        frames = [np.roll(still, 3 * i, 1) for i in range(9)]
        (path / f"v{number:02d}.mp4").write_bytes(encode_h264(frames, 8, 8, 20))
    return path


def swept(tmp_path: Path, videos: Path, **objective: Any) -> TuneJob:
    data = {**TRAIN_SECTION["data"], "source": str(videos), "encode": {"mode": "copy"}}
    keys = {"fit": 20, "score": 16, "share": 0.5, **objective}
    return tune_job(tmp_path / "store", train=TRAIN_SECTION | {"data": data}, objective=keys)


def prepared(job: TuneJob) -> Storage:
    folder = Storage(job.storage).subfolder("sweeps", job.name)
    prepare_holdout_for(job, folder, SilentProgress(), local=True)
    return folder


def names(index: DatasetIndex) -> set[str]:
    return {
        row["source"]
        for shard in range(index.num_shards)
        for row in index.shard_rows(shard).to_pylist()
    }


def test_a_share_of_plain_video_is_held_out_of_every_training(tmp_path: Path) -> None:
    job = swept(tmp_path, folder_of(tmp_path / "videos", 44))
    folder = prepared(job)
    train = trained(job)
    left, held = DatasetIndex.open(str(train.data.source)), DatasetIndex.open(folder.uri("held-0"))
    assert left.num_clips + held.num_clips == 44
    assert not names(left) & names(held)
    assert 14 <= held.num_clips <= 30, "about the half that was asked for"

    seen = load_holdout(job, train)
    assert (seen.metric, seen.probe_fit) == ("retrieval", None)
    found = score_trial(model_of(train), job.gates, seen)
    assert found["shut"] == []
    assert set(found["scores"]) == {"retrieval", "over_copy"}
    assert "skill_over_copy" in found["gates"]
    assert np.array_equal(load_holdout(job, train).videos, seen.videos), "the same for every trial"

    before = folder.read_bytes("held.json")
    prepared(job)
    assert folder.read_bytes("held.json") == before


def test_what_cannot_be_had_is_refused_before_a_trial(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "videos", 40)
    with pytest.raises(RequestError, match="carry neither states nor"):
        prepared(swept(tmp_path, source, metric="probe"))
    with pytest.raises(RequestError, match="16 are the fewest"):
        prepared(swept(tmp_path, source, share=0.2))
    with pytest.raises(RequestError, match="that are trained on"):
        prepared(swept(tmp_path, source, source=str(source)))


def test_labels_beside_videos_are_found(tmp_path: Path) -> None:
    tar = tmp_path / "all.tar"
    with tarfile.open(tar, "w") as out:
        for path in sorted(folder_of(tmp_path / "videos", 44).iterdir()):
            label = {"label": "odd" if int(path.stem[1:]) % 2 else "even"}
            for name, body in (("mp4", path.read_bytes()), ("json", json.dumps(label).encode())):
                info = tarfile.TarInfo(f"{path.stem}.{name}")
                info.size = len(body)
                out.addfile(info, io.BytesIO(body))
    job = swept(tmp_path, tar, fit=10)
    prepared(job)
    seen = load_holdout(job, trained(job))
    assert (seen.metric, seen.state_names) == ("probe", ())
    assert seen.probe_fit is not None
    assert seen.probe_fit.targets.shape[1] == 2


def test_simulated_video_is_drawn_anew_and_its_states_are_read(tmp_path: Path) -> None:
    job = tune_job(tmp_path)
    seen = load_holdout(job, trained(job))
    assert (seen.metric, seen.state_names) == ("probe", ("x", "y", "vx", "vy"))
    other = tune_job(tmp_path, "objective.metric=retrieval")
    unread = load_holdout(other, trained(other))
    assert unread.metric == "retrieval"
    assert np.array_equal(unread.videos, seen.videos), "gates look at the same"
