"""A study from its job to its report: cells, resuming, what is refused, what a probe reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.errors import RequestError
from orchestrator.jepa.model_files import randomly_initialized_model, save_model
from orchestrator.jepa.objectives import build_objective
from orchestrator.job import StudyJob, TrainJob, build_job
from orchestrator.progress import SilentProgress
from orchestrator.storage import Storage
from orchestrator.study import state_probe as probing
from orchestrator.study.driver import TrainedCell, run_study
from orchestrator.study.state_probe import make_probe_videos, probe_scores
from orchestrator.tracking.run import create_run
from orchestrator.tracking.server import mlflow_client
from tests.support.reports import external_references
from tests.support.tiny import model_config, tiny_job


def study_job(folder: Path, *overrides: str) -> StudyJob:
    data = tiny_job().model_dump(mode="json", by_alias=True)
    job = build_job(
        {
            "kind": "study",
            "name": "needs",
            "storage": str(folder),
            "arms": {
                "ema": {"kind": "vjepa2", "masks": [{"targets": 0.5, "context": 0.24}]},
                "pixels": {"kind": "pixels", "masks": [{"targets": 0.5, "context": 0.24}]},
                "labels": {"kind": "supervised", "classes": ["drop", "ramp"]},
                "random": None,
            },
            "clips": [2, 4],
            "seeds": [0, 1],
            "backgrounds": ["still", "moving"],
            "data": data["data"] | {"source": "physics://drop?size=32&fps=8&seconds=2"},
            "model": data["model"],
            "optim": {"steps": 2, "lr": 1e-3},
            "scale": {"global_batch": 2, "micro_batch": 2, "precision": "fp32"},
            "probe": {"fit": 10, "score": 4},
        },
        list(overrides),
    )
    assert isinstance(job, StudyJob)
    return job


class Trainer:
    """Stands in for a training: the first weights, and a run of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.trained = folder, list[str]()
        self.server = f"sqlite:///{Storage(str(folder)).uri('mlflow/mlflow.db')}"

    def __call__(self, job: TrainJob) -> TrainedCell:
        self.trained.append(job.name)
        where = self.folder / "made" / job.name
        save_model(where, build_objective(job), None, job, {})
        run = create_run(mlflow_client(self.server), self.server, "study", job.name, {})
        return TrainedCell(str(where), run.info.run_id)


