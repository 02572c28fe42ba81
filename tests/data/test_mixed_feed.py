"""Sources of several shapes: each step is of one, whatever the world size, after restarts too."""

from __future__ import annotations

import hashlib
import io
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from orchestrator.data.auditing.audit import audit_ledger
from orchestrator.data.auditing.clip_ledger import ClipLedgerWriter
from orchestrator.data.loader.batch import StepBatch
from orchestrator.data.loader.clip import EncodedClip
from orchestrator.data.loader.clip_decoder import TrainDecodeConfig, decode_config_of
from orchestrator.data.loader.data_loader import estimate_clip_bytes, open_data_loader
from orchestrator.data.loader.order import INTERLEAVE_SLOTS, Order
from orchestrator.data.loader.subprocess_decoder import SubprocessDecoder
from orchestrator.estimate import BatchSizes
from orchestrator.job import Bucket, TrainJob
from orchestrator.storage import Storage
from tests.support.clips import FakePrepared, InMemoryIndex, feed_job, small_video

BATCH = 4


def picture(seed: int) -> bytes:
    file = io.BytesIO()
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 255, (4, 5, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    Image.fromarray(blocks).save(file, "PNG")
    return file.getvalue()


class Pictures(InMemoryIndex):
    """As packing leaves them: they last 0 seconds."""

    def shard_rows(self, shard: int) -> pa.Table:
        table = super().shard_rows(shard)
        at = table.column_names.index("duration_s")
        return table.set_column(at, "duration_s", pa.array([0.0] * len(table)))


VIDEOS = [small_video(seed) for seed in range(3)]
SOURCES = FakePrepared(
    [
        InMemoryIndex(
            "video", [[VIDEOS[(s + r) % 3] for r in range(n)] for s, n in ((0, 3), (1, 4))]
        ),
        InMemoryIndex("slow", [[VIDEOS[r] for r in range(3)]]),
        InMemoryIndex("sharp", [[VIDEOS[r] for r in range(2)], [VIDEOS[2]]]),
        Pictures("pictures", [[picture(r) for r in range(5)]]),
    ],
    [3.0, 1.0, 2.0, 2.0],
)
KEYS: list[dict[str, Any]] = [
    {"uri": "a", "weight": 3},
    {"uri": "b", "weight": 1, "fps": 8.0},
    {"uri": "c", "weight": 2, "size": 24},
    {"uri": "d", "weight": 2, "frames": 2},
]


def mixed_job(steps: int = 8) -> TrainJob:
    plain = feed_job(steps=steps, global_batch=BATCH).model_dump(by_alias=True)
    plain["data"] |= {"source": None, "sources": KEYS}
    masks = [{"blocks": 1, "spatial": 0.5, "targets": 0.5, "context": 0.25}]
    return TrainJob.model_validate(plain | {"objective": {"kind": "vjepa2", "masks": masks}})


def order_of(job: TrainJob, weights: list[float | None] | None = None) -> Order:
    counts = [index.clips_per_shard for index in SOURCES.indexes]
    return Order.from_job(job, counts, weights or SOURCES.weights)


def local(job: TrainJob, world: int = 1, start: int = 0) -> list[list[StepBatch]]:
    """All steps of all ranks, one rank after the other, without Ray."""
    ranks = []
    for rank in range(world):
        feed = open_data_loader(
            job,
            SOURCES,  # type: ignore[arg-type]
            BatchSizes.from_scale(job.scale, world),
            rank=rank,
            start_step=start,
            threads=2,
            broadcast=None,
        )
        with closing(feed):
            ranks.append(list(feed))
    return ranks


def by_position(ranks: list[list[StepBatch]]) -> dict[int, tuple[Any, ...]]:
    """Key, pixels and masks of every real row."""
    out: dict[int, tuple[Any, ...]] = {}
    for batch in (micro for steps in ranks for step in steps for micro in step.micro_batches):
        for row, position in enumerate(batch.position.tolist()):
            if position >= 0:
                assert position not in out
                masks = [ids[row] for mask in batch.masks for ids in mask]
                out[position] = (batch.keys[row], batch.video[row], *masks)
    return out


def test_a_training_of_one_shape_keeps_the_order_that_it_had() -> None:
    """The digests were printed by the code before there were buckets."""
    rng = np.random.default_rng(5)
    counts = [rng.integers(1, 40, n) for n in (7, 3, 11)]
    found = []
    for weights in ([3.0, 1.0, 0.5], [None] * 3):
        draws = Order(counts, weights, seed=11, shuffle_window=4).lookup(np.arange(0, 9000, 3))
        told = np.stack([draws.source, draws.pass_index, draws.shard, draws.row])
        found.append(hashlib.sha256(told.tobytes()).hexdigest()[:16])
    assert found == ["f6864ecaa33606fa", "93498a46636e7d5d"]


def test_steps_are_shared_by_weight_and_spread_evenly() -> None:
    order = order_of(mixed_job())
    buckets = np.array([order.bucket_of_step(step) for step in range(2 * INTERLEAVE_SLOTS)])
    assert np.bincount(buckets[:INTERLEAVE_SLOTS]).tolist() == [2048, 1024, 1024]  # (3 + 1) : 2 : 2
    np.testing.assert_array_equal(buckets[:INTERLEAVE_SLOTS], buckets[INTERLEAVE_SLOTS:])
    assert np.diff(np.flatnonzero(buckets == 1)).max() <= 5
    # Within the first bucket its two sources stand 3 : 1, clip by clip.
    sources = order.source_of(np.arange(INTERLEAVE_SLOTS * BATCH)).reshape(INTERLEAVE_SLOTS, BATCH)
    counts = np.bincount(sources.ravel()) / BATCH
    assert counts.tolist() == [1536, 512, 1024, 1024]
    of = np.array([0, 0, 1, 2])
    assert (of[sources] == buckets[:INTERLEAVE_SLOTS, None]).all()


@pytest.mark.parametrize("seed", range(3))
def test_each_source_counts_its_own_passes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    order = order_of(mixed_job(), [float(w) for w in rng.integers(1, 9, 4)])
    draws = order.lookup(np.arange(BATCH * int(rng.integers(200, 400))))
    for source, index in enumerate(SOURCES.indexes):
        mine = draws.source == source
        places = np.stack([draws.pass_index[mine], draws.shard[mine], draws.row[mine]], 1)
        whole = places[places[:, 0] < places[:, 0].max()]
        assert len(np.unique(whole, axis=0)) == len(whole) == index.num_clips * places[:, 0].max()
        assert (np.diff(draws.pass_index[mine]) >= 0).all()


@pytest.mark.parametrize("world", [2, 3, 5])
def test_every_world_size_trains_the_same_rows_and_all_ranks_one_shape(world: int) -> None:
    job = mixed_job()
    one, many = local(job), local(job, world)
    first, second = by_position(one), by_position(many)
    assert sorted(first) == sorted(second) == list(range(8 * BATCH))
    for position, (key, *row) in first.items():
        assert key == second[position][0]
        assert all(map(torch.equal, row, second[position][1:]))
    order = order_of(job)
    for step in range(8):
        wanted = job.data.buckets[order.bucket_of_step(step)]
        for ranks in (one, many):
            parts = [micro for rank in ranks for micro in rank[step].micro_batches]
            assert {part.bucket for part in parts} == {wanted}
            assert len({part.masks[0][0].shape for part in parts}) == 1  # padding's masks too
    assert {job.data.buckets[order.bucket_of_step(s)] for s in range(8)} == set(job.data.buckets)


def test_a_resumed_run_goes_on_with_the_same_rows() -> None:
    job = mixed_job()
    whole, rest = by_position(local(job)), by_position(local(job, 3, start=5))
    assert sorted(rest) == list(range(5 * BATCH, 8 * BATCH))
    assert all(torch.equal(rest[at][1], whole[at][1]) for at in rest)


def test_a_row_is_cut_as_its_source_says() -> None:
    job = mixed_job(steps=16)
    rows, order = by_position(local(job)), order_of(job)
    sources = order.source_of(np.arange(len(rows)))
    for source, spec in enumerate(job.data.clip_specs):
        position = int(np.flatnonzero(sources == source)[0])
        key, pixels = rows[position][:2]
        assert pixels.shape == (spec.frames, spec.size, spec.size, 3)
        _, shard, place = key.split("-")
        payload = SOURCES.indexes[source].payloads[int(shard)][int(place)]
        lasts = 0.0 if source == 3 else 1.5
        # Alone, under a job that knows no other source.
        alone = TrainDecodeConfig.from_job(job.with_clip_spec(spec)).build_decoder(1)
        row = EncodedClip(position, payload, lasts, hashlib.sha256(payload).hexdigest())
        canvas = alone.new_buffer()
        assert alone.decode([row], canvas, 0)[0].reason is None
        np.testing.assert_array_equal(canvas.array[0], pixels.numpy())
    pictures = [rows[at][1] for at in np.flatnonzero(sources == 3)]
    assert all(torch.equal(one[0], one[1]) for one in pictures)
    assert any(float(one.float().std()) > 10 for one in pictures)


def test_children_make_what_this_process_would() -> None:
    recipe, order = decode_config_of(mixed_job()), 0
    here = recipe.build_decoder(2)
    with closing(SubprocessDecoder(recipe, 2)) as maker:
        for spec, payload, lasts in ((0, VIDEOS[0], 1.5), (2, VIDEOS[1], 1.5),
                                     (3, picture(1), 0.0), (0, VIDEOS[2], 1.5)):  # fmt: skip
            sha256 = hashlib.sha256(payload).hexdigest()
            rows = [
                EncodedClip(order, payload, lasts, sha256, spec_index=spec),
                EncodedClip(-1, None, spec_index=spec),
            ]
            ours, theirs = here.new_buffer(spec), maker.new_buffer(spec)
            expected, found = here.decode(rows, ours, 0), maker.decode(rows, theirs, 0)
            np.testing.assert_array_equal(ours.array, theirs.array)
            np.testing.assert_equal([c.masks for c in expected], [c.masks for c in found])
            assert [c.reason for c in found] == [None, None]
            order += 1


def test_the_audit_knows_whose_step_it_was(tmp_path: Path) -> None:
    job = mixed_job()
    storage = Storage(str(tmp_path))
    ledger = ClipLedgerWriter(storage, 0, "0001-0001")
    for step in local(job)[0]:
        for micro in step.micro_batches:
            ledger.append(step.step, micro)
    ledger.flush()
    indexes: list[Any] = SOURCES.indexes
    good = audit_ledger(storage, indexes, order_of(job), 8, BATCH)
    assert good.good, good.wrong
    assert good.trained == 32
    plain = job.model_copy(update={"data": job.data.model_copy(update={"sources": ()})})
    other = Order.from_job(plain, [i.clips_per_shard for i in indexes], SOURCES.weights)
    assert not audit_ledger(storage, indexes, other, 8, BATCH).good


def test_many_small_pictures_do_not_make_blocks_of_videos_large() -> None:
    indexes: list[Any] = SOURCES.indexes
    means = [index.num_bytes / index.num_clips for index in indexes]
    assert estimate_clip_bytes(indexes, 3) == max(means)
    everything = sum(i.num_bytes for i in indexes) / sum(i.num_clips for i in indexes)
    assert estimate_clip_bytes(indexes, 1) == everything < max(means)


def test_the_shapes_are_those_of_the_job() -> None:
    assert mixed_job().data.buckets == (Bucket(4, 16), Bucket(4, 24), Bucket(2, 16))
    assert mixed_job().data.bucket_shares == {
        Bucket(4, 16): 0.5,
        Bucket(4, 24): 0.25,
        Bucket(2, 16): 0.25,
    }
