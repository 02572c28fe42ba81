"""Read the token of a Ray cluster from environment or file. It is never printed or logged."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.cluster_profile import Profile
from orchestrator.errors import RequestError

# The sources that Ray itself reads, in this order.
_VARIABLE = "RAY_AUTH_TOKEN"
_PATH_VARIABLE = "RAY_AUTH_TOKEN_PATH"
_DEFAULT_FILE = Path("~/.ray/auth_token")


def read_auth_token(profile: Profile) -> str | None:
    """The cluster's token, from the profile's variable or file, else from Ray's own sources.

    None if there is none: the cluster may not require one.

    Raises:
        RequestError: the variable or file of the profile is missing, or contains no token.
    """
    source = profile.token
    if source.env and os.environ.get(source.env):
        return _checked(os.environ[source.env], source.env)
    if source.file is not None:
        return _read(source.file)
    if source.env and source.env != _VARIABLE:
        raise RequestError(
            f"the token of cluster '{profile.name}' is read from {source.env}, which is not set",
            where="token.env",
            hint=f"read -rs {source.env} && export {source.env}",
        )
    if os.environ.get(_VARIABLE):
        return _checked(os.environ[_VARIABLE], _VARIABLE)
    if os.environ.get(_PATH_VARIABLE):
        return _read(Path(os.environ[_PATH_VARIABLE]))
    default = _DEFAULT_FILE.expanduser()
    return _read(default) if default.exists() else None


def _read(file: Path) -> str:
    try:
        return _checked(file.expanduser().read_text(), str(file))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise RequestError(
            f"the cluster's token cannot be read: {reason.lower()}",
            where=str(file),
            hint="put the token there (chmod 600), or name another file in the profile",
        ) from None


def _checked(text: str, where: str) -> str:
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise RequestError(
            "not a token: it is empty, or has spaces or characters that no token has",
            where=where,
            hint="it must contain the token and nothing else",
        )
    return token
