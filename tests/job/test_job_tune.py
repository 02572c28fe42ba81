"""Sweeps as jobs: the space is checked against the train job before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import RequestError
from orchestrator.job import TuneJob, build_job, job_dict, load_job
from orchestrator.job.loading.search_space import build_point, grid_points, trial_job_data

TRAIN = """\
kind: train
name: small
data: {source: "physics://drop?size=32&fps=8&seconds=2", frames: 8, fps: 8.0, size: 32}
model: {encoder: {dim: 24, depth: 2, heads: 2}, patch: 8, predictor: {dim: 12, depth: 1, heads: 2}}
objective: {kind: vjepa2, masks: [{targets: 0.5, context: 0.24}]}
optim: {steps: 50, warmup: 5}
"""

TUNE = """\
kind: tune
name: search
train: small.yaml
space:
  optim.lr: {loguniform: [1.0e-4, 1.0e-2]}
  optim.schedule: {choice: [cosine, warmup-constant-decay]}
  optim.decay: {int: [1, 5], when: {optim.schedule: warmup-constant-decay}}
trials: 4
budget: 40
"""


@pytest.fixture
def tune_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep whose keys stand on known lines, beside its train job."""
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(TRAIN)
    path = Path("tune.yaml")
    path.write_text(TUNE)
    return path


def tuned(path: Path, *overrides: str) -> TuneJob:
    job = load_job(path, overrides)
    assert isinstance(job, TuneJob)
    return job


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(RequestError) as caught:
        load_job(path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_the_train_job_is_read_from_its_file_and_may_be_overridden(tune_file: Path) -> None:
    job = tuned(tune_file, "train.model.encoder.depth=3")
    assert (job.train.model.encoder.depth, job.train.optim.steps) == (3, 50)  # type: ignore[union-attr]
    assert build_job(job_dict(job)) == job, "what MLflow keeps is the job again"


def test_a_trial_is_the_train_job_with_its_values(tune_file: Path) -> None:
    job = tuned(tune_file)
    data = trial_job_data(job, 3, {"optim.lr": 0.005})
    trial = build_job(data)
    assert (trial.name, trial.storage) == ("search.t0003", ".orchestrator")
    assert (trial.optim.steps, trial.optim.lr, trial.optim.warmup) == (40, 0.005, 5)  # type: ignore[union-attr]


def test_rungs_are_a_tenth_and_for_asha_three_tenths(tune_file: Path) -> None:
    assert tuned(tune_file).rungs == (4, 40)
    assert tuned(tune_file, "scheduler=asha").rungs == (4, 12, 40)
    assert tuned(tune_file, "budget=9", "train.optim.warmup=0").rungs == (1, 9)


def test_a_budget_may_limit_the_whole_sweep_too(tune_file: Path) -> None:
    job = tuned(tune_file, "budget={hours: 2}", "train.optim.steps=60")
    assert (job.steps, job.limits.hours, job.limits.gpu_hours) == (60, 2, None)
    assert tuned(tune_file, "budget={steps: 50, gpu_hours: 3}").rungs == (5, 50)
    assert build_job(job_dict(job)) == job
    assert build_job(trial_job_data(job, 0, {})).optim.steps == 60  # type: ignore[union-attr]


def test_a_conditional_key_is_asked_for_only_where_its_condition_holds(tune_file: Path) -> None:
    job = tuned(tune_file)
    values = {"optim.lr": 0.001, "optim.decay": 2}
    plain = build_point(job, lambda key: values.get(key, "warmup-constant-decay"))
    cosine = build_point(job, lambda key: values.get(key, "cosine"))
    assert list(plain) == ["optim.lr", "optim.schedule", "optim.decay"]
    assert list(cosine) == ["optim.lr", "optim.schedule"]


def test_a_grid_has_every_combination_that_can_be_once(tune_file: Path) -> None:
    space = (
        "space={optim.schedule: {choice: [cosine, warmup-constant-decay]},"
        " optim.decay: {int: [1, 3], when: {optim.schedule: warmup-constant-decay}}}"
    )
    points = grid_points(tuned(tune_file, space, "search=grid"))
    assert points == [
        {"optim.schedule": "cosine"},
        *({"optim.schedule": "warmup-constant-decay", "optim.decay": n} for n in (1, 2, 3)),
    ]
    said = refused(tune_file, space, "search=grid", "trials=5")
    assert "5 of a grid of 4" in said


@pytest.mark.parametrize(
    ("line", "text", "said"),
    [
        (5, "  optim.lrr: {loguniform: [1.0e-4, 1.0e-2]}", "did you mean 'lr'"),
        (5, "  optim.lr: {uniform: [0.0, 1.0]}", "greater than 0"),
        (5, "  optim.lr: {uniform: [0.2, 0.1]}", "nothing lies between"),
        (5, "  optim.lr: {loguniform: [0.0, 0.1]}", "must be above 0"),
        (5, "  optim.lr: {choice: []}", "choice is empty"),
        (5, "  optim.lr: {choice: [1.0, 1.0]}", "names a value twice"),
        (5, "  optim.lr: {uniform: [1.0, 2.0], int: [1, 2]}", "got uniform and int"),
        (5, "  optim.lr.peak: {uniform: [1.0, 2.0]}", "is a value"),
        (6, "  optim.schedule: {choice: [cosine, linear]}", "must be"),
        (7, "  optim.decay: {int: [1, 90]}", "exceed steps 40"),
        (7, "  optim.decay: {int: [1, 5], when: {optim.schedule: linear}}", "never holds"),
    ],
)
def test_a_key_or_value_that_cannot_be_is_told_with_its_line(
    tune_file: Path, line: int, text: str, said: str
) -> None:
    lines = TUNE.splitlines()
    lines[line - 1] = text
    tune_file.write_text("\n".join(lines))
    message = refused(tune_file)
    assert message.startswith(f"tune.yaml:{line}: ")
    assert said in message


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("space={}", "at least 1"),
        ("objective.metric=loss", "lowest for a model that collapsed"),
        ("objective.metric=los", "unknown 'los'; write auto or probe or retrieval or quads"),
        ("train.scale.workers={min: 1, max: 2}", "write a number of workers"),
        ("space={optim.steps: {int: [1, 2]}}", "that is the sweep's budget"),
        ("space={scale.zero: {choice: [1, 2]}}", "changes nothing that is learned"),
        ("space={track.every: {choice: [1, 2]}}", "decides nothing that is learned"),
        ("first=[{optim.betas: [0, 0]}]", "not in the space"),
        ("first=[{optim.lr: -1.0}]", "optim.lr: -1.0 is not one of the space's values"),
        ("first=[{optim.lr: 0.5}]", "optim.lr: 0.5 is not one of the space's values"),
        ("first=[{optim.schedule: linear}]", "optim.schedule: 'linear' is not one of"),
        ("first=[{optim.decay: 1.5}]", "optim.decay: 1.5 is not one of"),
        (
            "space={optim.lr: {uniform: [0.1, 0.2]}, optim: {choice: [{lr: 0.1}, {lr: 0.2}]}}",
            "'optim' would replace 'optim.lr': let it stand first",
        ),
        ("budget={hour: 1}", "budget.hour: unknown key; did you mean 'hours'?"),
        ("budget={gpu_hours: 0}", "budget.gpu_hours: should be greater than 0"),
        ("budget=1", "greater than or equal to 2"),
        ("search=grid", "no end of values for 'optim.lr'"),
        ("train=tune.yaml", "train is of kind 'tune'"),
        ("train=elsewhere.yaml", "name a job file of kind train"),
        ("train.optim.lrr=1", "did you mean 'lr'"),
        ("budget=4", "exceed steps 4"),
    ],
)
def test_what_cannot_be_searched_is_refused(tune_file: Path, override: str, said: str) -> None:
    assert said in refused(tune_file, override)


