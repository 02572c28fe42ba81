"""What never travels to a cluster inside a package of code: secrets and data, told by name."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Literal

FileKind = Literal["code", "secret", "data", "other"]

_SECRET_NAME = re.compile(
    r"""
    \.env(\..+)? | .+\.env
    | .+\.(pem|key|p12|pfx|jks|keystore|kdbx|ovpn)
    | id_(rsa|dsa|ecdsa|ed25519)(_sk)?([.-].+)?
    | \.(netrc|pgpass|pypirc|npmrc|htpasswd|git-credentials|boto|s3cfg)
    | kubeconfig([.-].+)?
    | (.+[._-])?service[._-]?account.*\.json
    | (.+[._-])?(token|secret|password|credential)s?(\.(txt|json|ya?ml|toml|ini|cfg|csv))?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_EXAMPLE_NAME = re.compile(r".+\.(example|sample|template|dist)", re.IGNORECASE)
_SECRET_FOLDERS = frozenset((".aws", ".ssh", ".gnupg", ".kube", ".docker", ".gcloud", ".azure"))

_DATA_SUFFIXES = frozenset(
    (
        *("3gp", "avi", "flv", "h264", "hevc", "ivf", "m4v", "mjpeg", "mkv", "mov", "mp4", "mpeg",
          "mpg", "ogv", "webm", "wmv", "y4m"),
        *("tar", "tgz", "gz", "bz2", "xz", "zst", "zip", "7z"),
        *("safetensors", "pt", "pth", "ckpt", "onnx", "pkl", "pickle"),
        *("parquet", "arrow", "h5", "hdf5", "tfrecord", "db", "sqlite", "sqlite3"),
    )
)  # fmt: skip
_DATA_FOLDERS = frozenset((".orchestrator", "mlruns", "mlartifacts", "wandb"))

_SOURCE_SUFFIXES = frozenset(
    (
        *("py", "pyi", "pyx", "c", "cc", "cpp", "cu", "cuh", "h", "hpp"),
        *("yaml", "yml", "toml", "cfg", "ini", "json", "txt", "md", "rst", "sh", "j2"),
    )
)
_SOURCE_NAMES = frozenset(("Makefile", "Dockerfile", "LICENSE", "py.typed", ".gitignore"))

_KEY_HEAD = re.compile(rb"\s*-----BEGIN [A-Z ]*PRIVATE KEY-----")


def classify_file(name: str, file: Path, *, tracked: bool) -> FileKind:
    """What a file is: `name` is its path in the package.

    Of what git does not track only files that are known to be source are code; the rest is
    `other`.
    """
    path = PurePosixPath(name)
    if (
        _SECRET_FOLDERS & set(path.parts[:-1])
        or _is_secret_name(path.name)
        or _contains_private_key(file)
    ):
        return "secret"
    if _DATA_FOLDERS & set(path.parts[:-1]) or path.suffix[1:].lower() in _DATA_SUFFIXES:
        return "data"
    if tracked or path.suffix[1:] in _SOURCE_SUFFIXES or path.name in _SOURCE_NAMES:
        return "code"
    return "other"


def _is_secret_name(name: str) -> bool:
    return bool(_SECRET_NAME.fullmatch(name)) and not _EXAMPLE_NAME.fullmatch(name)


def _contains_private_key(file: Path) -> bool:
    """Whether the file is a private key under another name."""
    try:
        with file.open("rb") as stream:
            return _KEY_HEAD.match(stream.read(100)) is not None
    except OSError:
        return False
