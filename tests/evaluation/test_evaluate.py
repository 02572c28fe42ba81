"""An evaluation from a model to a report, an MLflow run, and a champion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import JobFailed, RequestError
from orchestrator.evaluation.promotion_gate import require_better
from orchestrator.evaluation.suite import driver
from orchestrator.evaluation.suite.driver import run_suite
from orchestrator.evaluation.suite.measure import SuiteRawResults, measure_suite
from orchestrator.jepa.model_files import save_model
from orchestrator.jepa.objectives import build_objective
from orchestrator.job import EvaluateJob, build_job
from orchestrator.progress import SilentProgress
from orchestrator.storage import Storage
from orchestrator.tracking.registry import promote, register_model, show_model
from orchestrator.tracking.run import RunRef, create_run
from orchestrator.tracking.server import mlflow_client
from tests.support.reports import external_references
from tests.support.tiny import tiny_job

SCENARIOS = ["support", "permanence"]


def evaluate_job(folder: Path, model: str, **changes: Any) -> EvaluateJob:
    job = build_job(
        {
            "kind": "evaluate",
            "name": "judged",
            "storage": str(folder),
            "model": model,
            "suite": {
                "scenarios": SCENARIOS,
                "quads": 4,
                "choose_quads": 2,
                "sanity": 2,
                "arrow": 2,
            },
            "random": 2,
            "random_quads": 2,
        },
        [f"{key.replace('__', '.')}={value}" for key, value in changes.items()],
    )
    assert isinstance(job, EvaluateJob)
    return job


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with a saved model in `model`."""
    folder = tmp_path_factory.mktemp("evaluated")
    job = tiny_job()
    save_model(folder / "model", build_objective(job), None, job, {})
    return folder


def registered(folder: Path) -> str:
    """The model as a version of `tiny`, registered anew."""
    uri = f"sqlite:///{Storage(str(folder)).uri('mlflow/mlflow.db')}"
    (folder / "mlflow").mkdir(exist_ok=True)
    run = create_run(mlflow_client(uri), uri, "tests", "trained", {})
    ref = RunRef(uri, run.info.run_id, run.info.experiment_id)
    return f"models:/tiny/{register_model(ref, folder / 'model', 'tiny')}"


