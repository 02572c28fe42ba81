"""A line to a chat when a training ends, fails or stalls: a webhook that takes Slack's JSON.

Its address is a secret and stands in a variable of the driver's environment. Whatever the receiver
does, training goes on.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import threading
import urllib.request

WEBHOOK_VARIABLE = "ORCHESTRATOR_WEBHOOK"
TIMEOUT_S = 5.0
MAX_ATTEMPTS = 2

_log = logging.getLogger(__name__)


def send_alert(text: str) -> threading.Thread | None:
    """Post `{"text": text}` beside what goes on; None where no webhook is named.

    A process that ends waits for the thread, `MAX_ATTEMPTS` x `TIMEOUT_S` at most.
    """
    address = os.environ.get(WEBHOOK_VARIABLE)
    if not address:
        return None
    thread = threading.Thread(target=_post, args=(address, text), name="alert")
    thread.start()
    return thread


def _post(address: str, text: str) -> None:
    body, reason = json.dumps({"text": text}).encode(), ""
    for _ in range(MAX_ATTEMPTS):
        said: list[str] = []
        # A thread of its own: a look-up of a name, or an answer that trickles in, has no end.
        once = threading.Thread(target=_post_once, args=(address, body, said), daemon=True)
        once.start()
        once.join(TIMEOUT_S)
        reason = said[0] if said else "no answer"
        if not reason:
            return
    _log.warning("the webhook in %s did not take an alert: %s", WEBHOOK_VARIABLE, reason)


def _post_once(address: str, body: bytes, said: list[str]) -> None:
    """Post once; `said` takes the kind of what went wrong, or nothing but an empty word."""
    try:
        request = urllib.request.Request(
            address, data=body, headers={"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=TIMEOUT_S).close()
        said.append("")
    except (OSError, ValueError, http.client.HTTPException) as error:
        # Its text may hold the address, and that is a secret.
        said.append(type(error).__name__)
