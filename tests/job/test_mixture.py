"""Sources of several shapes in a job file: what they mean, and what is refused and how."""

from __future__ import annotations

import re
from typing import Any

import pytest

from orchestrator.errors import RequestError
from orchestrator.estimate import estimate_job
from orchestrator.job import Bucket, ClipSpec, TrainJob, build_job, fingerprint, identity

MASKS = [{"targets": 0.5, "context": 0.25}]


def job_of(*sources: dict[str, Any], **keys: Any) -> TrainJob:
    data = {"frames": 16, "fps": 4, "size": 64, **keys.pop("data", {})}
    data["sources"] = list(sources) or [{"uri": "a", "weight": 3}]
    tiny = {"dim": 24, "depth": 1, "heads": 2}
    job = build_job(
        {
            "kind": "train",
            "name": "mixed",
            "data": data,
            "model": {"encoder": tiny, "patch": 8, "predictor": tiny, **keys.pop("model", {})},
            "objective": {"kind": "vjepa2", "masks": MASKS},
            "optim": {"steps": 10},
            "scale": {"workers": 2, "global_batch": 8, "micro_batch": 4},
            **keys,
        }
    )
    assert isinstance(job, TrainJob)
    return job


OWN = {"uri": "videos", "weight": 3}
SHARP = {"uri": "sharp", "weight": 1, "frames": 8, "size": 96}
PHOTOS = {"uri": "photos", "weight": 1, "frames": 2}


def test_what_a_source_does_not_say_data_does() -> None:
    job = job_of(OWN, {"uri": "slow", "weight": 1, "fps": 1}, SHARP, PHOTOS)
    assert job.data.clip_specs == (
        ClipSpec(16, 4, 64), ClipSpec(16, 1, 64), ClipSpec(8, 4, 96), ClipSpec(2, 4, 64),
    )  # fmt: skip
    assert job.data.buckets == (Bucket(16, 64), Bucket(8, 96), Bucket(2, 64))
    assert list(job.data.bucket_shares.values()) == pytest.approx([4 / 6, 1 / 6, 1 / 6])
    assert [job.token_grid_of(bucket) for bucket in job.data.buckets] == [
        (8, 8, 8), (4, 12, 12), (1, 8, 8),
    ]  # fmt: skip
    assert job.grid == (8, 8, 8)


def test_jobs_without_it_keep_their_fingerprint() -> None:
    """The digest was printed by the code before sources could say anything of their clips."""
    job = build_job(
        {
            "kind": "train",
            "name": "mix",
            "data": {
                "sources": [{"uri": "a", "weight": 3}, {"uri": "b", "weight": 1}],
                "frames": 16,
                "size": 64,
            },
            "optim": {"steps": 10},
            "model": {"encoder": "vit-tiny", "patch": 8},
            "objective": {
                "kind": "lejepa",
                "masks": [{"kind": "multiblock", "context": 0.2, "targets": 0.5}],
            },
        }
    )
    assert fingerprint(job) == "d9fcda1a1cd47a0e"


def test_it_is_part_of_the_identity() -> None:
    plain, mixed = job_of(OWN, {**PHOTOS, "frames": None}), job_of(OWN, PHOTOS)
    assert "data.sources.1.frames" not in identity(plain)
    assert identity(mixed)["data.sources.1.frames"] == 2
    assert "scale.global_batch" in identity(mixed)  # what stands at a position depends on it
    assert len({fingerprint(job_of(OWN, PHOTOS)), fingerprint(plain)}) == 2


FUTURE = [{"kind": "future", "visible": [2, 2], "targets": 0.5, "context": 0.1}]
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("no source has clips of data's own 16 frames of 64 pixels", {"sources": [SHARP, PHOTOS]},
     "data.sources"),
    ("this source has none; give every source a weight",
     {"sources": [{"uri": "a"}, {**SHARP, "weight": None}]}, "data.sources.0.weight"),
    ("100 does not divide by model.patch 8", {"sources": [OWN, {**SHARP, "size": 100}]},
     "data.sources.1.size"),
    ("3 does not divide by model.tubelet 2", {"sources": [OWN, {**PHOTOS, "frames": 3}]},
     "data.sources.1.frames"),
    ("does not fit data.sources.1 .2 frames of 64 pixels.: a clip of one moment has no future",
     {"objective": {"kind": "vjepa2", "masks": FUTURE}}, "objective.masks.0"),
    ("does not fit data.sources.1 .*context 100 . targets 32 are more than the 64 tokens",
     {"objective": {"kind": "vjepa2", "masks": [{"targets": 0.5, "context": 100}]}},
     "objective.masks.0"),
    ("causal is built for clips of one shape",
     {"objective": {"kind": "causal"}, "model": {"encoder": {"dim": 24, "depth": 1, "heads": 2,
      "attention": "moment"}}}, "objective.kind"),
    ("lewm is built for clips of one shape",
     {"objective": {"kind": "lewm"}, "model": {"encoder": {"dim": 24, "depth": 1, "heads": 2,
      "attention": "moment"}}}, "objective.kind"),
    ("an encoder of your own is built for clips of one shape",
     {"model": {"encoder": {"kind": "my.lab:Encoder"}}}, "model.encoder.kind"),
    ("an objective of your own is built for clips of one shape",
     {"objective": {"kind": "tests.support.own_objective:PlainObjective"}}, "objective.kind"),
    ("beside data.actions all sources are cut alike",
     {"data": {"act": {}}, "objective": {"kind": "pixels", "masks": MASKS}},
     "data.sources.1.frames"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "keys", "place"), REFUSED)
def test_what_cannot_be_mixed_is_refused_in_one_line(
    words: str, keys: dict[str, Any], place: str
) -> None:
    sources = keys.get("sources", [OWN, PHOTOS])
    with pytest.raises(RequestError) as found:
        job_of(*sources, **{k: v for k, v in keys.items() if k != "sources"})
    line = found.value.what
    assert "\n" not in line
    assert line.startswith(f"{place}: ")
    assert re.search(words, line), line


def test_elsewhere_a_source_says_nothing_of_its_clips() -> None:
    for kind in ("pack", "embed"):
        job = {"kind": kind, "name": "x", "model": "m", "data": {"sources": [PHOTOS]}}
        if kind == "pack":
            job = {"kind": kind, "name": "x", "sources": [PHOTOS]}
        with pytest.raises(RequestError, match="frames"):
            build_job(job)


def test_the_plan_tells_the_buckets_and_reckons_with_their_mean() -> None:
    mixed = job_of(OWN, SHARP, PHOTOS)
    planned = estimate_job(mixed)
    assert [(b.frames, b.size, b.tokens.clip) for b in planned.buckets] == [
        (16, 64, 512), (8, 96, 576), (2, 64, 64),
    ]  # fmt: skip
    assert [b.share for b in planned.buckets] == pytest.approx([0.6, 0.2, 0.2])
    own = estimate_job(job_of(OWN))
    assert len(own.buckets) == 1
    assert own.flops is not None
    assert planned.flops is not None
    assert planned.buckets[0].flops == own.flops.total
    mean = sum(b.share * (b.flops or 0) for b in planned.buckets)
    assert planned.flops.total == pytest.approx(mean)
    assert planned.step_flops == planned.flops.total
    # Memory is that of the largest: 8 frames of 96 pixels.
    large = estimate_job(job_of({"uri": "a", "weight": 1}, data={"frames": 8, "size": 96}))
    assert [m.device for m in planned.memory] == [m.device for m in large.memory]
    assert planned.to_dict()["buckets"][1]["size"] == 96