def test_only_a_model_that_predicts_can_be_ranked_by_what_it_predicts(tune_file: Path) -> None:
    supervised = "train.objective={kind: supervised, classes: [a, b]}"
    for metric in ("retrieval", "quads"):
        said = refused(tune_file, f"objective.metric={metric}", supervised)
        assert f"'{metric}' needs a predictor" in said
        in_space = (
            "space={objective: {choice: [{kind: vjepa2}, {kind: supervised, classes: [a, b]}]}}"
        )
        assert "keeps none" in refused(tune_file, f"objective.metric={metric}", in_space)


def test_a_clip_longer_than_the_suites_videos_cannot_be_ranked_by_it(tune_file: Path) -> None:
    said = refused(tune_file, "objective.metric=quads", "train.data.frames=32")
    assert "24 frames, shorter than a clip of 32" in said


def test_a_gate_on_what_is_predicted_needs_a_predictor(tune_file: Path) -> None:
    supervised = "train.objective={kind: supervised, classes: [a, b]}"
    said = refused(tune_file, "gates={skill_over_copy: 0.0}", supervised)
    assert "keeps no predictor" in said


def test_what_is_held_out_of_plain_video_is_no_part_of_a_trial(tune_file: Path) -> None:
    job = tuned(tune_file, "train.data.source=videos")
    assert trial_job_data(job, 0, {})["data"]["source"] == ".orchestrator/sweeps/search/train-0"
    other = tuned(tune_file, "train.data.source=videos", "objective.source=others")
    assert trial_job_data(other, 0, {})["data"]["source"] == "videos"
    space = "space={data.source: {choice: [a, b]}}"
    assert "holds a share of the videos out" in refused(
        tune_file, "train.data.source=videos", space
    )
