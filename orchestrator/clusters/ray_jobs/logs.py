"""Follow a Ray job's log to its end, with reconnects."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp

from orchestrator.errors import RequestError

TRIES, PAUSE_S = 10, 3.0
"""Consecutive failed connections after which following ends. The job is not affected."""

_ENDED = ("STOPPED", "SUCCEEDED", "FAILED")
_BROKEN = (RuntimeError, aiohttp.ClientError, OSError, asyncio.TimeoutError)


def follow_log(client: Any, submission_id: str) -> Iterator[str]:
    """Yield the log as it is written, each piece once.

    Raises:
        RequestError: the cluster stays away.
    """
    shown, failures = 0, 0
    while True:
        passed = 0
        reason = "the connection was closed"
        try:
            for piece in _pieces(client.tail_job_logs(submission_id)):
                # Each new connection starts at the first line of the log.
                fresh = piece[max(0, shown - passed) :]
                passed += len(piece)
                if fresh:
                    shown, failures = shown + len(fresh), 0
                    yield fresh
        except _BROKEN as error:
            reason = str(error) or type(error).__name__
        try:
            if _has_ended(client, submission_id):
                return
        except RequestError as error:
            reason = error.what
        failures += 1
        if failures > TRIES:
            raise RequestError(
                f"the log cannot be followed any more: {reason}",
                where=submission_id,
                hint="the job itself goes on; follow it again with: orchestrator jobs logs -f",
            )
        time.sleep(PAUSE_S)


def _has_ended(client: Any, submission_id: str) -> bool:
    status = client.get_job_info(submission_id).status
    return str(getattr(status, "value", status)) in _ENDED


def _pieces(tail: AsyncIterator[str]) -> Iterator[str]:
    """Iterate over an asynchronous iterator synchronously."""
    with asyncio.Runner() as runner:
        while True:
            try:
                yield runner.run(_next(tail))
            except StopAsyncIteration:
                return


async def _next(tail: AsyncIterator[str]) -> str:
    return await anext(tail)
