"""What the data side of a step needs: clips per second, decoding cores, bytes. Estimates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs

from orchestrator.estimate.batch import BatchSizes
from orchestrator.job import ClipSpec, TrainJob, TranscodeConfig
from orchestrator.paths import split_uri

# Measured with PyAV on one core of a server: clips of 16 frames at 4 fps (4 s of video) out of
# H.264 at 256 pixels short side, GOP 60, made for fast decoding: 35 clips a second.
_CORE_CLIPS_PER_S = 35.0
_CORE_CLIP_S = 4.0
_CORE_SHORT_SIDE = 256
# The same video's size: 316 kB for a segment of 10 s.
_BYTES_PER_S = 31_600.0


@dataclass(frozen=True)
class InputEstimate:
    """The data side. Rates are estimates from one measured kind of video; `bench feed` measures.

    `clip_bytes` is what one encoded segment weighs on disk and on its way to a worker.
    """

    clips: int | None
    steps_per_epoch: float | None
    epochs: float | None
    core_clips_per_s: float
    clip_bytes: float
    step_bytes: float
    dataset_bytes: float | None
    decoded_bytes: int
    """Bytes of one rank's decoded micro-batch (uint8)."""

    def cores_for(self, clips_per_s: float) -> int:
        """Cores that decode `clips_per_s`."""
        return math.ceil(clips_per_s / self.core_clips_per_s)


def estimate_input(job: TrainJob, batch: BatchSizes, clips: int | None) -> InputEstimate:
    """The data side of a job; `clips` where the number of clips is known."""
    clips = clips or clips_named_in_uris(job)
    epoch = job.data.epoch or clips
    per_epoch = epoch / batch.global_batch if epoch else None
    encode = job.data.encode
    # A clip is seldom longer than its segment; a longer request repeats no decoding.
    decoded_s = sum(
        share * min(spec.frames / spec.fps, encode.segment) for spec, share in _spec_shares(job)
    )
    clip_bytes = segment_bytes(encode)
    return InputEstimate(
        clips=clips,
        steps_per_epoch=per_epoch,
        epochs=job.optim.steps / per_epoch if per_epoch else None,
        core_clips_per_s=core_clips_per_s(decoded_s, encode.short_side),
        clip_bytes=clip_bytes,
        step_bytes=clip_bytes * batch.global_batch,
        dataset_bytes=clip_bytes * clips if clips else None,
        decoded_bytes=batch.micro * max(3 * b.frames * b.size**2 for b in job.data.buckets),
    )


def core_clips_per_s(clip_s: float, short_side: int) -> float:
    """Clips of `clip_s` seconds of video that one core decodes in a second."""
    scale = short_side / _CORE_SHORT_SIDE
    return _CORE_CLIPS_PER_S * _CORE_CLIP_S / clip_s / scale**2


def segment_bytes(encode: TranscodeConfig) -> float:
    """Bytes of one encoded segment of the longest duration."""
    return _BYTES_PER_S * encode.segment * (encode.short_side / _CORE_SHORT_SIDE) ** 2


def _spec_shares(job: TrainJob) -> list[tuple[ClipSpec, float]]:
    """How the sources cut clips, and their shares of the clips drawn; without weights, which then
    follow from the data, all like data's own."""
    weights = [source.weight or 0.0 for source in job.data.sources]
    if not any(weights):
        return [(job.data.default_clip_spec, 1.0)]
    shares = [weight / sum(weights) for weight in weights]
    return list(zip(job.data.clip_specs, shares, strict=True))


def clips_named_in_uris(job: TrainJob) -> int | None:
    """The number of clips where the sources name it (`physics://mixed?clips=2000`), or the number
    of episodes (`world://two-rooms?episodes=200`)."""
    return clips_named([job.data.source or "", *(s.uri for s in job.data.sources)])


def clips_named(uris: Sequence[str]) -> int | None:
    """The same of any sources; empty URIs are left out."""
    total = 0
    for uri in filter(None, uris):
        parts = split_uri(uri)
        if not parts.scheme:
            return None  # a folder, whose name may hold anything
        option = "episodes" if parts.scheme == "world" else "clips"
        value = parse_qs(parts.query).get(option, [""])[-1]
        if not value.isdigit():
            return None
        total += int(value)
    return total or None
