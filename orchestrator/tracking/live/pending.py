"""Sending what waits in a run's spool when the training itself is over."""

from __future__ import annotations

import logging

from orchestrator.storage import Storage
from orchestrator.tracking.live.queue import describe_entries
from orchestrator.tracking.live.sender import MlflowSender
from orchestrator.tracking.live.spool import read_spool
from orchestrator.tracking.mlflow_errors import mlflow_write
from orchestrator.tracking.run import RESEND_HINT, RunRef
from orchestrator.tracking.server import require_reachable

ENTRIES_PER_SEND = 200

log = logging.getLogger(__name__)


def send_spooled(ref: RunRef, spool: Storage, total_steps: int) -> None:
    """Send what the workers of all starts could not, oldest first; each file goes when MLflow has
    it. No worker may be writing there.

    Args:
        spool: the run's `spool` folder.
        total_steps: those of the whole training, of which none is trained again any more.

    Raises:
        NotRecorded: MLflow did not take it.
    """
    sender: MlflowSender | None = None
    for entry in list(spool.files()):
        waiting = read_spool(spool, entry.path)
        with mlflow_write(ref.tracking_uri, describe_entries(waiting), RESEND_HINT):
            require_reachable(ref.tracking_uri)
            sender = sender or MlflowSender(ref, total_steps)
            lost = []
            for first in range(0, len(waiting), ENTRIES_PER_SEND):
                lost += sender.send(waiting[first : first + ENTRIES_PER_SEND])
        if lost:
            log.warning("%s never reached MLflow at %s", describe_entries(lost), ref.tracking_uri)
        spool.delete(entry.path)
