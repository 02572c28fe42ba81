"""Throughput of the data loader, compared with a bare loop, the decoder's limit and webdataset.

Every contender runs in a Ray actor of its own, so that all have the same niceness (Ray's
processes are nicer than a shell's) and may use the same cores. They take turns, several
rounds, so that what else the machine does weighs on all of them alike.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from orchestrator.bench.feed_contenders import (
    DecoderLoop,
    FeedContender,
    FeedLoop,
    ProcessLoop,
    ThreadedDecodeLoop,
    WebDatasetLoop,
)
from orchestrator.data.packing.prepare import PreparedData
from orchestrator.job import TrainJob

SLICE_S = 5.0
"""Seconds of a time slice: short, so that all contenders run under the same load."""

_POLL_S = 0.2
_FREED_S = 10.0


def bench_feed(
    job: TrainJob, prepared: PreparedData, seconds: float = 60.0, against_webdataset: bool = False
) -> dict[str, Any]:
    """Measure the data loader and its contenders; inside a Ray session.

    Args:
        seconds: measured time of each contender, over all rounds.

    Returns:
        clips_per_s by contender; feed_over_bare, feed_over_processes, feed_over_decoder,
        feed_over_webdataset (medians over rounds); the object store's bytes in use before, at
        most and after, and the bytes spilled.

    Raises:
        RequestError: webdataset is asked for and not installed.
    """
    threads = job.data.decode_threads or len(os.sched_getaffinity(0))
    kinds: dict[str, type[FeedContender]] = {
        "feed": FeedLoop,
        "bare": ThreadedDecodeLoop,
        "processes": ProcessLoop,
        "decoder": DecoderLoop,
    }
    if against_webdataset:
        kinds["webdataset"] = WebDatasetLoop
    before = _object_store_usage()
    with _track_store_peak() as peak:
        actors = {
            name: ray.remote(num_cpus=0)(kind).remote(job, prepared, threads)
            for name, kind in kinds.items()
        }
        rounds = [
            {name: _rate(actors[name], SLICE_S) for name in _order(list(actors), number)}
            for number in range(max(1, round(seconds / SLICE_S)))
        ]
    for actor in actors.values():
        ray.kill(actor)
    after = _usage_after_release(before[0])
    rates = {name: [one[name] for one in rounds] for name in kinds}
    return {
        "clips_per_s": {name: statistics.median(found) for name, found in rates.items()},
        "rounds": rounds,
        **{
            f"feed_over_{name}": statistics.median(
                ours / theirs for ours, theirs in zip(rates["feed"], found, strict=True)
            )
            for name, found in rates.items()
            if name != "feed"
        },
        "store_bytes": {"before": before[0], "peak": peak[0], "after": after[0]},
        "spilled_bytes": after[1] - before[1],
        "threads": threads,
        "global_batch": job.scale.global_batch,
        "frames": job.data.frames,
        "size": job.data.size,
        "clips": sum(index.num_clips for index in prepared.indexes),
    }


def _order(names: list[str], number: int) -> list[str]:
    """The order of a round: it starts with another contender each time, alternately reversed."""
    start = number // 2 % len(names)
    turned = names[start:] + names[:start]
    return turned[::-1] if number % 2 else turned


def _rate(actor: Any, seconds: float) -> float:
    clips, took = ray.get(actor.run.remote(seconds))
    return float(clips / took)


def _object_store_usage() -> tuple[int, int]:
    """Bytes in use in the cluster's object stores, and bytes ever spilled to disk."""
    # Ray has these figures for people only (`ray memory --stats-only`).
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    address = ray.get_runtime_context().gcs_address
    stats = get_memory_info_reply(get_state_from_address(address)).store_stats
    return int(stats.object_store_bytes_used), int(stats.spilled_bytes_total)


def _usage_after_release(before: int) -> tuple[int, int]:
    """The store after what the killed actors held has been freed."""
    until = time.monotonic() + _FREED_S
    while (found := _object_store_usage())[0] > before and time.monotonic() < until:
        time.sleep(_POLL_S)
    return found


@contextmanager
def _track_store_peak() -> Iterator[list[int]]:
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(_POLL_S):
            peak[0] = max(peak[0], _object_store_usage()[0])

    thread = threading.Thread(target=watch, name="store", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