@pytest.mark.integration
def test_a_verdict_a_report_and_a_run(folder: Path) -> None:
    found = run_suite(evaluate_job(folder, str(folder / "model")), SilentProgress(), local=True)
    verdict = json.loads((folder / "evaluations/judged/verdict.json").read_text())
    assert verdict == json.loads(json.dumps(found.summary))
    assert set(verdict["scenarios"]) == set(SCENARIOS)
    for row in verdict["scenarios"].values():
        assert row["quads"] == 4
        for kind in ("quad", "pair"):
            assert 0 <= row[kind]["low"] <= row[kind]["value"] <= row[kind]["high"] <= 1
    assert len(verdict["random"]) == 2
    assert set(verdict["health"]) == {"rankme", "feature_std", "lidar"}
    assert verdict["rollout"][0]["tubelets_ahead"] == 1
    assert set(verdict["probe"]) == {"model", "random"}
    assert set(verdict["sanity"]) == {"vanish", "teleport", "recolour"}
    assert set(verdict["arrow"]) == {"bounces", "falling", "scatter"}
    for gain in ("over_random", "over_baseline"):
        found_gain = verdict["gains"]["quad"][gain]
        assert found_gain["low"] <= found_gain["value"] <= found_gain["high"]
        assert found_gain["value"] == pytest.approx(verdict["gain"][gain])

    page = (folder / "evaluations/judged/report.html").read_text()
    assert external_references(page) == []
    assert all(f"<h2>{name}</h2>" in page for name in SCENARIOS)
    assert page.count('<svg class="curve"') == 2 * 2 * 4
    assert page.count("data:image/gif") == 2 * 2 * 2

    client = mlflow_client(found.mlflow_run.tracking_uri)
    run = client.get_run(found.mlflow_run.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["quad_accuracy"] == pytest.approx(verdict["overall"]["quad"]["value"])
    assert run.data.metrics["scenario/permanence/pair"] >= 0
    assert run.data.metrics["sanity/vanish"] == verdict["sanity"]["vanish"]["share"]["value"]
    files = {info.path for info in client.list_artifacts(found.mlflow_run.run_id)}
    assert {"report.html", "verdict.json", "scores.json", "job.yaml"} <= files


@pytest.mark.integration
def test_the_same_model_and_protocol_give_the_same_numbers_and_another_protocol_another_hash(
    folder: Path,
) -> None:
    def verdict(**changes: Any) -> dict[str, Any]:
        job = evaluate_job(folder, str(folder / "model"), random=0, **changes)
        return run_suite(job, SilentProgress(), local=True).summary

    first = verdict()
    assert verdict() == first
    assert first["gain"]["over_random"] is None
    assert verdict(suite__seed=1)["protocol"] != first["protocol"]
    assert verdict(surprise__stride=2)["protocol"] != first["protocol"]


@pytest.mark.integration
def test_on_ray_the_numbers_are_the_same(folder: Path) -> None:
    job = evaluate_job(folder, str(folder / "model"))
    there = run_suite(job, SilentProgress(), local=False).summary
    here = run_suite(job, SilentProgress(), local=True).summary
    assert there["scenarios"] == here["scenarios"]
    assert there["random"] == here["random"]


@pytest.mark.integration
def test_a_champion_is_made_and_is_not_unseated_by_its_equal(folder: Path) -> None:
    first, second = registered(folder), registered(folder)
    server = f"sqlite:///{Storage(str(folder)).uri('mlflow/mlflow.db')}"
    with pytest.raises(RequestError, match="never evaluated"):
        require_better(show_model(first, server), server)
    alone = run_suite(evaluate_job(folder, first, random=0), SilentProgress(), local=True)
    assert alone.summary["champion"] is None
    shown = show_model(first, server)
    assert "physics_quad" in shown.metrics
    assert "physics.protocol" in shown.tags
    assert "first champion" in require_better(shown, server)
    promote("tiny", shown.version, "champion", server)
    beside = run_suite(evaluate_job(folder, second, random=0), SilentProgress(), local=True).summary
    assert beside["champion"]["version"] == shown.version
    assert beside["champion"]["overall"] == beside["overall"] == alone.summary["overall"]
    assert beside["champion"]["difference"]["value"] == 0
    page = (folder / "evaluations/judged/report.html").read_text()
    assert f"Comparison with champion version {shown.version}" in page
    assert "does not clearly beat it" in page
    with pytest.raises(JobFailed, match=r"does not beat the champion.*difference \+0\.0"):
        require_better(show_model(second, server), server)
    # Judged in another way, it is not compared, and the report says so.
    job = evaluate_job(folder, second, random=0, suite__seed=1)
    other = run_suite(job, SilentProgress(), local=True).summary["champion"]
    assert other == {"version": shown.version, "judged": False, "protocol": beside["protocol"]}
    page = (folder / "evaluations/judged/report.html").read_text()
    assert "the numbers cannot be compared" in page


@pytest.mark.integration
def test_an_alias_that_moves_meanwhile_does_not_move_the_verdict(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, later = registered(folder), []

    def judging(*args: Any, **options: Any) -> SuiteRawResults:
        later.append(registered(folder))  # a training ends beside: @candidate is its model now
        return measure_suite(*args, **options)

    monkeypatch.setattr(driver, "measure_suite", judging)
    job = evaluate_job(folder, "models:/tiny@candidate", random=0)
    found = run_suite(job, SilentProgress(), local=True)
    assert found.summary["model"] == mine
    server = found.mlflow_run.tracking_uri
    assert show_model(mine, server).tags["physics.run"] == found.mlflow_run.run_id
    assert "physics.run" not in show_model(later[0], server).tags


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"suite__scenarios": "[suport]"}, "unknown scenario 'suport'"),
        ({"suite__frames": 6}, "the videos have 6 frames, the model's clip has 8"),
        ({"surprise__contexts": "[5]"}, "a context of 5 frames"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(
    folder: Path, change: dict[str, Any], said: str
) -> None:
    job = evaluate_job(folder, str(folder / "model"), **change)
    with pytest.raises(RequestError, match=said):
        run_suite(job, SilentProgress(), local=True)


def test_a_test_split_is_never_chosen_on(folder: Path) -> None:
    with pytest.raises(RequestError, match="choosing on it would flatter the model"):
        evaluate_job(folder, "models:/tiny/1", suite__choose="test")
    with pytest.raises(RequestError, match="is what is chosen on"):
        evaluate_job(folder, "models:/tiny/1", suite__split="validation")


def test_what_cannot_make_a_model_by_itself_is_no_bug_of_ours(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"json:loads cannot be called without arguments.*'s'"):
        run_suite(evaluate_job(folder, "json:loads"), SilentProgress(), local=True)


def test_the_model_is_named_when_there_is_none(folder: Path) -> None:
    with pytest.raises(RequestError, match="no model folder"):
        run_suite(evaluate_job(folder, str(folder / "nothing")), SilentProgress(), local=True)
