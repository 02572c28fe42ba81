"""A training that acts: what the driver reads from the data, keeps, and refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from orchestrator.data.action_stats import measure_action_stats
from orchestrator.data.packing.prepare import PreparedData
from orchestrator.data.store.index import DatasetIndex
from orchestrator.errors import RequestError
from orchestrator.evaluation.in_training.scheduler import EvaluationScheduler
from orchestrator.jepa.action_batch import ActionBatch
from orchestrator.jepa.objectives import Objective, ObjectiveOutput
from orchestrator.job import TrainJob, build_job, job_dict
from orchestrator.progress import SilentProgress
from orchestrator.runner import run
from orchestrator.storage import Storage
from orchestrator.training.audit import audit_run
from orchestrator.training.control.signals import Stopped
from orchestrator.training.driver import run_train
from orchestrator.training.engine.step import StepModule
from orchestrator.training.resolve.actions import resolve_actions
from orchestrator.training.run_record import read_record
from tests.support.action_videos import action_job, actions_of, pack_numbered_videos, states_of


def prepared(*indexes: DatasetIndex, weights: Sequence[float | None] | None = None) -> PreparedData:
    return PreparedData(list(indexes), list(weights or [None] * len(indexes)), "digest", 0)


def completed(job: TrainJob, *indexes: DatasetIndex, **options: Any) -> TrainJob:
    return resolve_actions(job, prepared(*indexes, **options), SilentProgress(), local=True)


def test_block_and_statistics_come_from_the_data(tmp_path: Path) -> None:
    index = pack_numbered_videos(tmp_path)
    act = completed(action_job(index.uri, tmp_path), index).data.actions
    assert act is not None
    assert act.statistics is not None
    assert (act.frameskip, act.action_dim) == (2, 6)
    rows = np.concatenate([actions_of(v, 20)[:-1] for v in range(6)]).astype(float)
    np.testing.assert_allclose(act.statistics.action_mean, rows.mean(0))
    np.testing.assert_allclose(act.statistics.action_std, rows.std(0))
    states = np.concatenate([states_of(v, 20) for v in range(6)]).astype(float)
    np.testing.assert_allclose(act.statistics.state_std, [*states.std(0)[:2], 1.0])


def test_a_change_needs_states_alone(tmp_path: Path) -> None:
    def alone(video: int, made: dict[str, Any]) -> None:
        del made["actions"]

    index = pack_numbered_videos(tmp_path, change=alone)
    act = completed(action_job(index.uri, tmp_path, act={"actions": "change"}), index).data.actions
    assert act is not None
    assert act.statistics is not None
    assert (act.action_dim, act.statistics.action_mean) == (3, ())
    with pytest.raises(RequestError, match=r"there is no KEY\.actions\.npy beside"):
        completed(action_job(index.uri, tmp_path), index)


def narrow(video: int, made: dict[str, Any]) -> None:
    made["actions"] = made["actions"][:, :2]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    index = pack_numbered_videos(tmp_path)
    job = action_job(index.uri, tmp_path)
    other = pack_numbered_videos(tmp_path, tag="narrow", change=narrow)
    faster = pack_numbered_videos(tmp_path, tag="fast", fps=20.0)
    refused: list[tuple[str, Any]] = [
        (r"10 frames a second, no whole multiple of 4", lambda: completed(
            action_job(index.uri, tmp_path, fps=4.0), index)),
        (r"2 control steps lead .* the job says 3", lambda: completed(
            action_job(index.uri, tmp_path, act={"block": 3}), index)),
        (r"1 numbers are given, a row of the data has 3", lambda: completed(
            action_job(index.uri, tmp_path, act={"statistics": {
                "action_mean": [0.0], "action_std": [1.0]}}), index)),
        (r"differ in the numbers of a row of actions\.npy: 3 in .*, 2 in", lambda: completed(
            job, index, other)),
        (r"the sources have 10 and 20 frames a second", lambda: completed(job, index, faster)),
    ]  # fmt: skip
    for words, call in refused:
        with pytest.raises(RequestError, match=words):
            call()


def test_a_mixture_is_pooled_by_how_it_is_drawn(tmp_path: Path) -> None:
    def shifted(video: int, made: dict[str, Any]) -> None:
        made["actions"] = made["actions"] + np.float32(100)

    one, other = (
        pack_numbered_videos(tmp_path),
        pack_numbered_videos(tmp_path, videos=18, tag="far", change=shifted),
    )
    job = action_job(one.uri, tmp_path)
    by_clips = completed(job, one, other).data.actions
    even = completed(job, one, other, weights=[1.0, 1.0]).data.actions
    assert by_clips is not None
    assert even is not None
    far = np.concatenate([actions_of(v, 20)[:-1] for v in range(18)]).astype(float) + 100
    near = np.concatenate([actions_of(v, 20)[:-1] for v in range(6)]).astype(float)
    expected = 0.25 * near.mean(0) + 0.75 * far.mean(0)
    np.testing.assert_allclose(by_clips.statistics.action_mean, expected)  # type: ignore[union-attr]
    drawn = np.concatenate([np.repeat(near, 3, 0), far])
    np.testing.assert_allclose(even.statistics.action_std, drawn.std(0), rtol=1e-6)  # type: ignore[union-attr]


def test_statistics_of_ones_own_are_used_as_they_are(tmp_path: Path) -> None:
    index = pack_numbered_videos(tmp_path)
    own = {"action_mean": [0.0] * 3, "action_std": [2.0] * 3}
    job = completed(action_job(index.uri, tmp_path, act={"statistics": own}), index)
    assert job.data.actions is not None
    assert job.data.actions.statistics is not None
    assert job.data.actions.statistics.action_std == (2.0, 2.0, 2.0)
    assert job.data.actions.statistics.state_mean == ()


class Told(Objective):
    """Notes what it is told of the motion."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def forward(
        self, video: Tensor, masks: Any, targets: Any, motion: ActionBatch | None = None
    ) -> ObjectiveOutput:
        self.seen.append(motion)
        return ObjectiveOutput(torch.ones(len(video)), video.detach())


