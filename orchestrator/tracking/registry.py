"""Registered models: versions of safetensors folders, with aliases `candidate` and `champion`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow.pyfunc
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from orchestrator.tracking.metrics import to_mlflow_metrics
from orchestrator.tracking.mlflow_errors import file_transfer_timeouts, mlflow_read, mlflow_write
from orchestrator.tracking.model_uri import find_version, model_folder
from orchestrator.tracking.run import RunRef
from orchestrator.tracking.server import (
    existing_tracking_uri,
    mlflow_client,
    require_reachable,
    require_usable,
)

if TYPE_CHECKING:
    from orchestrator.jepa.model_files import WorldModel

PYFUNC_CODE = Path(__file__).with_name("pyfunc_model.py")
REQUIREMENTS = ("mlflow", "torch", "numpy", "safetensors", "jepa-orchestrator")
# MLflow's SQL registry takes a model id and forgets it: versions carry it as a tag.
MODEL_ID_TAG = "model_id"
# A clip is stored as JSON text with the model; larger ones would weigh more than small models.
MAX_EXAMPLE_VALUES = 1_000_000


@dataclass(frozen=True)
class RegisteredVersion:
    """One version of a registered model, as a person wants to see it."""

    name: str
    version: int
    aliases: tuple[str, ...]
    created_ms: int
    run_id: str
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    location: str

    @property
    def uri(self) -> str:
        """How `load_model` takes it."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True)
class Promotion:
    """What an alias pointed at before and points at now."""

    name: str
    alias: str
    version: int
    before: int | None


def register_model(
    run_ref: RunRef,
    folder: Path,
    name: str,
    *,
    alias: str = "candidate",
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    step: int = 0,
) -> int:
    """Make a version of model `name` from a folder of `jepa.hub.save_model`; returns its number.

    The version is a pyfunc model whose code is text and whose weights are safetensors, with
    the signature uint8 [-1, T, H, W, 3] -> float32 [-1, tokens, dim], linked to the run
    `run_ref`; `metrics` (at `step`) stand beside it, `alias` points at it.

    Raises:
        NotRecorded: MLflow or its artifact store did not take it; the folder is untouched.
    """
    mend = "the model itself is whole; mend the server and run the same command again"
    with mlflow_write(run_ref.tracking_uri, f"the model as '{name}'", mend):
        require_reachable(run_ref.tracking_uri)
        return _register(run_ref, folder, name, alias, metrics or {}, tags or {}, step)


def _register(
    ref: RunRef,
    folder: Path,
    name: str,
    alias: str,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    step: int,
) -> int:
    client = mlflow_client(ref.tracking_uri)
    version = _unfinished_version(client, ref, name, tags)
    if version is None:
        version = _create_version(client, ref, folder, name, metrics, tags, step)
    # MLflow's pages link a model to its versions by this tag.
    link = json.dumps([{"name": name, "version": int(version.version)}])
    client.set_logged_model_tags(version.tags[MODEL_ID_TAG], {"mlflow.modelVersions": link})
    client.set_registered_model_alias(name, alias, version.version)
    return int(version.version)


def _unfinished_version(
    client: MlflowClient, ref: RunRef, name: str, tags: Mapping[str, str]
) -> ModelVersion | None:
    """The version that an attempt made whose end failed."""
    found = client.search_model_versions(f"name = '{name}' and run_id = '{ref.run_id}'")
    for version in found:
        given = {key: value for key, value in version.tags.items() if key != MODEL_ID_TAG}
        if given == dict(tags) and given != version.tags:
            return version
    return None


def _create_version(
    client: MlflowClient,
    ref: RunRef,
    folder: Path,
    name: str,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    step: int,
) -> ModelVersion:
    """A new version, whose files are there before it is."""
    model = client.create_logged_model(
        ref.experiment_id,
        name="model",
        source_run_id=ref.run_id,
        tags=dict(tags),
        params=_model_params(client, ref),
        model_type="world-model",
    )
    now = model.creation_timestamp
    with tempfile.TemporaryDirectory() as temporary:
        local = Path(temporary) / "model"
        spec = Model(
            artifact_path=model.artifact_location,
            model_uuid=model.model_id,
            model_id=model.model_id,
            run_id=ref.run_id,
        )
        _save_pyfunc(local, folder, spec)
        with file_transfer_timeouts():
            client.log_model_artifacts(model.model_id, str(local))
    named = {f"result/{key.replace('/', '_')}": value for key, value in metrics.items()}
    linked = to_mlflow_metrics(named, now, step, model.model_id)
    if linked:
        client.log_batch(ref.run_id, metrics=linked)
    client.log_outputs(ref.run_id, [LoggedModelOutput(model.model_id, step)])
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    _ensure_registered(client, name)
    return client.create_model_version(
        name,
        source=model.artifact_location,
        run_id=ref.run_id,
        tags={**tags, MODEL_ID_TAG: model.model_id},
        model_id=model.model_id,
    )


