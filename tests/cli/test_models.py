"""`orchestrator models`: what a person and a script see of the registry."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli import main
from orchestrator.errors import JobFailed
from orchestrator.evaluation import promotion_gate as gate
from orchestrator.jepa.model_files import load_folder, save_model
from orchestrator.jepa.objectives import build_objective
from orchestrator.job import TrainJob, build_job
from orchestrator.tracking import registry
from orchestrator.tracking.registry import Promotion, RegisteredVersion

VERSION = RegisteredVersion(
    name="physics",
    version=3,
    aliases=("candidate",),
    created_ms=1_700_000_000_000,
    run_id="f00df00df00df00d",
    metrics={"train_loss": 0.51234, "health_rankme": 12.5, "speed_step_s": 0.4},
    tags={"dataset": "ab12", "run": "physics-quick"},
    location="file:///models/m-1",
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The registry is replaced: which server was asked, and what for."""
    asked: list[Any] = []

    def list_models(tracking: str | None = None) -> list[RegisteredVersion]:
        asked.append(tracking)
        return [VERSION]

    def show_model(uri: str, tracking: str | None = None) -> RegisteredVersion:
        asked.append((uri, tracking))
        return VERSION

    def promote(name: str, version: int, alias: str, tracking: str | None = None) -> Promotion:
        asked.append((name, version, alias, tracking))
        return Promotion(name, alias, version, before=2)

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for function in (list_models, show_model, promote):
        monkeypatch.setattr(registry, function.__name__, function)
    return asked


def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: str) -> str:
    monkeypatch.setattr(sys, "argv", ["orchestrator", "models", *args])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    return capsys.readouterr().out


def test_list_show_and_promote(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: list[Any]
) -> None:
    out = said(monkeypatch, capsys, "list", "--storage", "/data/lab")
    assert "models:/physics/3  candidate" in out
    assert "loss 0.5123  RankMe 12.5" in out
    assert asked.pop() == "sqlite:////data/lab/mlflow/mlflow.db"

    out = said(monkeypatch, capsys, "show", "models:/physics@candidate", "--tracking", "http://m")
    assert "f00df00df00df00d physics-quick" in out
    assert "speed_step_s" in out
    assert asked.pop() == ("models:/physics@candidate", "http://m")

    model = "models:/physics@candidate"
    out = said(monkeypatch, capsys, "promote", model, "--ungated", "--tracking", "http://m")
    assert out == "models:/physics@champion is version 3, before: version 2\n"
    assert asked.pop() == ("physics", 3, "champion", "http://m")


def test_a_version_that_does_not_beat_the_champion_is_not_promoted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: list[Any]
) -> None:
    def refuse(candidate: RegisteredVersion, server: str) -> str:
        raise JobFailed("does not beat the champion", hint="train a better one")

    monkeypatch.setattr(gate, "require_better", refuse)
    monkeypatch.setattr(sys, "argv", ["orchestrator", "models", "promote", "models:/physics/3"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    assert "does not beat the champion" in capsys.readouterr().err
    assert len(asked) == 1, "only looked at"


def test_scripts_get_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: list[Any]
) -> None:
    row = json.loads(said(monkeypatch, capsys, "list", "--json"))[0]
    assert (row["uri"], row["aliases"]) == ("models:/physics/3", ["candidate"])
    assert (
        json.loads(said(monkeypatch, capsys, "show", "models:/physics/3", "--json"))["version"] == 3
    )


def test_export_and_import_by_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = {"encoder": {"dim": 24, "depth": 1, "heads": 2}, "patch": 8}
    shape["predictor"] = {"dim": 12, "depth": 1, "heads": 2}
    data = {"source": "none", "frames": 4, "size": 16}
    keys = {"kind": "train", "name": "one", "data": data, "model": shape, "optim": {"steps": 1}}
    job = build_job(keys)
    assert isinstance(job, TrainJob)
    save_model(tmp_path / "model", build_objective(job), None, job, {})

    out, again = str(tmp_path / "out"), str(tmp_path / "again")
    export = ("export", str(tmp_path / "model"), out, "--license", "mit")
    assert "from_pretrained" in said(monkeypatch, capsys, *export)
    assert "license: mit" in (tmp_path / "out" / "README.md").read_text()
    shown = said(monkeypatch, capsys, "import", out, again, "--fps", "2")
    named = yaml.safe_load(shown[shown.index("model:") :])["model"]
    assert named["encoder"]["heads"] == 2
    assert named["from"] == again
    assert load_folder(tmp_path / "again").clip.fps == 2.0

    monkeypatch.setattr(sys, "argv", ["orchestrator", "models", "import", out, out])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "something here already" in capsys.readouterr().err