class Deaf(Objective):
    """Knows nothing of motion."""

    def forward(self, video: Tensor, masks: Any, targets: Any) -> ObjectiveOutput:
        return ObjectiveOutput(torch.ones(len(video)), video.detach())


def test_an_objective_hears_of_motion_where_it_listens() -> None:
    motion = ActionBatch(torch.zeros(2, 3, 6), torch.zeros(2, 4, 3))
    told, video, weight = Told(), torch.zeros(2, 1), torch.ones(2)
    StepModule(told, False)(video, [], None, weight, motion)
    StepModule(told, False)(video, [], None, weight, None)
    assert told.seen == [motion, None]
    loss, _ = StepModule(Deaf(), False)(video, [], None, weight, motion)
    assert loss == 2


@pytest.mark.integration
def test_trained_resumed_audited_and_exported_whole(tmp_path: Path) -> None:
    """In this process, as --local does; the run that goes on keeps what it began with."""
    index = pack_numbered_videos(tmp_path)
    job = action_job(index.uri, tmp_path)
    options: Any = {"fresh": False, "local": True, "profile": False}
    with pytest.raises(Stopped):
        run_train(
            job,
            SilentProgress(),
            **options,
            open_evaluations=EvaluationScheduler,
            stop_after_step=2,
        )
    folder = Storage(str(tmp_path)).subfolder("runs", "acting")
    record = read_record(folder)
    assert record is not None
    began = record.job["data"]["actions"]
    assert began["frameskip"] == 2
    assert len(began["statistics"]["state_mean"]) == 3
    assert record.identity["data.act.block"] == 2
    # Measured differently meanwhile: it is not looked at again.
    kept = Path(index.uri, "motion.json")
    facts = json.loads(kept.read_text())
    facts["arrays"]["actions.npy"][0]["mean"] = [9.0, 9.0, 9.0]
    kept.write_text(json.dumps(facts))
    summary = run(job, local=True)
    record = read_record(folder)
    assert record is not None
    assert record.job["data"]["actions"] == began
    report = audit_run(Storage(str(tmp_path)), "acting")
    assert (report.wrong, report.trained, report.failed) == ([], 16, 0)
    exported = json.loads(Path(summary.model_uri, "config.json").read_text())
    assert began in _values(exported)

    other = job_dict(job)
    other["data"]["actions"] = {"representation": "change"}
    with pytest.raises(RequestError, match=r"data\.actions\.representation: 'given' -> 'change'"):
        run(build_job(other), local=True)
    other["data"]["actions"] = {"frameskip": 2, "statistics": dict(began["statistics"])}
    other["data"]["actions"]["statistics"]["action_mean"] = [0.0, 0.0, 0.0]
    with pytest.raises(
        RequestError, match=r"differs in:\s+data\.actions\.statistics\.action_mean\.0"
    ):
        run(build_job(other), local=True)


def _values(value: Any) -> list[Any]:
    """Every value of nested mappings."""
    if not isinstance(value, dict):
        return [value]
    return [value, *(one for item in value.values() for one in _values(item))]


@pytest.mark.nightly
@pytest.mark.integration
def test_two_workers_of_ray_measure_and_train_what_one_process_does(tmp_path: Path) -> None:
    index = pack_numbered_videos(tmp_path)
    job = action_job(index.uri, tmp_path)
    run(job.model_copy(update={"scale": job.scale.model_copy(update={"workers": 2, "cpus": 0.5})}))
    facts = json.loads(Path(index.uri, "motion.json").read_text())
    here = measure_action_stats(index, SilentProgress(), local=True).to_dict()
    assert {key: facts[key] for key in here} == json.loads(json.dumps(here))
    report = audit_run(Storage(str(tmp_path)), "acting")
    assert (report.wrong, report.trained, report.failed) == ([], 16, 0)
