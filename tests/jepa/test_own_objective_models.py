"""Models of a user's own objective: saved, loaded, asked for predictions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from orchestrator.errors import RequestError
from orchestrator.jepa.model_files import CONFIG_FILE, load_folder, save_model
from orchestrator.jepa.objectives import build_objective
from orchestrator.training.health import collapse_warning
from tests.support.estimates import planned_job

STATED = "tests.support.own_objective:StatedObjective"
PLAIN = "tests.support.own_objective:PlainObjective"


def saved_model(kind: str, folder: Path) -> Path:
    job = planned_job(objective={"kind": kind})
    save_model(folder, build_objective(job), None, job, {"checkpoint": "step-1"})
    return folder


def test_a_stated_predictor_is_saved_and_predicts(tmp_path: Path) -> None:
    model = load_folder(saved_model(STATED, tmp_path / "model"))
    assert model.masks == 2
    assert model.horizons == 0
    video = torch.zeros(1, 8, 32, 32, 3, dtype=torch.uint8)
    features = model.encode(video, seen=4)
    assert model.foresee(features).shape == (1, 32, 96)
    assert model.untaught(0).masks == 2


def test_one_that_states_nothing_keeps_its_encoder_alone(tmp_path: Path) -> None:
    folder = saved_model(PLAIN, tmp_path / "model")
    assert load_folder(folder).masks == 0
    assert json.loads((folder / CONFIG_FILE).read_text())["extra"] == {"checkpoint": "step-1"}


def test_a_model_saved_before_objectives_stated_anything_still_loads(tmp_path: Path) -> None:
    folder = saved_model(STATED, tmp_path / "model")
    config = json.loads((folder / CONFIG_FILE).read_text())
    config["objective"], config["extra"] = "lab_that_is_gone:Loss", {}
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    assert load_folder(folder).masks == 0


def test_it_predicts_where_its_objective_cannot_be_imported(tmp_path: Path) -> None:
    folder = saved_model(STATED, tmp_path / "model")
    config = json.loads((folder / CONFIG_FILE).read_text())
    config["objective"] = config["job"]["objective"]["kind"] = "lab_that_is_gone:Loss"
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    model = load_folder(folder)
    assert model.masks == 2
    assert model.untaught(0).masks == 2
    assert model.config.objective_config_class.prediction_target == "normalized_features"


def test_a_predictor_that_cannot_be_built_is_refused_with_its_import_path(tmp_path: Path) -> None:
    folder = saved_model(STATED, tmp_path / "model")
    config = json.loads((folder / CONFIG_FILE).read_text())
    config["extra"]["capabilities"]["predictor_builder"] = "lab_that_is_gone:build"
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(RequestError, match="cannot import 'lab_that_is_gone'"):
        load_folder(folder)


def test_collapse_is_answered_with_its_own_hints() -> None:
    objective = planned_job(objective={"kind": STATED}).objective_config
    values = {"rankme": 1.0, "feature_std": 0.0, "token_cosine": 1.0}
    warning = collapse_warning(values, objective=objective, lr=1e-3, momentum=None)
    assert warning is not None
    assert "raise objective.ema, or ask its author" in warning
