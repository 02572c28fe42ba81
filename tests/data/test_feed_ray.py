"""The feed through Ray Data: every global batch is the same, whoever reads it and however."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.data.loader import stream_windows as legs
from orchestrator.data.loader.data_loader import open_data_loader
from orchestrator.data.loader.order import Order
from orchestrator.errors import JobFailed
from orchestrator.estimate import BatchSizes
from orchestrator.job import TrainJob
from tests.support import clips as made_clips
from tests.support.clips import FakePrepared, InMemoryIndex, feed_job, pad_mp4, small_video

pytestmark = pytest.mark.integration

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    import ray.cloudpickle

    for module in (made_clips, sys.modules[__name__]):
        ray.cloudpickle.register_pickle_by_value(module)
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=200_000_000,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()


class Ranks:
    """The ranks of a group as threads of this process, with a broadcast from rank 0."""

    def __init__(self, world: int) -> None:
        self.world, self._barrier = world, threading.Barrier(world)
        self._value: Any = None

    def exchange(self, rank: int) -> Callable[[Any], Any]:
        def broadcast(value: Any) -> Any:
            if rank == 0:
                self._value = value
            self._barrier.wait(300)
            received = self._value
            self._barrier.wait(300)
            return received

        return broadcast

    def run(self, work: Callable[[int], Any]) -> list[Any]:
        results: list[Any] = [None] * self.world

        def one(rank: int) -> None:
            try:
                results[rank] = work(rank)
            except BaseException as error:
                results[rank] = error

        threads = [threading.Thread(target=one, args=(r,)) for r in range(self.world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(500)
        return results


def feed_of(job: TrainJob, index: Any, ranks: Ranks, rank: int, start: int = 0) -> Any:
    return closing(
        open_data_loader(
            job,
            FakePrepared([index], [None]),  # type: ignore[arg-type]
            BatchSizes.from_scale(job.scale, ranks.world),
            rank=rank,
            start_step=start,
            threads=1,
            broadcast=ranks.exchange(rank),
        )
    )


def uneven() -> InMemoryIndex:
    """15 clips of 2 kB to 1 MB in three shards; every process is slow at its first read."""
    rng = np.random.default_rng(0)
    sizes = 10 ** rng.uniform(3.3, 6, 15)
    clips = [pad_mp4(small_video(i % 3), int(size)) for i, size in enumerate(sizes)]
    return InMemoryIndex("a", [clips[:5], clips[5:8], clips[8:]], delay_s=1.0)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_global_batches_are_the_same_at_every_world_size(
    world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 12 steps of 4 are three epochs and a bit of 15 clips; two legs, so one seam is crossed.
    monkeypatch.setattr(legs, "MIN_WINDOW_STEPS", 6)
    monkeypatch.setattr(legs, "MAX_TASKS_PER_WINDOW", 1)
    index, ranks = uneven(), Ranks(world)
    job = feed_job(steps=12, global_batch=4, micro_batch=2)

    def keys(rank: int) -> list[list[tuple[int, str]]]:
        with feed_of(job, index, ranks, rank) as feed:
            return [
                [
                    (int(position), key)
                    for micro in step.micro_batches
                    for position, key, weight in zip(
                        micro.position, micro.keys, micro.weight, strict=True
                    )
                    if weight
                ]
                for step in feed
            ]

    dealt = ranks.run(keys)
    drawn = Order([index.clips_per_shard], [None], job.seed, job.data.window).lookup(np.arange(48))
    names = [f"a-{s}-{r}" for s, r in zip(drawn.shard, drawn.row, strict=True)]
    for step in range(12):
        got = sorted(row for rank in dealt for row in rank[step])
        assert got == [(p, names[p]) for p in range(4 * step, 4 * step + 4)]
    for epoch in range(3):
        assert len(set(names[15 * epoch : 15 * epoch + 15])) == 15


def test_a_reader_that_cannot_read_fails_every_rank() -> None:
    @dataclass
    class Unreadable(InMemoryIndex):
        def shard_rows(self, shard: int) -> Any:
            raise PermissionError("shards of another user")

    ranks, index = Ranks(2), Unreadable("a", uneven().payloads)

    def work(rank: int) -> None:
        with feed_of(feed_job(), index, ranks, rank) as feed:
            list(feed)

    for error in ranks.run(work):
        assert type(error) is PermissionError
        assert str(error).startswith("shards of another user")


def test_a_reader_that_cannot_open_the_datasets_fails_and_does_not_hang() -> None:
    class Elsewhere(InMemoryIndex):
        """Pickles, but cannot be unpickled in a reading process."""

        def __reduce__(self) -> tuple[Any, ...]:
            return _only_here, (os.getpid(),)

    ranks = Ranks(1)

    def work(rank: int) -> None:
        with feed_of(feed_job(), Elsewhere("a", uneven().payloads), ranks, rank) as feed:
            list(feed)

    (error,) = ranks.run(work)
    assert type(error) is JobFailed
    assert "cannot open the datasets" in str(error)


def _only_here(process: int) -> None:
    if os.getpid() != process:
        raise ModuleNotFoundError("No module named 'mylab'")


@dataclass
class Billion(InMemoryIndex):
    """1e9 clips in 1e6 shards that are made up as they are asked for."""

    shards: int = 1_000_000

    @property
    def clips_per_shard(self) -> np.ndarray:
        return np.random.default_rng(0).integers(500, 1500, self.shards)

    @property
    def num_bytes(self) -> int:
        return self.num_clips * len(self.payloads[0][0])

    def shard_rows(self, shard: int) -> Any:
        return InMemoryIndex(f"s{shard}", [self.payloads[0] * 1500]).shard_rows(0)

    def read_bytes(self, shard: int, offset: int, length: int, sha256: str | None = None) -> bytes:
        return self.payloads[0][0]


def private_bytes() -> int:
    """Private memory of this process (the ranks) plus the largest of the processes below it.

    Not their sum: Ray starts and keeps idle processes as it likes.
    """
    parents: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):  # it ended meanwhile
            stat = Path(f"/proc/{name}/stat").read_text()
            parents[int(name)] = int(stat.rsplit(")", 1)[1].split()[1])
    below = []
    for pid in parents:
        ancestor = parents[pid]
        while ancestor not in (os.getpid(), 0, 1):
            ancestor = parents.get(ancestor, 0)
        if ancestor == os.getpid():
            below.append(_private(pid))
    return _private(os.getpid()) + max(below)


def _private(pid: int) -> int:
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(1024 * int(x.split()[1]) for x in lines if x.startswith("Private_"))
    return 0


def test_a_billion_clips_through_the_feed() -> None:
    job = feed_job(steps=10**9, global_batch=8, micro_batch=4)
    ranks = Ranks(2)

    def first_steps(index: InMemoryIndex, start: int) -> tuple[int, list[int]]:
        def work(rank: int) -> list[int]:
            with feed_of(job, index, ranks, rank, start) as feed:
                steps = [next(feed) for _ in range(6)]
                memory.append(private_bytes())
            batches = [micro for step in steps for micro in step.micro_batches]
            return [int(p) for micro in batches for p in micro.position]

        memory: list[int] = []
        dealt = ranks.run(work)
        assert not [error for error in dealt if isinstance(error, BaseException)]
        return max(memory), sorted(dealt[0] + dealt[1])

    clip = [[small_video()]]
    first_steps(Billion("small", clip, shards=50), 0)  # processes start, modules are imported
    small, _ = first_steps(Billion("small", clip, shards=50), 0)
    index = Billion("a", clip)
    assert index.num_clips > 990_000_000
    start = index.num_clips // 8 - 2  # the seam of two passes: both are held
    large, positions = first_steps(index, start)
    assert positions == list(range(8 * start, 8 * start + 48))
    print(f"{(large - small) / 1e6:.0f} MB more than for 50 shards")
    assert large - small < 100e6


def test_it_flows_where_the_trainers_have_reserved_every_core(tmp_path: Path) -> None:
    """Ray Train's own workers, in placement groups that hold the whole cluster; a real broadcast
    carries the iterators from one process to the other."""
    import ray.train
    from ray.train.torch import TorchTrainer

    def worker(config: dict[str, Any]) -> None:
        from orchestrator.training.distributed import ray_context

        group = ray_context()
        job: TrainJob = config["job"]
        feed = open_data_loader(
            job,
            config["sources"],
            BatchSizes.from_scale(job.scale, group.world_size),
            rank=group.rank,
            start_step=3,
            threads=1,
            broadcast=group.broadcast,
        )
        with closing(feed):
            seen = [(s.step, p, k) for s in feed for m in s.micro_batches
                    for p, k in zip(m.position.tolist(), m.keys, strict=True)]  # fmt: skip
        Path(config["out"], str(group.rank)).write_text(json.dumps(seen))

    job, index = feed_job(steps=40, global_batch=4, micro_batch=2), uneven()
    TorchTrainer(
        worker,
        train_loop_config={
            "job": job,
            "sources": FakePrepared([index], [None]),
            "out": str(tmp_path),
        },
        scaling_config=ray.train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
        run_config=ray.train.RunConfig(name="feed", storage_path=str(tmp_path / "ray")),
    ).fit()
    seen = sorted(tuple(row) for rank in "01" for row in json.loads((tmp_path / rank).read_text()))
    order = Order([index.clips_per_shard], [None], job.seed, job.data.window)
    drawn = order.lookup(np.arange(12, 160))
    keys = [f"a-{s}-{r}" for s, r in zip(drawn.shard, drawn.row, strict=True)]
    assert seen == [(p // 4, p, key) for p, key in zip(range(12, 160), keys, strict=True)]


def test_the_bench_races_the_feed_and_watches_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.bench import feed

    monkeypatch.setattr(feed, "SLICE_S", 1.5)
    sources = FakePrepared([uneven()], [None])
    found = feed.bench_feed(feed_job(global_batch=16, micro_batch=16), sources, seconds=3.0)  # type: ignore[arg-type]
    assert set(found["clips_per_s"]) == {"feed", "bare", "processes", "decoder"}
    assert min(found["clips_per_s"].values()) > 0
    assert found["feed_over_bare"] > 0
    assert len(found["rounds"]) == 2
    assert found["store_bytes"]["peak"] > 0
    assert found["spilled_bytes"] == 0
