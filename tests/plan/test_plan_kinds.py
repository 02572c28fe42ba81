"""Estimates of every kind: what is counted, and that the rest is said to be unknown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster_profile import load_profile
from orchestrator.estimate.kinds import EstimateOptions, KindEstimate, cluster_hourly_price
from orchestrator.job import build_job, load_job
from orchestrator.kinds import kind_named
from tests.support.job_kinds import JOBS
from tests.support.waiting import cpu_seconds

CLUSTER = """\
kind: onprem
hosts: [a, b]
nodes:
  head: {cpus: 8, memory: 64GiB, price: 1.0}
  gpu: {min: 2, cpus: 32, gpus: 4, gpu: h200, memory: 512GiB, price: 10.0}
"""


def estimate(
    kind: str, profile: Any = None, options: EstimateOptions | None = None, **keys: Any
) -> KindEstimate:
    job = build_job({"kind": kind, "name": "one", **JOBS[kind], **keys})
    found = kind_named(kind).estimate(job, profile, options or EstimateOptions())
    assert isinstance(found, KindEstimate)
    return found


@pytest.fixture
def profile(tmp_path: Path) -> Any:
    path = tmp_path / "rack.yaml"
    path.write_text(CLUSTER)
    return load_profile(str(path))


def test_a_sweep_is_its_trials_at_the_budgets_steps() -> None:
    found = estimate("tune", options=EstimateOptions(step_s=36.0))
    assert (found.figures["trainings"], found.figures["steps"]) == (2, 20)
    assert found.figures["hours"] == pytest.approx(2 * 10 * 36.0 / 3600)
    assert ("search", "random, fifo") in found.rows
    assert found.figures["cost"] is None
    assert "cost: name a cluster with --to" in found.unknown


def test_a_sweeps_limits_are_shown() -> None:
    found = estimate("tune", budget={"steps": 10, "hours": 2, "gpu_hours": 64})
    assert ("limit", "2 hours, 64 worker-hours") in found.rows


def test_without_a_step_time_no_time_is_made_up() -> None:
    found = estimate("tune")
    assert found.figures["hours"] is None
    assert not [row for row in found.rows if row[0] == "time"]
    assert [line for line in found.unknown if line.startswith("time: measure a step")]


def test_a_sweep_on_a_cluster_has_a_price_and_trials_at_a_time(profile: Any) -> None:
    train = {**JOBS["tune"]["train"], "scale": {"workers": 2, "global_batch": 8}}
    found = estimate("tune", profile, EstimateOptions(step_s=36.0), train=train)
    assert found.figures["at_once"] == 4, "eight GPUs, two for each trial"
    assert found.figures["hours"] == pytest.approx(0.1), "both trials at the same time"
    assert found.figures["gpu_hours"] == pytest.approx(2 * 2 * 0.1)
    # Head and both GPU nodes are always there, so they are paid.
    assert found.figures["cost"] == pytest.approx(0.1 * 21.0)
    (text,) = [text for title, text in found.rows if title == "time"]
    assert "2 at a time" in text, "there are no more"
    assert found.problem is None


def test_a_sweep_that_does_not_fit_says_so(profile: Any) -> None:
    train = {**JOBS["tune"]["train"], "scale": {"workers": 16, "global_batch": 16}}
    found = estimate("tune", profile, train=train)
    assert found.problem is not None
    assert "16 workers need 16 GPUs" in found.problem.what


def test_a_study_counts_the_trainings_of_each_arm() -> None:
    found = estimate("study", seeds=[0, 1, 2], options=EstimateOptions(step_s=1.0))
    (group,) = found.figures["groups"]
    assert (group["label"], group["count"]) == ("pixels", 6), "the random arm trains nothing"
    assert ("probed", "9 models on 192 videos of each background") in found.rows
    assert found.figures["hours"] == pytest.approx(6 / 3600)


def test_packing_knows_clips_only_where_the_source_names_them(profile: Any) -> None:
    assert estimate("pack").figures["clips"] is None
    found = estimate("pack", profile, source="physics://drop?clips=100")
    assert (found.figures["clips"], found.figures["units"]) == (100, 4)
    assert found.figures["tasks_at_once"] == 64
    assert found.figures["hours"] is None
    assert [line for line in found.unknown if line.startswith("time, cost and memory")]


def test_embedding_takes_at_least_its_decoding(profile: Any) -> None:
    data = {"source": "physics://drop?clips=350", "clips": 2, "frames": 16, "fps": 4.0}
    found = estimate("embed", profile, data=data)
    assert found.figures["clips"] == 700
    # One core decodes 35 clips of 4 s at 256 pixels in a second.
    assert found.figures["decode_core_s"] == pytest.approx(700 / 35)
    assert found.figures["least_hours"] == pytest.approx(20 / 64 / 3600)
    price = cluster_hourly_price(profile)
    assert price == pytest.approx(21.0)
    assert found.figures["least_cost"] == pytest.approx(20 / 64 / 3600 * price)
    assert found.figures["memory"] is None


def test_embedding_at_the_models_own_frames_has_no_decoding_time() -> None:
    found = estimate("embed", data={"source": "physics://drop?clips=350"})
    assert found.figures["decode_core_s"] is None
    assert [line for line in found.unknown if line.startswith("decoding: frames and fps")]


@pytest.mark.parametrize(
    ("keys", "figures"),
    [
        (
            {"suite": {"scenarios": ["fall"], "quads": 3, "choose_quads": 2}, "random": 2},
            {"scenarios": 1, "videos": {"scored": 12, "chosen_on": 8, "random": 16}},
        ),
        ({"benchmark": {"kind": "grasp", "folder": "sets"}}, {"benchmark": "grasp"}),
        (
            {"probe": {"features": "f", "head": {"kind": "attentive", "lrs": [1e-3, 1e-4]}}},
            {"head": "attentive", "heads": 8, "arms": 1},
        ),
        (
            {"planning": {"world": "two-rooms", "episodes": 10, "budget": 20, "arms": ["random"]}},
            {"tasks": 10, "control_steps": 400, "plans_per_decision": 3000},
        ),
    ],
)
def test_an_evaluation_counts_what_it_measures(
    keys: dict[str, Any], figures: dict[str, Any], profile: Any
) -> None:
    found = estimate("evaluate", profile, **keys)
    assert {key: found.figures[key] for key in figures} == figures
    assert (found.figures["hours"], found.figures["tasks_at_once"]) == (None, 64)
    assert found.unknown
    assert found.to_dict()["unknown"] == list(found.unknown)


def test_a_promotion_has_no_plan() -> None:
    job = build_job({"kind": "promote", "name": "one", **JOBS["promote"]})
    assert kind_named("promote").estimate(job, None, EstimateOptions()) is None


FILES = ["physics/sweep", "physics/efficiency", "physics/evaluate", "video/embed", "video/pack"]


@pytest.mark.parametrize("name", FILES)
def test_a_plan_imports_no_torch(name: str) -> None:
    script = (
        "import sys; from orchestrator.cli import main;"
        f" sys.argv = ['orchestrator', 'plan', 'jobs/{name}.yaml', '--json']\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "assert not {'torch', 'ray', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.integration
@pytest.mark.parametrize("name", FILES)
def test_a_plan_of_each_kind_comes_within_a_second(name: str) -> None:
    command = [sys.executable, "-m", "orchestrator", "plan", f"jobs/{name}.yaml"]
    assert cpu_seconds(command, limit=1.0) < 1.0


def test_a_file_of_each_kind_is_planned() -> None:
    for name in FILES:
        job = load_job(f"jobs/{name}.yaml")
        assert kind_named(job.kind).estimate(job, None, EstimateOptions()) is not None
