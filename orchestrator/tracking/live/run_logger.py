"""The workers' way to MLflow: calls return at once, a thread of its own does the talking."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from PIL import Image

from orchestrator.tracking.live.queue import (
    Dropped,
    Kept,
    LogEntry,
    LogQueue,
    Picture,
    Row,
    Sample,
    Standing,
)
from orchestrator.tracking.live.queue import describe_entries as describe_entries
from orchestrator.tracking.live.sender import MlflowSender
from orchestrator.tracking.live.spool import Spool
from orchestrator.tracking.live.system_metrics import SystemMonitor
from orchestrator.tracking.run import RunRef

log = logging.getLogger(__name__)

METRIC_QUEUE_BYTES, PICTURE_QUEUE_BYTES = 32_000_000, 64_000_000
ENTRIES_PER_SEND = 200
MIN_BACKOFF_S, MAX_BACKOFF_S = 1.0, 30.0
GIF_FRAME_MS = 250


class RunLogger:
    """Logs one process's part of a run. Never slows a step down, never stops a training.

    `start_step` is how many steps were done when this process began: rows up to the last
    step that the run already has keep their first values, and count as `replayed_steps`.
    With a `node_id` the system metrics of this node are logged too; one process per node
    should give one. While MLflow is away everything is kept in bounded memory and sent when it
    is back. With a `spool` what is not sent outlives the process: `pending_writer` keeps it when a
    checkpoint is saved, `close` when MLflow does not come back within `close_timeout_s` seconds;
    with `collect_earlier` what earlier starts left there is sent first.
    """

    def __init__(
        self,
        ref: RunRef,
        start_step: int,
        node_id: str | None = None,
        *,
        spool: Spool | None = None,
        collect_earlier: bool = False,
        poll_interval_s: float = 1.0,
        close_timeout_s: float = 60.0,
        sample_interval_s: float = 10.0,
    ) -> None:
        self.ref, self.start_step = ref, start_step
        self.poll_interval_s, self.close_timeout_s = poll_interval_s, close_timeout_s
        # Two queues: pictures go to the artifact store, whose troubles must not hold up rows.
        self.metric_queue = LogQueue(METRIC_QUEUE_BYTES)
        self.picture_queue = LogQueue(PICTURE_QUEUE_BYTES)
        self._spool = spool
        for entry in spool.collect_earlier() if spool and collect_earlier else []:
            (self.picture_queue if isinstance(entry, Picture) else self.metric_queue).add(entry)
        self._sender: MlflowSender | None = None
        self._warned = False
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._system = SystemMonitor(node_id, self._sample, sample_interval_s) if node_id else None
        self._thread = threading.Thread(target=self._work, daemon=True, name="mlflow-logger")
        self._thread.start()

    # -- what a worker calls ---------------------------------------------------------------

    def log_metrics(self, step: int, values: dict[str, float]) -> None:
        """One row of metrics, stamped now."""
        self.metric_queue.add(Row(step, _now(), dict(values)))

    def log_picture(self, step: int, name: str, image: Image.Image | Sequence[Image.Image]) -> None:
        """A picture of a step (`pictures/NAME/step-00000500.png`); several images make a GIF."""
        stream = io.BytesIO()
        if isinstance(image, Image.Image):
            suffix = "png"
            image.save(stream, "PNG")
        else:
            suffix = "gif"
            first, *rest = image
            first.save(
                stream, "GIF", save_all=True, append_images=rest, duration=GIF_FRAME_MS, loop=0
            )
        self.picture_queue.add(Picture(step, name, suffix, stream.getvalue()))

    def log_checkpoint(self, step: int, uri: str, metrics: dict[str, float]) -> None:
        """A complete checkpoint at `uri`: a LoggedModel of the run, `metrics` linked to it."""
        self.metric_queue.add(Kept(step, _now(), uri, dict(metrics)))

    def log_checkpoint_deleted(self, step: int) -> None:
        """The checkpoint of `step` is deleted: so is its LoggedModel."""
        self.metric_queue.add(Dropped(step))

    def log_checkpoint_list(self, steps: Iterable[int]) -> None:
        """No other checkpoints are there: LoggedModels of others are deleted."""
        self.metric_queue.add(Standing(tuple(steps)))

    def pending_writer(self) -> Callable[[], None]:
        """Writes to the spool what waits now; called where there is time for it."""
        waiting, spool = [*self.metric_queue.pending(), *self.picture_queue.pending()], self._spool
        return (lambda: spool.write(waiting)) if spool else (lambda: None)

    def close(self) -> list[LogEntry]:
        """Send what waits, for at most `close_timeout_s` seconds; returns (and says) what was lost.

        With a spool nothing is: the next start sends what is left.
        """
        if self._system is not None:
            self._system.close()
        self._deadline = time.monotonic() + self.close_timeout_s
        self._closing.set()
        self._thread.join(self.close_timeout_s + self.poll_interval_s)
        if self._spool is not None:
            left = [*self.metric_queue.pending(), *self.picture_queue.pending()]
            self._spool.write(left)
            if left:
                log.warning("MLflow is away: %s are kept and sent later", describe_entries(left))
            return self.metric_queue.lost_entries + self.picture_queue.lost_entries
        self.metric_queue.discard_all()
        self.picture_queue.discard_all()
        lost = self.metric_queue.lost_entries + self.picture_queue.lost_entries
        if lost:
            log.warning(
                "%s never reached MLflow at %s", describe_entries(lost), self.ref.tracking_uri
            )
        return lost

    # -- the thread ------------------------------------------------------------------------

    def _sample(self, values: dict[str, float]) -> None:
        self.metric_queue.add(Sample(_now(), values))

    def _work(self) -> None:
        backoff = MIN_BACKOFF_S
        while True:
            # Read before draining: what was added before `close` is then surely seen.
            last_round = self._closing.is_set()
            trouble = self._drain(self.metric_queue) or self._drain(self.picture_queue)
            if trouble is None:
                self._log_recovered()
                backoff = MIN_BACKOFF_S
                if last_round:
                    return
                self._closing.wait(self.poll_interval_s)
                continue
            self._warn_once(trouble)
            if time.monotonic() + backoff > self._deadline:
                return
            self._sleep(backoff)
            backoff = min(2 * backoff, MIN_BACKOFF_S if last_round else MAX_BACKOFF_S)

    def _drain(self, backlog: LogQueue) -> Exception | None:
        """Send all of a queue; returns what stopped it, if anything did."""
        try:
            while len(backlog):
                if self._sender is None:
                    self._sender = MlflowSender(self.ref, self.start_step)
                entries = backlog.peek(ENTRIES_PER_SEND)
                backlog.lost_entries.extend(self._sender.send(entries))
                backlog.acknowledge(entries)
        except Exception as error:  # stores raise errors of many libraries; training goes on
            return error
        return None

    def _sleep(self, seconds: float) -> None:
        """Wait out a backoff, but not beyond the call of `close`, which wants another try."""
        if self._closing.is_set():
            time.sleep(seconds)
        else:
            self._closing.wait(seconds)

    def _warn_once(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            log.warning(
                "MLflow at %s cannot be written; what it should get is kept and sent later (%s)",
                self.ref.tracking_uri,
                reason[:200],
            )

    def _log_recovered(self) -> None:
        if self._warned:
            self._warned = False
            log.warning("MLflow at %s has everything again", self.ref.tracking_uri)


def _now() -> int:
    return int(time.time() * 1000)
