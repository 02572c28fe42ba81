"""A public benchmark from a job to a report and an MLflow run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.run import show_summary
from orchestrator.errors import JobFailed
from orchestrator.evaluation.benchmarks.driver import run_benchmark
from orchestrator.jepa.model_files import save_model
from orchestrator.jepa.objectives import build_objective
from orchestrator.job import EvaluateJob, build_job
from orchestrator.progress import SilentProgress
from orchestrator.runner import run
from orchestrator.storage import Storage
from orchestrator.tracking.registry import register_model
from orchestrator.tracking.run import RunRef, create_run
from orchestrator.tracking.server import mlflow_client
from tests.support import benchmarks as made
from tests.support.reports import external_references
from tests.support.tiny import tiny_job

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with a saved model in `model`, and benchmarks beside it."""
    folder = tmp_path_factory.mktemp("benchmarked")
    job = tiny_job()
    save_model(folder / "model", build_objective(job), None, job, {})
    made.grasp(folder / "grasp", scenes=5)
    made.clevrer(folder / "clevrer", train=4, validation=6)
    return folder


def job_of(folder: Path, kind: str, model: str = "", **options: Any) -> EvaluateJob:
    job = build_job(
        {
            "kind": "evaluate",
            "name": f"{kind}-judged",
            "storage": str(folder),
            "model": model or str(folder / "model"),
            "benchmark": {"kind": kind, "folder": str(folder / kind), **options},
            "random": 2,
        }
    )
    assert isinstance(job, EvaluateJob)
    return job


def registered(folder: Path) -> str:
    uri = f"sqlite:///{Storage(str(folder)).uri('mlflow/mlflow.db')}"
    (folder / "mlflow").mkdir(exist_ok=True)
    trained = create_run(mlflow_client(uri), uri, "tests", "trained", {})
    ref = RunRef(uri, trained.info.run_id, trained.info.experiment_id)
    return f"models:/tiny/{register_model(ref, folder / 'model', 'tiny')}"


def test_pairs_give_a_verdict_a_page_and_a_run_that_the_version_names(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = folder / "grasp/level2/IP_Inertia2/004.mp4"
    whole = broken.read_bytes()
    broken.write_bytes(b"")
    job = job_of(folder, "grasp", registered(folder), bad_limit=0.1)
    summary = run(job, local=True)
    broken.write_bytes(whole)
    verdict = json.loads((folder / "evaluations/grasp-judged/verdict.json").read_text())
    assert verdict == json.loads(json.dumps(summary.verdict))
    assert verdict["left_out"][0]["scene"] == "Inertia2/004"
    scores = json.loads((folder / "evaluations/grasp-judged/scores.json").read_text())
    assert len(scores["surprise"]) == verdict["counts"]["scored"]

    page = Path(summary.report).read_text()
    assert external_references(page) == []
    assert "<h2>Collision: clearest</h2>" in page
    assert page.count('<svg class="curve"') == 2 * 2 * 2  # properties, clearest and worst, a pair
    assert "Inertia2/004" in page
    assert verdict["protocol"] in page

    client = mlflow_client(summary.tracking_uri)
    tracked = client.get_run(summary.run_id)
    assert tracked.info.status == "FINISHED"
    assert tracked.data.metrics["pair"] == pytest.approx(verdict["overall"]["pair"]["value"])
    assert tracked.data.metrics["property/Inertia2/auroc"] >= 0
    assert tracked.data.metrics["scenes/left_out"] == 1
    files = {info.path for info in client.list_artifacts(summary.run_id)}
    assert {"report.html", "verdict.json", "scores.json", "job.yaml"} <= files
    name, number = job.model.removeprefix("models:/").split("/")
    tags = client.get_model_version(name, number).tags
    assert tags["grasp.run"] == summary.run_id
    assert tags["grasp.protocol"] == verdict["protocol"]
    assert "physics.run" not in tags  # the gate asks for the suite, and for nothing else

    show_summary(summary)
    shown = capsys.readouterr().out
    assert "pair 0." in shown
    assert "1 left out" in shown
    assert verdict["protocol"] in shown
    assert "Collision" in shown


def test_rollouts_and_probes_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = run(job_of(folder, "clevrer"), local=True)
    assert set(summary.verdict["probe"]) == {"model", "random"}
    page = Path(summary.report).read_text()
    assert "Rollout: skill by prediction horizon" in page
    assert "Linear probe of frozen features" in page
    metrics = mlflow_client(summary.tracking_uri).get_run(summary.run_id).data.metrics
    assert metrics["rollout/01/skill_over_copy"] == pytest.approx(
        summary.verdict["rollout"][0]["skill"]["copy"]["value"]
    )
    assert metrics["probe/model/x"] == pytest.approx(summary.verdict["probe"]["model"]["x"])
    show_summary(summary)
    assert "R2 of the model's features" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["grasp", "clevrer"])
def test_on_ray_the_numbers_are_the_same(folder: Path, kind: str) -> None:
    job = job_of(folder, kind)
    there = run_benchmark(job, job.benchmark, SilentProgress(), local=False).summary  # type: ignore[arg-type]
    here = run_benchmark(job, job.benchmark, SilentProgress(), local=True).summary  # type: ignore[arg-type]
    assert there == here


def test_nothing_is_written_where_too_much_cannot_be_used(folder: Path) -> None:
    made.grasp(folder / "broken")
    (folder / "broken/level2/P_Collision/001.mp4").write_bytes(b"no video")
    job = job_of(folder, "grasp").model_copy(update={"name": "refused"})
    broken = job.benchmark.model_copy(update={"folder": str(folder / "broken")})  # type: ignore[union-attr]
    with pytest.raises(JobFailed, match="Collision/001"):
        run_benchmark(job, broken, SilentProgress(), local=True)
    assert not (folder / "evaluations/refused").exists()
