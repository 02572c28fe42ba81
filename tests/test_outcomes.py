"""What each kind hands over of its result: the terminal's rows and headline, and its outputs."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import orchestrator.data.packing.pack
import orchestrator.evaluation.promotion_gate
import orchestrator.features.driver
import orchestrator.pipeline.run_pipeline
import orchestrator.study.driver
import orchestrator.tuning.sweep
from orchestrator.job import EvaluateJob, Job, build_job
from orchestrator.kinds import RunContext, kind_named
from orchestrator.outcome import Outcome, Outputs
from orchestrator.pipeline.stage_store import StageOutputs
from orchestrator.progress import SilentProgress
from tests.support.job_kinds import JOBS, job_of

SHARE = {"value": 0.625, "low": 0.48, "high": 0.75}
RUN = SimpleNamespace(run_id="f00d", tracking_uri="sqlite:///m.db")

JSON_KEYS = [
    "kind", "name", "storage", "seconds", "dataset", "run_id", "tracking_uri", "model_uri",
    "checkpoint", "steps", "seconds_to_first_step", "clips_per_s", "metrics", "phases",
    "features", "verdict", "probe", "report", "stages", "note", "next_steps",
]  # fmt: skip
"""Keys of `run --json` since the first version."""


def outcome_of(job: Job, **options: bool) -> Outcome:
    options.setdefault("local", True)
    return kind_named(job.kind).run(job, RunContext(SilentProgress(), **options))


def returns(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


def test_json_has_the_keys_of_the_first_version() -> None:
    assert list(Outcome("train", "one", "st", 1.0).to_dict()) == JSON_KEYS


def test_where_things_are_comes_after_the_kinds_own_rows() -> None:
    outcome = Outcome("train", "one", "st", 1.0, rows=[("data", "9 clips")], run_id="f00d",
                      tracking_uri="http://mlflow", report="page.html")  # fmt: skip
    assert outcome.all_rows() == [
        ("data", "9 clips"), ("report", "page.html"), ("run", "f00d in http://mlflow")
    ]  # fmt: skip


def test_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    index = SimpleNamespace(num_clips=1200, seconds=5400.0, num_bytes=3e7, uri="d/a b")
    monkeypatch.setattr(orchestrator.data.packing.pack, "run_pack", returns([index]))
    outcome = outcome_of(job_of("pack"))
    assert outcome.headline.startswith("packed in ")
    assert outcome.rows == [("data", "1,200 clips, 1 h 30 min, 28.6 MiB"), ("", "d/a b")]
    assert (outcome.result, outcome.outputs) == ("dataset d/a b", Outputs(data="d/a b"))
    assert outcome.next_steps == ["orchestrator data inspect 'd/a b'"]


def test_embed(monkeypatch: pytest.MonkeyPatch) -> None:
    info = {"model": {"digest": "ab"}, "rows": 9, "shape": [24], "bytes": 2048, "failed": 1,
            "short": 0, "quarantined": 2, "digest": "cd",
            "data": [{"source": "videos", "digest": "ef"}]}  # fmt: skip
    result = SimpleNamespace(uri="st/features/one", info=info)
    monkeypatch.setattr(orchestrator.features.driver, "run_embed", returns(result))
    outcome = outcome_of(job_of("embed"))
    assert outcome.headline.startswith("embedded in ")
    assert outcome.rows == [
        ("features", "9 clips, float16 [24] each, 2 KiB"),
        ("", "st/features/one"),
        ("of", "model ab, data videos (ef)"),
        ("left out", "1 failed, 2 quarantined while packing: see bad.parquet there"),
    ]
    assert outcome.result == "features st/features/one"
    assert outcome.outputs == Outputs(features="st/features/one"), "the model is not its own"
    assert outcome.model_uri == "models:/m@champion"


def test_study(monkeypatch: pytest.MonkeyPatch) -> None:
    ratio = {"value": 2.5, "low": 2.0, "high": 3.0, "claim": True, "why": ""}
    panel = {"background": "still", "score": "x", "ratios": {"vjepa2": ratio},
             "arms": {"pixels": [[0.1, 0.3], [0.2, 0.4]], "random": [[0.05], [0.15]]}}  # fmt: skip
    result = {"cells": [{}] * 6, "clips": [10, 20], "reference": "pixels", "panels": [panel]}
    saved = SimpleNamespace(result=result, mlflow_run=RUN, report_uri="st/report.html")
    monkeypatch.setattr(orchestrator.study.driver, "run_study", returns(saved))
    outcome = outcome_of(job_of("study"))
    assert outcome.headline.startswith("6 models in ")
    assert outcome.rows == [
        ("x", "R2 by number of videos, still background"),
        ("", "pixels      10: 0.150   20: 0.350"),
        ("", "random      untrained: 0.100"),
        ("", "N(pixels) / N(vjepa2) = 2.50 [2.00, 3.00]"),
    ]
    assert outcome.result == "report st/report.html"
    assert outcome.outputs == Outputs()
    assert outcome.metrics["still/x/pixels/n20"] == pytest.approx(0.35)


def sweep_result() -> dict[str, Any]:
    best = {"number": 1, "state": "done", "objective": 0.5, "loss": 0.25, "steps": 10,
            "values": {"optim.lr": 0.00123456}, "schedule": [], "run_id": "beef",
            "name": "one.t0001"}  # fmt: skip
    worse = {**best, "number": 0, "state": "failed", "objective": None, "loss": None,
             "values": {"objective": {"kind": "pixels"}}}  # fmt: skip
    slots = [{"slots": 4, "waited_slot_s": 10.0, "training": 0.8, "starting": 0.15,
              "unreserved": 0.05}]  # fmt: skip
    return {"trials": [best, worse], "best": 1, "slots": slots,
            "importance": {"optim.lr": 0.75, "objective": 0.25}}  # fmt: skip


def test_tune(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = SimpleNamespace(result=sweep_result(), tracking=RUN, model_uri="models:/m/2",
                            report="st/report.html")  # fmt: skip
    monkeypatch.setattr(orchestrator.tuning.sweep, "run_tune", returns(sweep))
    outcome = outcome_of(job_of("tune"), local=False)
    assert outcome.headline.startswith("2 trials in ")
    assert outcome.headline.endswith(", trial 1 won")
    assert outcome.rows == [
        ("trials", "  1  done        0.5000  loss 0.2500  optim.lr=0.001235"),
        ("", "  0  failed                           objective=pixels"),
        ("slots", "4 for workers, while a trial waited: training 80.0%, starting groups 15.0%,"
         " unreserved 5.0%"),
        ("importance", "optim.lr 0.75"),
        ("", "objective 0.25"),
    ]  # fmt: skip
    assert (outcome.result, outcome.outputs) == ("model models:/m/2", Outputs(model="models:/m/2"))
    assert outcome.next_steps == [
        "orchestrator run --from beef --tracking sqlite:///m.db name=one-again storage=nowhere"
        " scale.cpus=null   # the winner, once more"
    ]


def test_promote(monkeypatch: pytest.MonkeyPatch) -> None:
    promotion = SimpleNamespace(name="m", alias="champion", version="3", before="2")
    monkeypatch.setattr(
        orchestrator.evaluation.promotion_gate, "promote", returns((promotion, "it is better"))
    )
    outcome = outcome_of(job_of("promote"))
    note = "models:/m@champion is version 3, before: version 2 (it is better)"
    assert (outcome.headline, outcome.rows) == ("promoted", [("alias", note)])
    assert (outcome.result, outcome.outputs) == ("model models:/m/3", Outputs())
    assert StageOutputs.from_outcome(outcome).note == note


def test_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"name": "train", "kind": "train", "state": "kept", "text": "models:/m/1", "seconds": 61.0,
         "model": "models:/m/1", "metrics": {"train/loss": 0.5}},
        {"name": "judge", "kind": "evaluate", "state": "done", "text": "page.html", "seconds": 2.0,
         "model": "", "metrics": {}},
    ]  # fmt: skip
    result = SimpleNamespace(rows=rows, tracking=RUN)
    monkeypatch.setattr(orchestrator.pipeline.run_pipeline, "run_pipeline", returns(result))
    outcome = outcome_of(job_of("pipeline"))
    assert outcome.headline.startswith("2 stages in ")
    assert outcome.headline.endswith(", 1 of them already done")
    assert outcome.rows == [
        ("train", "train     1 min 1 s     models:/m/1"),
        ("judge", "evaluate  2.0 s         page.html"),
    ]
    assert (outcome.result, outcome.model_uri) == ("judge page.html", "models:/m/1")
    assert outcome.metrics == {"train/train/loss": 0.5}


# -- evaluations -----------------------------------------------------------------------------

SCORE = {"metric": "R2", "value": 0.5, "low": 0.4, "high": 0.6}
EVALUATIONS: dict[str, tuple[dict[str, Any], dict[str, Any], list[tuple[str, str]]]] = {
    "suite": (
        {},
        {"model": "models:/m/1", "protocol": "ab12", "overall": {"quad": SHARE, "pair": SHARE},
         "random": [{"quad": 0.25, "pair": 0.5}], "gain": {}, "health": {},
         "scenarios": {"fall": {"quad": SHARE, "pair": SHARE}},
         "arrow": {"drop": {"share": SHARE}}},
        [
            ("result", "quads right 62.5% [48, 75], chance 25%, 1 random models 25.0%"),
            ("", "pairs right 62.5% [48, 75], chance 50%, 1 random models 50.0%"),
            ("fall", "quads 62.5% [48, 75]   pairs 62.5% [48, 75]"),
            ("arrow", "drop 62.5% [48, 75]   chance 50%"),
            ("protocol", "ab12"),
        ],
    ),
    "benchmark": (
        {"benchmark": {"kind": "grasp", "folder": "sets/grasp"}},
        {"model": "models:/m/1", "protocol": "ab12", "benchmark": "grasp",
         "overall": {"pair": SHARE}, "random": [{"pair": 0.5}], "gain": {},
         "properties": {"Inertia": {"pair": SHARE, "auroc": {"value": 0.7}}},
         "probe": {"model": {"x": 0.5, "y": None}},
         "counts": {"scored": 9, "chosen_on": 3, "left_out": 1}},
        [
            ("result", "pair 0.625 [0.480, 0.750], 1 random models 0.500"),
            ("Inertia", "pairs 62.5% [48, 75]   AUROC 0.70"),
            ("probe", "R2 of the model's features: x 0.50"),
            ("scenes", "9 scored, 3 chosen on, 1 left out"),
            ("protocol", "ab12"),
        ],
    ),
    "probe": (
        {"probe": {"features": "tokens", "target": "states"}},
        {"features": {"model": {"model_uri": "models:/m/1"}}, "protocol": "ab12",
         "arms": {"model": {"scores": {"x": SCORE}}, "random": {"scores": {"x": SCORE}}},
         "split": {"fit": {"videos": 1200}, "test": {"videos": 40}}},
        [
            ("x", "R2 0.500 [0.400, 0.600]   random weights 0.500 [0.400, 0.600]"),
            ("videos", "fit 1,200   test 40   protocol ab12"),
        ],
    ),
    "planning": (
        {"planning": {"world": "two-rooms"}},
        {"kind": "planning", "model": "models:/m/1", "protocol": "ab12",
         "arms": {
             "model": {"success": SHARE, "tasks": 20, "ms": 12.5, "distance": 1.0, "steps": 9.0},
             "random": {"success": SHARE, "tasks": 20, "ms": 0.01, "distance": 2.0, "steps": None},
         },
         "gain": {"random": {"value": 0.25, "low": 0.1, "high": 0.4}}},
        [
            ("model", "62.5% [48, 75] of 20 goals reached   12.5 ms a decision"),
            ("random", "62.5% [48, 75] of 20 goals reached   the model over it +25.0 points"
             " [+10, +40]   0.01 ms a decision"),
            ("protocol", "ab12"),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("question", EVALUATIONS)
def test_evaluate(question: str, monkeypatch: pytest.MonkeyPatch) -> None:
    section, summary, rows = EVALUATIONS[question]
    package = {"benchmark": "benchmarks", "probe": "probes"}.get(question, question)
    saved = SimpleNamespace(summary=summary, mlflow_run=RUN, report_uri="st/report.html")
    monkeypatch.setattr(f"orchestrator.evaluation.{package}.driver.run_{question}", returns(saved))
    model = {} if question == "probe" else JOBS["evaluate"]
    job = build_job({"kind": "evaluate", "name": "one", **model, **section})
    assert isinstance(job, EvaluateJob)
    assert job.question == question
    outcome = outcome_of(job)
    verb = "probed" if question == "probe" else "evaluated"
    assert outcome.headline.startswith(f"{verb} in ")
    assert outcome.rows == rows
    assert (outcome.result, outcome.model_uri) == ("report st/report.html", "models:/m/1")
    assert outcome.outputs == Outputs(), "nothing that a later stage starts from"
    filled, empty = ("probe", "verdict") if question == "probe" else ("verdict", "probe")
    assert (outcome.to_dict()[filled], outcome.to_dict()[empty]) == (summary, {})
    assert outcome.metrics
