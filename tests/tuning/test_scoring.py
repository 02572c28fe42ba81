"""Gates and the page: what collapsed is told apart, and never shown as the winner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from orchestrator.jepa.model_files import ModelConfig, randomly_initialized_model
from orchestrator.job import build_job, job_dict
from orchestrator.job.config.trial_objective import CollapseGates
from orchestrator.job.loading.search_space import trial_job_data
from orchestrator.tuning import trial_scoring as scoring
from orchestrator.tuning.report import render_html, render_png
from tests.support.reports import external_references
from tests.support.sweeps import tune_job


def features(spread: float, directions: int) -> torch.Tensor:
    """Tokens around one point: `spread` wide, along so many directions. [4, 64, 16]"""
    draw = torch.Generator().manual_seed(0)
    away = torch.randn(4, 64, directions, generator=draw) @ torch.eye(16)[:directions]
    return torch.ones(16) + spread * away


def test_each_gate_shuts_on_its_own_kind_of_collapse() -> None:
    gates = CollapseGates()
    healthy = torch.randn(4, 64, 16, generator=torch.Generator().manual_seed(0))

    def shut(found: torch.Tensor) -> list[str]:
        words = scoring.failed_gates(scoring.collapse_metrics(found, healthy), gates)
        return [word.split()[0] for word in words]

    assert shut(healthy) == []
    assert shut(features(1e-4, 16)) == ["feature_std", "rankme_share", "token_cosine"]
    # As wide as ever, and along one direction: what only the rank tells.
    assert shut(healthy[..., :1] * torch.ones(16)) == ["rankme_share"]
    missing = dict.fromkeys(scoring.collapse_metrics(healthy, healthy), float("nan"))
    assert len(scoring.failed_gates(missing, gates)) == 3

    found = scoring.collapse_metrics(healthy, healthy) | {"skill_over_copy": -3.0}
    assert scoring.failed_gates(found, gates) == [], "by default nobody is shut by copying"
    strict = CollapseGates(skill_over_copy=0.0)
    assert scoring.failed_gates(found, strict) == ["skill_over_copy -3 is below 0"]
    assert scoring.failed_gates(scoring.collapse_metrics(healthy, healthy), strict) == [
        "skill_over_copy nan is below 0"
    ]


def test_a_collapsed_encoder_has_no_objective_and_a_random_one_has(tmp_path: Path) -> None:
    job = tune_job(tmp_path)
    train: Any = build_job(trial_job_data(job, 0, {}))
    videos = scoring.load_holdout(job, train)
    kept = job_dict(train)
    config = ModelConfig(model=train.model, size=32, frames=8, objective="none", job=kept, extra={})
    model = randomly_initialized_model(config, 0)
    found = scoring.score_trial(model, job.gates, videos)
    assert found["shut"] == []
    assert found["objective"] == sum(found["scores"].values()) / 2
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.mul_(0)
    found = scoring.score_trial(model, job.gates, videos)
    assert found["objective"] is None
    assert any("feature_std" in word for word in found["shut"])


def test_the_page_needs_nothing_else_and_names_the_winner() -> None:
    def trial(number: int, state: str, objective: float | None, lr: float) -> dict[str, Any]:
        shut = ["rankme_share 0.1 is below 0.2"] if state == "collapsed" else []
        rung = {"steps": 20, "objective": objective, "scores": {"place": 0.5}, "shut": shut}
        return {
            "number": number, "state": state, "values": {"optim.lr": lr, "kind<": "a"},
            "steps": 20, "objective": objective, "loss": 0.01 * number, "rungs": [rung],
            "run_id": "", "error": "",
        }  # fmt: skip

    result = {
        "name": "search", "search": "tpe", "scheduler": "asha", "budget": 20, "best": 1,
        "keys": ["optim.lr", "kind<"], "log": ["optim.lr"], "importance": {"optim.lr": 0.7},
        "trials": [
            trial(1, "done", 0.4, 1e-3), trial(2, "done", 0.3, 1e-2),
            trial(0, "collapsed", None, 1e-4),
        ],
    }  # fmt: skip
    text = render_html(result)
    assert "Best: trial 1, objective 0.4000" in text
    assert "rankme_share 0.1 is below 0.2" in text
    assert "kind&lt;" in text
    assert "kind<" not in text
    assert external_references(text) == []
    assert render_png(result).startswith(b"\x89PNG")
    lost = render_html(result | {"best": None})
    assert "No trial can be selected" in lost
