"""A line to a chat when a training ends, fails or stalls: a webhook that takes Slack's JSON.

Its address is a secret and stands in a variable of the driver's environment. Whatever the receiver
does, training goes on.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import urllib.request

VARIABLE = "ORCHESTRATOR_WEBHOOK"
ANSWER_S = 5.0
TRIES = 2

_log = logging.getLogger(__name__)


def alert(text: str) -> threading.Thread | None:
    """Post `{"text": text}` beside what goes on; None where no webhook is named.

    A process that ends waits for the thread, `TRIES` x `ANSWER_S` at most.
    """
    address = os.environ.get(VARIABLE)
    if not address:
        return None
    thread = threading.Thread(target=_post, args=(address, text), name="alert")
    thread.start()
    return thread


def _post(address: str, text: str) -> None:
    body = json.dumps({"text": text}).encode()
    for _ in range(TRIES):
        try:
            request = urllib.request.Request(
                address, data=body, headers={"Content-Type": "application/json"}
            )
            urllib.request.urlopen(request, timeout=ANSWER_S).close()
            return
        except (OSError, ValueError) as error:
            # Its text may hold the address, and that is a secret.
            reason = type(error).__name__
    _log.warning("the webhook in %s did not take an alert: %s", VARIABLE, reason)