def test_cells_are_every_arm_n_background_and_seed_over_prefixes_of_one_order(
    tmp_path: Path,
) -> None:
    cells = list(study_job(tmp_path).cells())
    assert len(cells) == 2 * 2 * (3 * 2 + 1)
    assert len({cell.key for cell in cells}) == len(cells)
    sources = {cell.job.data.source for cell in cells if cell.job}
    base = "physics://drop?size=32&fps=8&seconds=2"
    moving = f"{base}&background=moving"
    assert sources == {f"{one}&clips={n}" for one in (base, moving) for n in (2, 4)}
    trained = [cell.job for cell in cells if cell.job]
    kinds = {(job.optim.steps, job.scale.global_batch, job.model.encoder) for job in trained}
    assert len(kinds) == 1
    # Whole seeds first: a study that is stopped has whole curves.
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.source=physics://drop?clips=9", "'clips' is set by the study"),
        ("data.source=videos", "a study needs physics://"),
        ("reference=random", "'random' is no trained arm"),
        ("clips=[4,2]", "do not rise"),
        ("seeds=[1,1]", "named twice"),
        ("arms.pixels.masks=[{targets: 0.9, context: 0.9}]", r"arms\.pixels\.masks\.0"),
        ("arms.ema.kind=vjepa3", "vjepa3"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        study_job(tmp_path, override)


def test_the_probes_videos_are_the_same_for_all_cells_and_follow_the_background(
    tmp_path: Path,
) -> None:
    job = study_job(tmp_path)
    fit, score = make_probe_videos(job, "still")
    again, _ = make_probe_videos(job, "still")
    moving, _ = make_probe_videos(job, "moving")
    assert np.array_equal(fit.videos, again.videos)
    assert np.array_equal(fit.states, moving.states)
    assert not np.array_equal(fit.videos, moving.videos)
    assert fit.videos.shape == (10, 8, 32, 32, 3)
    assert score.states.shape == (4, 4, 4)
    # Velocity is what position does, in picture widths a second (a tubelet is a quarter of one).
    steps = np.diff(fit.states[:, :, :2], axis=1) / 0.25
    mean = (fit.states[:, 1:, 2:] + fit.states[:, :-1, 2:]) / 2
    assert np.median(np.abs(steps - mean)) < 0.1


def test_a_model_that_holds_the_states_scores_one_and_noise_scores_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = study_job(tmp_path, "probe.fit_videos=40", "probe.scored_videos=20")
    fit, score = make_probe_videos(job, "still")
    model = randomly_initialized_model(model_config(tiny_job()), 0)
    states = {shown.videos.tobytes(): shown.states for shown in (fit, score)}

    def told(_: Any, videos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        known = states[videos.tobytes()].reshape(-1, 4)
        mixed = known @ np.random.default_rng(0).standard_normal((4, 12))
        return mixed, np.repeat(np.arange(len(videos)), 4)

    def noise(_: Any, videos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        draw = np.random.default_rng(len(videos))
        rows = 4 * len(videos)
        return draw.standard_normal((rows, 12)), np.repeat(np.arange(len(videos)), 4)

    monkeypatch.setattr(probing, "_features", told)
    assert min(probe_scores(model, fit, score).values()) > 0.99
    monkeypatch.setattr(probing, "_features", noise)
    assert max(probe_scores(model, fit, score).values()) < 0.1


@pytest.mark.integration
def test_finished_cells_are_never_run_again_and_more_may_be_added(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    train = Trainer(tmp_path)
    first = run_study(
        study_job(tmp_path, "seeds=[0]", "backgrounds=[moving]"), SilentProgress(), train
    )
    assert len(train.trained) == 3 * 2
    result = json.loads((tmp_path / "studies/needs/study.json").read_text())
    assert result == json.loads(json.dumps(first.result))
    assert [(p["background"], p["score"]) for p in result["panels"]] == [
        ("moving", "position"),
        ("moving", "velocity"),
    ]
    assert set(result["panels"][0]["ratios"]) == {"ema", "labels"}

    again = run_study(
        study_job(tmp_path, "seeds=[0]", "backgrounds=[moving]"), SilentProgress(), train
    )
    assert len(train.trained) == 6
    assert (again.result, again.mlflow_run) == (first.result, first.mlflow_run)

    more = run_study(study_job(tmp_path, "backgrounds=[moving]"), SilentProgress(), train)
    assert len(train.trained) == 12
    assert all(name.endswith(".s1") for name in train.trained[6:])
    assert more.mlflow_run == first.mlflow_run
    for key in ("position", "velocity"):
        old, new = (
            next(p for p in one.result["panels"] if p["score"] == key) for one in (first, more)
        )
        assert {arm: rows[0] for arm, rows in new["arms"].items()} == {
            arm: rows[0] for arm, rows in old["arms"].items()
        }

    page = (tmp_path / "studies/needs/report.html").read_text()
    assert external_references(page) == []
    assert page.count("<svg") == 2
    client = mlflow_client(more.mlflow_run.tracking_uri)
    parent = client.get_run(more.mlflow_run.run_id)
    assert parent.info.status == "FINISHED"
    assert "moving/position/ema/n4" in parent.data.metrics
    children = client.search_runs(
        [client.get_experiment_by_name("study").experiment_id],
        f"tags.`mlflow.parentRunId` = '{more.mlflow_run.run_id}'",
    )
    assert len(children) == 12

    with pytest.raises(RequestError, match=r"exists with other values: optim\.steps: 2 -> 3"):
        run_study(study_job(tmp_path, "optim.steps=3"), SilentProgress(), train)
    with pytest.raises(RequestError, match="was trained with other values"):
        run_study(study_job(tmp_path, "arms.ema.ema=0.5"), SilentProgress(), train)
