"""Which MLflow keeps the runs, and how to reach it."""

from __future__ import annotations

import logging
import os
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow import MlflowClient

from orchestrator.errors import RequestError, suggest
from orchestrator.paths import require_writable
from orchestrator.storage import Storage
from orchestrator.tracking.mlflow_errors import MLFLOW_ERRORS, MlflowUnavailable, error_reason
from orchestrator.tracking.sqlite_store import create_sqlite_store

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SERVERS = ("http", "https", "databricks")
REACHABLE_TIMEOUT_S = 5.0
# MLflow's pages are made for chat applications unless their address says otherwise.
UI_QUERY = "?workflowType=machine_learning"

# It logs a traceback of each error that it raises.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def tracking_uri(uri: str | None = None, storage: Storage | None = None) -> str:
    """The tracking URI: `uri`, else MLFLOW_TRACKING_URI, else sqlite inside `storage`.

    A relative sqlite path is made absolute, since workers have other current folders.

    Raises:
        RequestError: the URI is of no kind that MLflow can use, or storage is an object store
            (sqlite needs a disk).
    """
    if uri:
        return _validate_uri(uri, "track.uri")
    if variable := os.environ.get("MLFLOW_TRACKING_URI", "").strip():
        return _validate_uri(variable, "MLFLOW_TRACKING_URI")
    storage = storage or Storage(".orchestrator")
    if storage.is_remote:
        raise RequestError(
            f"runs cannot be tracked in {storage.root}: MLflow's own database needs a disk",
            where="track.uri",
            hint="name an MLflow server (track.uri or MLFLOW_TRACKING_URI), or on one machine"
            " track.uri=sqlite:///mlflow.db",
        )
    return sqlite_uri(Path(storage.uri("mlflow/mlflow.db")))


def existing_tracking_uri(uri: str | None = None, storage: Storage | None = None) -> str:
    """The tracking URI of a store to read from. Opening a sqlite file that is not there makes
    one; this refuses instead.

    Raises:
        RequestError: there are no runs there yet.
    """
    uri = tracking_uri(uri, storage)
    if is_sqlite(uri) and not sqlite_file(uri).exists():
        raise RequestError(
            f"no runs yet in {sqlite_file(uri)}",
            hint="run a job first, or name the storage or the MLflow server that has runs",
        )
    return uri


def _validate_uri(uri: str, where: str) -> str:
    """The URI as every process can use it.

    Raises:
        RequestError: MLflow cannot keep runs there.
    """
    # `databricks` and `databricks://PROFILE` name a profile, the others a place.
    scheme, separator, rest = uri.partition(":")
    kind = scheme.split("+")[0].lower() if separator or scheme == "databricks" else "file"
    if kind not in (*DATABASES, *SERVERS):
        raise RequestError(
            f"'{uri}' is not a tracking server (MLflow no longer keeps runs in plain folders)",
            where=where,
            hint=f"{suggest(kind, list(DATABASES + SERVERS))}; on one machine: sqlite:///mlflow.db",
        )
    if kind == "databricks":
        return uri
    if kind == "sqlite":
        return _validate_sqlite_uri(uri, rest, where)
    if not rest.startswith("//") or not _has_host(uri, kind in SERVERS):
        raise RequestError(
            f"'{uri}' names no host, or no port that there can be",
            where=where,
            hint=f"write it like {kind}://HOST:5000",
        )
    return uri.rstrip("/")


def _has_host(uri: str, named: bool) -> bool:
    """Whether a URI can be read and, where one must be, has a host."""
    try:
        parts = urlsplit(uri)
        return parts.port != 0 and (bool(parts.hostname) or not named) and " " not in parts.netloc
    except ValueError:
        return False


def _validate_sqlite_uri(uri: str, rest: str, where: str) -> str:
    path, _, query = rest.partition("?")
    file = Path(unquote(path.removeprefix("///")))
    if not path.startswith("///") or file.name in ("", "..", ":memory:") or path.endswith("/"):
        raise RequestError(
            f"'{uri}' names no file",
            where=where,
            hint="write sqlite:///FILE, or with the whole path sqlite:////PATH/FILE",
        )
    if str(file).startswith("~"):
        file = file.expanduser()
    if os.path.isdir(file):
        raise RequestError(f"'{uri}' is a folder", where=where, hint="name a file in it")
    made = sqlite_uri(file.absolute())
    return f"{made}?{query}" if query else made


def sqlite_uri(file: Path) -> str:
    """The URI of a database file, whatever its path holds.

    Of `sqlite:///` MLflow makes the folder, by the path as it is quoted: a stray one where
    something had to be quoted. So such a path gets SQLAlchemy's long name of the same driver.
    """
    path = str(file)
    quoted = path.replace("%", "%25").replace("?", "%3F").replace("#", "%23")
    return f"sqlite:///{path}" if quoted == path else f"sqlite+pysqlite:///{quoted}"


def sqlite_file(uri: str) -> Path:
    """The database file of a sqlite URI."""
    return Path(unquote(uri.partition(":///")[2].partition("?")[0]))


def is_sqlite(uri: str) -> bool:
    """Whether the runs are kept in a sqlite file."""
    return uri.startswith("sqlite")


def is_server(uri: str) -> bool:
    """Whether the runs are kept behind HTTP."""
    return uri.startswith(("http://", "https://"))


def artifact_root(uri: str) -> str | None:
    """Where a new experiment keeps its files: beside a sqlite file; None: the server decides."""
    return (sqlite_file(uri).parent / "artifacts").as_uri() if is_sqlite(uri) else None


def mlflow_client(uri: str) -> MlflowClient:
    """A client of one store for runs and for models; MLflow's global URI is left alone.

    A sqlite file that is new gets its tables.

    Raises:
        MlflowUnavailable: the database cannot be opened.
    """
    try:
        if is_sqlite(uri):
            create_sqlite_store(uri, sqlite_file(uri))
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    except (*MLFLOW_ERRORS, ImportError) as error:
        raise MlflowUnavailable(
            f"MLflow's store cannot be opened: {error_reason(error)}",
            where=uri,
            hint="see that the database is there and can be written, and that its disk has room",
        ) from error


def is_reachable(uri: str) -> bool:
    """Whether a server answers at all within 5 s. Databases are not asked."""
    if not is_server(uri):
        return True
    try:
        urllib.request.urlopen(f"{uri}/health", timeout=REACHABLE_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
    return True


def require_reachable(uri: str) -> None:
    """Find out at once that a server is away: MLflow's client tries again for minutes.

    Raises:
        ConnectionError: it does not answer within `REACHABLE_TIMEOUT_S`.
    """
    if not is_reachable(uri):
        raise ConnectionError("the server does not answer")


def require_usable(uri: str, nodes: int) -> None:
    """Refuse what cannot work before anything is started.

    Raises:
        RequestError: a sqlite file that several nodes would write, or in a folder that cannot be
            written.
        MlflowUnavailable: a server does not answer.
    """
    if is_sqlite(uri) and nodes > 1:
        raise RequestError(
            f"{nodes} nodes cannot write one sqlite file ({sqlite_file(uri)})",
            where="track.uri",
            hint="start an MLflow server that all nodes reach and name it: track.uri=http://HOST:5000",
        )
    if is_sqlite(uri):
        require_writable(sqlite_file(uri).parent, where="track.uri")
    if not is_reachable(uri):
        raise MlflowUnavailable(
            f"the MLflow server {uri} does not answer",
            where="track.uri",
            hint="start it; without track.uri and MLFLOW_TRACKING_URI runs stay in the storage",
        )
