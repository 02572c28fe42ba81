"""Sending what waits in a run's spool when the training itself is over."""

from __future__ import annotations

import logging

from orchestrator.storage import Storage
from orchestrator.tracking.live.queue import describe
from orchestrator.tracking.live.sender import Sender
from orchestrator.tracking.live.spool import read_spool
from orchestrator.tracking.mlflow_errors import recording
from orchestrator.tracking.run import SENT_AGAIN, RunRef
from orchestrator.tracking.server import require_answer

ENTRIES_PER_SEND = 200

log = logging.getLogger(__name__)


def send_waiting(ref: RunRef, spool: Storage, steps: int) -> None:
    """Send what the workers of all starts could not, oldest first; each file goes when MLflow has
    it. No worker may be writing there.

    Args:
        spool: the run's `spool` folder.
        steps: those of the whole training, of which none is trained again any more.

    Raises:
        NotRecorded: MLflow did not take it.
    """
    sender: Sender | None = None
    for entry in list(spool.files()):
        waiting = read_spool(spool, entry.path)
        with recording(ref.uri, describe(waiting), SENT_AGAIN):
            require_answer(ref.uri)
            sender = sender or Sender(ref, steps)
            lost = []
            for first in range(0, len(waiting), ENTRIES_PER_SEND):
                lost += sender.send(waiting[first : first + ENTRIES_PER_SEND])
        if lost:
            log.warning("%s never reached MLflow at %s", describe(lost), ref.uri)
        spool.delete(entry.path)
