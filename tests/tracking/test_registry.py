"""A registered model: found by name, loaded without pickle, the same features everywhere."""

import pickletools
from collections.abc import Callable
from pathlib import Path

import mlflow
import mlflow.pyfunc
import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException

from orchestrator.errors import JobFailed, RequestError
from orchestrator.jepa.model_files import save_model
from orchestrator.jepa.objectives import build_objective
from orchestrator.tracking.model_uri import model_folder
from orchestrator.tracking.registry import (
    list_models,
    load_model,
    promote,
    register_model,
    show_model,
)
from orchestrator.tracking.run import RunRef
from orchestrator.tracking.server import mlflow_client
from tests.support.mlflow_runs import path_of_uri, tracked_job

NewRun = Callable[..., RunRef]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model."""
    path = tmp_path_factory.mktemp("model")
    job = tracked_job()
    save_model(path, build_objective(job), None, job, {})
    return path


@pytest.fixture(scope="module")
def video() -> torch.Tensor:
    """Two clips, uint8 [2, 4, 16, 16, 3]."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 4, 16, 16, 3), np.uint8))


def test_every_name_of_a_model_gives_the_same_features(
    new_run: NewRun, folder: Path, video: torch.Tensor
) -> None:
    ref = new_run()
    version = register_model(ref, folder, "worlds", metrics={"train/loss": 0.5}, step=20)
    expected = load_model(str(folder)).encode(video)
    assert expected.shape == (2, 2 * 2 * 2, 24)
    location = path_of_uri(show_model(f"models:/worlds/{version}", ref.tracking_uri).location)
    for uri in (
        "models:/worlds@candidate",
        f"models:/worlds/{version}",
        "models:/worlds",
        f"runs:/{ref.run_id}/model",
        str(location),
    ):
        assert torch.equal(
            load_model(uri, tracking_uri=ref.tracking_uri).encode(video), expected
        ), uri


def test_mlflow_itself_loads_and_checks_the_model(
    new_run: NewRun, folder: Path, video: torch.Tensor
) -> None:
    ref = new_run()
    register_model(ref, folder, "served")
    mlflow.set_tracking_uri(ref.tracking_uri)
    model = mlflow.pyfunc.load_model("models:/served@candidate")
    features = model.predict(video.numpy())
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, load_model(str(folder)).encode(video).numpy())
    with pytest.raises(MlflowException):
        model.predict(video.numpy()[:, :, :8])


def test_no_file_of_a_registered_model_is_a_pickle(new_run: NewRun, folder: Path) -> None:
    ref = new_run()
    register_model(ref, folder, "plain")
    location = path_of_uri(show_model("models:/plain@candidate", ref.tracking_uri).location)
    files = [path for path in location.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"MLmodel", "model.safetensors", "config.json", "pyfunc_model.py"} <= names
    for path in files:
        assert path.suffix not in (".pkl", ".pickle", ".pt", ".pth", ".bin", ".zip"), path
        assert not _is_pickle(path.read_bytes()), path


def test_the_pickle_scanner_finds_pickles() -> None:
    import pickle

    assert _is_pickle(pickle.dumps({"a": [1, 2]}, protocol=0))
    assert _is_pickle(pickle.dumps(np.zeros(3)))


def test_versions_are_listed_with_their_aliases_and_promoted(new_run: NewRun, folder: Path) -> None:
    ref = new_run()
    first = register_model(ref, folder, "ranked", metrics={"rankme": 3.0}, tags={"dataset": "d0"})
    assert promote("ranked", first, tracking_uri=ref.tracking_uri).before is None
    second = register_model(ref, folder, "ranked", metrics={"rankme": 4.0})
    rows = [row for row in list_models(ref.tracking_uri) if row.name == "ranked"]
    assert [(row.version, row.aliases) for row in rows] == [
        (second, ("candidate",)),
        (first, ("champion",)),
    ]
    assert (rows[1].metrics, rows[1].tags) == ({"rankme": 3.0}, {"dataset": "d0"})
    assert rows[0].run_id == ref.run_id
    done = promote("ranked", second, tracking_uri=ref.tracking_uri)
    assert (done.before, done.version, done.alias) == (first, second, "champion")
    assert show_model("models:/ranked@champion", ref.tracking_uri).version == second


@pytest.mark.parametrize(
    ("uri", "advice"),
    [
        ("models:/plannets@candidate", "did you mean 'planets'"),
        ("models:/planets@champion", r"@candidate \(version 1\)"),
        ("models:/planets/99", r"@candidate \(version 1\)"),
        ("models:/a/b/c", "models:/NAME@alias"),
        ("runs:/00000000000000000000000000000000/model", "models list"),
        ("./no/such/folder", "no model folder"),
    ],
)
def test_a_model_that_is_not_there_is_one_clear_message(
    new_run: NewRun, folder: Path, uri: str, advice: str
) -> None:
    ref = new_run()
    known = {row.name for row in list_models(ref.tracking_uri)}
    if "planets" not in known:
        register_model(ref, folder, "planets")
    with pytest.raises(RequestError, match=advice):
        load_model(uri, tracking_uri=ref.tracking_uri)


def test_the_quick_jobs_model_is_found_from_the_current_folder(
    new_run: NewRun, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = new_run()
    register_model(ref, folder, "here")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match="no runs yet"):
        load_model("models:/here@candidate")
    assert not (tmp_path / ".orchestrator").exists()
    database = Path(ref.tracking_uri.removeprefix("sqlite:///"))
    (tmp_path / ".orchestrator").symlink_to(database.parent.parent)
    assert load_model("models:/here@candidate").config.frames == 4


def test_a_failed_registration_keeps_the_folder(
    new_run: NewRun, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    ref = new_run()
    monkeypatch.setattr("mlflow.MlflowClient.log_model_artifacts", full)
    with pytest.raises(JobFailed, match="No space left"):
        register_model(ref, folder, "never")
    assert (folder / "model.safetensors").exists()
    monkeypatch.undo()
    assert "never" not in {
        model.name for model in mlflow_client(ref.tracking_uri).search_registered_models()
    }


@pytest.mark.parametrize("failing", ["set_logged_model_tags", "set_registered_model_alias"])
def test_a_registration_whose_end_failed_is_ended_and_not_repeated(
    new_run: NewRun, folder: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def away(*_: object, **__: object) -> None:
        raise MlflowException("away")

    ref, name = new_run(), f"ended-{failing}"
    with monkeypatch.context() as patch:
        patch.setattr(f"mlflow.MlflowClient.{failing}", away)
        with pytest.raises(JobFailed, match="did not take the model"):
            register_model(ref, folder, name, tags={"run": "tiny"})
    assert register_model(ref, folder, name, tags={"run": "tiny"}) == 1
    (row,) = [row for row in list_models(ref.tracking_uri) if row.name == name]
    assert row.aliases == ("candidate",)


def _is_pickle(data: bytes) -> bool:
    try:
        return len(list(pickletools.genops(data))) > 1
    except Exception:  # whatever the disassembler says: it is no pickle
        return False


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "flavors: {sklearn: {}}",
        "flavors: {python_function: {artifacts: {model: {path: ../../elsewhere}}}}",
    ],
)
def test_an_mlflow_model_of_another_kind_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "MLmodel").write_text(text)
    with pytest.raises(RequestError, match="of another kind"), model_folder(str(tmp_path)):
        pass