def _save_pyfunc(local: Path, folder: Path, spec: Model) -> None:
    config = json.loads((folder / "config.json").read_text())
    frames, size, model = config["frames"], config["size"], config["model"]
    tokens = frames // model["tubelet"] * (size // model["patch"]) ** 2
    dim = model["encoder"].get("dim", -1)  # a user's own encoder need not tell its width
    clip = (frames, size, size, 3)
    small = int(np.prod(clip)) <= MAX_EXAMPLE_VALUES
    mlflow.pyfunc.save_model(
        local,
        mlflow_model=spec,
        python_model=str(PYFUNC_CODE),
        artifacts={"model": str(folder)},
        signature=ModelSignature(
            inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, *clip))]),
            outputs=Schema([TensorSpec(np.dtype("float32"), (-1, tokens, dim))]),
        ),
        input_example=np.zeros((1, *clip), np.uint8) if small else None,
        pip_requirements=[f"{package}=={metadata.version(package)}" for package in REQUIREMENTS],
    )


def _model_params(client: MlflowClient, ref: RunRef) -> dict[str, str]:
    """The run's params that say what model this is."""
    shown = ("model.", "data.source", "data.frames", "data.fps", "data.size", "objective.kind")
    params = client.get_run(ref.run_id).data.params
    return {key: value for key, value in params.items() if key.startswith(shown)}


def _ensure_registered(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def load_model(uri: str, device: str = "cpu", *, tracking_uri: str | None = None) -> WorldModel:
    """A model by `models:/NAME@alias`, `models:/NAME/3`, `runs:/ID/model` or a local folder.

    `tracking_uri` names the MLflow server; default: MLFLOW_TRACKING_URI, else the database in
    `.orchestrator` of the current folder. `.encode` takes video uint8 [B, T, H, W, 3] and
    gives float32 [B, tokens, dim].

    Raises:
        RequestError: there is no such model.
    """
    from orchestrator.jepa.model_files import load_folder

    with model_folder(uri, tracking_uri=tracking_uri) as folder:
        return load_folder(folder, device)


def list_models(tracking_uri: str | None = None) -> list[RegisteredVersion]:
    """Every version of every registered model, newest first within a model.

    Raises:
        RequestError: there is no store yet, or it cannot be read.
    """
    client, rows = _open_client(tracking_uri), list[RegisteredVersion]()
    with mlflow_read(client.tracking_uri):
        for model in sorted(client.search_registered_models(), key=lambda m: str(m.name)):
            versions = client.search_model_versions(f"name = '{model.name}'")
            shown = [
                _to_registered_version(client, version, dict(model.aliases)) for version in versions
            ]
            rows += sorted(shown, key=lambda row: -row.version)
    return rows


def _open_client(tracking: str | None) -> MlflowClient:
    """A client of a store that is there and answers."""
    uri = existing_tracking_uri(tracking)
    require_usable(uri, nodes=1)
    return mlflow_client(uri)


def show_model(uri: str, tracking_uri: str | None = None) -> RegisteredVersion:
    """One registered version with its metrics.

    Raises:
        RequestError: there is no such version, or the store cannot be read.
    """
    client = _open_client(tracking_uri)
    version = find_version(client, uri)
    with mlflow_read(client.tracking_uri):
        return _to_registered_version(
            client, version, dict(client.get_registered_model(version.name).aliases)
        )


def _to_registered_version(
    client: MlflowClient, version: ModelVersion, aliases: Mapping[str, str]
) -> RegisteredVersion:
    model_id = version.tags.get(MODEL_ID_TAG)
    logged = client.get_logged_model(model_id) if model_id else None
    found = (logged.metrics or []) if logged else []
    return RegisteredVersion(
        name=version.name,
        version=int(version.version),
        aliases=tuple(sorted(a for a, v in aliases.items() if int(v) == int(version.version))),
        created_ms=int(version.creation_timestamp),
        run_id=version.run_id or "",
        metrics={metric.key.removeprefix("result/"): float(metric.value) for metric in found},
        tags={key: value for key, value in version.tags.items() if key != MODEL_ID_TAG},
        location=logged.artifact_location if logged else str(version.source),
    )


def version_at_alias(client: MlflowClient, name: str, alias: str) -> str | None:
    """The number of the version that an alias of a model points at; None: it has no such alias.

    Raises:
        MlflowAway: MLflow cannot be read.
    """
    with mlflow_read(client.tracking_uri):
        number: str | None = client.get_registered_model(name).aliases.get(alias)
    return number


def promote(
    name: str, version: int, alias: str = "champion", tracking_uri: str | None = None
) -> Promotion:
    """Point `alias` of a model at a version.

    Raises:
        RequestError: there is no such version, or the store cannot be read.
        NotRecorded: MLflow did not take it.
    """
    client = _open_client(tracking_uri)
    found = find_version(client, f"models:/{name}/{version}")
    before = version_at_alias(client, name, alias)
    mend = "the alias is where it was; mend the server and run the same command again"
    with mlflow_write(client.tracking_uri, f"the alias '{alias}'", mend):
        client.set_registered_model_alias(name, alias, found.version)
    return Promotion(name, alias, int(found.version), int(before) if before else None)
