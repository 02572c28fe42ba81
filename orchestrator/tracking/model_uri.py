"""From a model's name to the folder of its weights."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow.artifacts
import yaml
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from orchestrator.errors import RequestError, suggest
from orchestrator.paths import local_path
from orchestrator.storage import Storage, is_remote
from orchestrator.tracking.mlflow_errors import (
    error_reason,
    file_transfer_timeouts,
    is_permanent,
    mlflow_read,
)
from orchestrator.tracking.server import (
    existing_tracking_uri,
    is_server,
    mlflow_client,
    require_usable,
)

MODEL_FILE = "MLmodel"


@contextmanager
def model_folder(uri: str, *, tracking_uri: str | None = None) -> Iterator[Path]:
    """The folder of weights behind a model URI, for as long as the context lasts.

    Raises:
        RequestError: there is no such model, or MLflow cannot be read.
    """
    if is_remote(uri):
        with tempfile.TemporaryDirectory() as temporary:
            _download_from_storage(Storage(uri), Path(temporary))
            yield _weights_folder(Path(temporary))
        return
    if not uri.startswith(("models:/", "runs:/")):
        yield _weights_folder(_local_folder(uri))
        return
    server = existing_tracking_uri(tracking_uri)
    with tempfile.TemporaryDirectory() as temporary:
        yield _weights_folder(_download_from_mlflow(uri, server, temporary))


def _download_from_mlflow(uri: str, server: str, folder: str) -> Path:
    """The artifacts of a model of MLflow's, downloaded into `folder`."""
    require_usable(server, nodes=1)
    client = mlflow_client(server)
    with mlflow_read(server):
        try:
            location = _artifact_uri(client, uri)
            with file_transfer_timeouts():
                path = mlflow.artifacts.download_artifacts(
                    artifact_uri=location, dst_path=folder, tracking_uri=server
                )
        except MlflowException as error:
            if not is_permanent(error, by_server=is_server(server)):
                raise
            raise RequestError(
                f"no model '{uri}': {error_reason(error)}",
                where=server,
                hint="see what there is: orchestrator models list",
            ) from error
    return Path(path)


def _download_from_storage(folder: Storage, out: Path) -> None:
    files = list(folder.files())
    if not files:
        raise RequestError("no model here", where=folder.root, hint="name a model's folder")
    for file in files:
        target = out / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(folder.read_bytes(file.path))


def _local_folder(uri: str) -> Path:
    path = local_path(uri)
    if not os.path.isdir(path):
        raise RequestError(
            f"no model folder '{uri}'",
            hint="name a folder, models:/NAME@alias, models:/NAME/VERSION or runs:/ID/model",
        )
    return path


def _weights_folder(folder: Path) -> Path:
    """The folder itself, or where an MLflow model keeps its weights.

    Raises:
        RequestError: it is an MLflow model that this package did not write.
    """
    spec = folder / MODEL_FILE
    if not spec.exists():
        return folder
    try:
        flavor = yaml.safe_load(spec.read_text())["flavors"]["python_function"]
        found = (folder / str(flavor["artifacts"]["model"]["path"])).resolve()
    except (ValueError, KeyError, TypeError, yaml.YAMLError):
        found = None
    if found is None or not found.is_relative_to(folder.resolve()):
        raise RequestError(
            "an MLflow model of another kind: it names no world model's weights",
            where=str(spec),
            hint="name a model that a train job registered",
        )
    return found


def _artifact_uri(client: MlflowClient, uri: str) -> str:
    """Where the artifacts of a model URI are."""
    if uri.startswith("runs:/"):
        run_id, _, name = uri.removeprefix("runs:/").partition("/")
        return _artifact_uri_in_run(client, run_id, name or "model")
    version = find_version(client, uri)
    return str(client.get_model_version_download_uri(version.name, version.version))


def _artifact_uri_in_run(client: MlflowClient, run_id: str, name: str) -> str:
    run = client.get_run(run_id)
    found = client.search_logged_models(
        [run.info.experiment_id], f"source_run_id = '{run_id}' AND name = '{name}'", max_results=1
    )
    return str(found[0].artifact_location) if found else f"{run.info.artifact_uri}/{name}"


def find_version(client: MlflowClient, uri: str) -> ModelVersion:
    """The registered version behind `models:/NAME@alias`, `models:/NAME/3` or `models:/NAME`.

    Raises:
        RequestError: the URI has another form, or names nothing; says what there is.
        MlflowAway: MLflow cannot be read.
    """
    match = re.fullmatch(r"models:/([^/@]+)(?:@([^/]+)|/(\d+))?", uri)
    if match is None:
        raise RequestError(
            f"'{uri}' is no model", hint="write models:/NAME@alias, models:/NAME/VERSION"
        )
    name, alias, number = match.groups()
    with mlflow_read(client.tracking_uri):
        try:
            if number:
                return client.get_model_version(name, number)
            if alias:
                return client.get_model_version_by_alias(name, alias)
            return client.search_model_versions(f"name = '{name}'")[0]
        except (MlflowException, IndexError) as error:
            by_server = is_server(client.tracking_uri)
            if isinstance(error, MlflowException) and not is_permanent(error, by_server=by_server):
                raise
            raise RequestError(
                f"no model '{uri}' on {client.tracking_uri}", hint=_available_models(client, name)
            ) from None


def pin_version(uri: str, tracking_uri: str | None) -> str:
    """The same model by the number of its version: an alias may name another one a moment later.

    Raises:
        RequestError: there is no such model.
    """
    if not uri.startswith("models:/"):
        return uri
    server = existing_tracking_uri(tracking_uri)
    require_usable(server, nodes=1)
    version = find_version(mlflow_client(server), uri)
    return f"models:/{version.name}/{version.version}"


def _available_models(client: MlflowClient, name: str) -> str:
    models = {model.name: model for model in client.search_registered_models()}
    if name not in models:
        return suggest(name, list(models)) if models else "no model is registered there yet"
    aliases = [f"@{alias} (version {v})" for alias, v in sorted(models[name].aliases.items())]
    return f"'{name}' has " + (", ".join(aliases) or "versions, but no alias")
