"""What looks like a secret, and so must not stand in a profile or a manifest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

SECRET_HINT = "keep it in a Secret, a file or your environment"

_NAMES = re.compile(
    r"\w*(TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIALS?|API_?KEY|SECRET_KEY|ACCESS_KEY(_ID)?)", re.I
)
_VALUES = re.compile(
    r"AKIA[0-9A-Z]{16}"  # an access key of aws
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|://[^/\s:@]*:[^/\s@$]+@"  # a password in an address
    r"|\b(ghp|gho|hf|xox[abp])[_-][0-9A-Za-z]{16,}"
    r"|hooks\.slack\.com/services/."
)


def looks_secret(name: str, value: str) -> bool:
    """True where a variable's name, or a value itself, is that of a secret."""
    return bool(value) and bool(_NAMES.fullmatch(name) or _VALUES.search(value))


def find_secrets(node: Any, path: str = "") -> Iterator[str]:
    """The places in plain data where a secret's value stands. References to Secrets are none."""
    if isinstance(node, dict):
        named = node.get("name")
        for key, value in node.items():
            # Kubernetes writes a variable as two keys, `name` and `value`.
            name = str(named) if key == "value" and named else str(key)
            yield from _secret_at(name, value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _secret_at("", value, f"{path}.{i}")
    elif isinstance(node, str) and _VALUES.search(node):
        yield path


def _secret_at(name: str, value: Any, path: str) -> Iterator[str]:
    if isinstance(value, str) and looks_secret(name, value):
        yield path
    elif not isinstance(value, str):
        yield from find_secrets(value, path)
