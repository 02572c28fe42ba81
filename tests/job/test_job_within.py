"""The evaluations of a training: their job files are read, changed and checked before a start."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import RequestError
from orchestrator.job import TrainJob, build_job, fingerprint, job_dict, load_job

JUDGE = """\
kind: evaluate
name: physics
model: models:/physics@candidate
suite: {quads: 8}
random: 10
"""

EVALUATE = """\
evaluate:
  - every: 50
    job: judge.yaml
    set: {suite.quads: 4, random: 0}
"""


@pytest.fixture
def train_file(job_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The train job of these tests (14 lines), with an evaluation whose file is `judge.yaml` in
    the working directory."""
    monkeypatch.chdir(job_file.parent)
    Path("judge.yaml").write_text(JUDGE)
    job_file.write_text(job_file.read_text() + EVALUATE)
    return Path(job_file.name)


def train_job(path: Path, *overrides: str) -> TrainJob:
    job = load_job(path, overrides)
    assert isinstance(job, TrainJob)
    return job


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(RequestError) as caught:
        load_job(path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_file_is_put_in_place_with_what_is_set_and_overridden(train_file: Path) -> None:
    (one,) = train_job(train_file).evaluate
    assert (one.every, one.job.name, one.job.suite.quads, one.job.random_models) == (
        50,
        "physics",
        4,
        0,
    )
    more = train_job(train_file, "evaluate.0.job.suite.quads=2", "evaluate.0.set={cpus: 2}")
    (one,) = more.evaluate
    assert (one.job.suite.quads, one.job.random_models, one.job.cpus) == (2, 0, 2.0), (
        "the last word wins"
    )


def test_keys_in_place_need_neither_kind_nor_model(train_file: Path) -> None:
    job = train_job(train_file, "evaluate=[{every: 10, job: {name: short, suite: {quads: 1}}}]")
    assert job.evaluate[0].job.suite.quads == 1


def test_it_survives_plain_data_and_is_no_part_of_the_identity(train_file: Path) -> None:
    job = train_job(train_file)
    Path("judge.yaml").unlink()
    assert build_job(job_dict(job)) == job
    assert fingerprint(job) == fingerprint(build_job({**job_dict(job), "evaluate": []}))


def test_a_step_that_is_judged_is_saved(train_file: Path) -> None:
    job = train_job(train_file, "checkpoint.every=40", "evaluate.0.every=30")
    assert [s for s in range(1, 101) if job.is_checkpoint_step(s)] == [30, 40, 60, 80, 90, 100]
    assert [s for s in range(1, 101) if job.evaluate[0].is_due(s, 100)] == [30, 60, 90, 100]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("quads: 8", "qads: 8", "judge.yaml:4: suite.qads: unknown key; did you mean 'quads'?"),
        ("random: 10", "random: many", "judge.yaml:5: random_models: should be a valid integer"),
        ("quads: 8", "split: validation", "judge.yaml:4: suite.split: 'validation' is what is"),
        ("kind: evaluate", "kind: train", "judge.yaml:1: evaluate.0.job is of kind 'train'"),
        ("name: physics", "name: a: b", "judge.yaml:2: not valid YAML"),
        ("name: physics\n", "", "judge.yaml:1: name: this key is required"),
    ],
)
def test_a_mistake_in_its_file_is_told_with_that_line(
    train_file: Path, old: str, new: str, said: str
) -> None:
    text = JUDGE.replace(old, new)
    if "random" in old:
        train_file.write_text(train_file.read_text().replace(", random: 0", ""))
    Path("judge.yaml").write_text(text)
    assert refused(train_file).startswith(said)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("judge.yaml", "jugde.yaml", "job.yaml:17: evaluate.0.job: cannot read the job file: no"),
        ("suite.quads: 4", "suite.qads: 4", "job.yaml:18: suite.qads: unknown key; did you mean"),
        ("suite.quads: 4", "suite.quads: x", "job.yaml:18: suite.quads: should be a valid integer"),
        ("every: 50", "every: 0", "job.yaml:16: evaluate.0.every: should be greater than 0"),
        ("every: 50", "evry: 50", "job.yaml:16: evaluate.0.evry: unknown key; did you mean"),
        ("judge.yaml", "{name: x, sute: 1}", "job.yaml:17: sute: unknown key; did you mean"),
        ("judge.yaml", "[1]", "job.yaml:17: evaluate.0.job: a section with keys is needed here"),
    ],
)
def test_a_mistake_in_the_entry_is_told_with_its_line(
    train_file: Path, old: str, new: str, said: str
) -> None:
    train_file.write_text(train_file.read_text().replace(old, new))
    assert refused(train_file).startswith(said)


def test_two_evaluations_have_two_names(train_file: Path) -> None:
    train_file.write_text(train_file.read_text() + "  - {every: 25, job: judge.yaml}\n")
    said = "job.yaml:19: evaluate.1: 'physics' is the name of an evaluation before it"
    assert refused(train_file).startswith(said)
    assert len(train_job(train_file, "evaluate.1.job.name=other").evaluate) == 2


def test_what_comes_after_a_checkpoint_cannot_rank_it(train_file: Path) -> None:
    said = refused(train_file, "checkpoint.best=eval/physics/quad_accuracy")
    assert "checkpoint.best: 'eval/physics/quad_accuracy' comes after the checkpoint" in said
