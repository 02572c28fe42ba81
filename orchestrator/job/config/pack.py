"""Where video comes from and how it is packed: the `pack` job and the shared sections."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ByteSize, Field, PositiveFloat, PositiveInt, model_validator

from orchestrator.job.config.base import Name, Section
from orchestrator.job.config.former_names import FormerName


class WeightedSource(Section):
    """One source of a mixture."""

    uri: str
    """A folder, a manifest, WebDataset tars, a packed dataset, `physics://...` or `world://...`."""

    weight: PositiveFloat | None = None
    """Share of the clips drawn, relative to the other weights. Default: by number of clips."""


def _is_half(chroma: str) -> bool:
    return chroma == "half"


class TranscodeConfig(Section):
    """How a raw video is cut and stored by packing."""

    mode: Literal["h264", "copy"] = "h264"
    """`h264` re-encodes (fast to decode while training); `copy` keeps the coded stream."""

    short_side: PositiveInt = 256
    """Pixels of the shorter side after re-encoding; a smaller video is not enlarged."""

    segment: PositiveFloat = 10.0
    """Longest segment in seconds: a longer video is cut into even segments."""

    gop: PositiveInt = 60
    """Frames between key frames."""

    crf: int = Field(23, ge=0, le=51)
    """x264's constant rate factor: lower is better and larger."""

    # Left out where it is half: jobs and datasets from before there was a choice stay the same.
    chroma: Literal["half", "full"] = Field("half", exclude_if=_is_half)
    """Resolution of colour: `half` (4:2:0), as cameras have it and every decoder reads, or `full`
    (4:4:4), for drawn pictures of few pixels, whose coloured edges would blur."""

    shard_bytes: ByteSize = Field(ByteSize(256_000_000), gt=0)
    """Upper bound of one tar, in bytes (`256MB` works too); one clip may exceed it alone."""

    max_duration: PositiveFloat = 3600.0
    """Seconds beyond which a video is quarantined when its stream is copied as a whole."""


def require_one_source(data: Any) -> Any:
    """Exactly one of `source` and `sources` must be given."""
    if isinstance(data, dict) and bool(data.get("source")) == bool(data.get("sources")):
        raise ValueError("give either 'source: URI' or 'sources: [{uri: ..., weight: ...}]'")
    return data


class PackJob(Section):
    """Cut, re-encode and shard raw video with Ray Data."""

    kind: Literal["pack"]
    """The job's kind."""

    name: Name
    """An identity: the same name continues the same packing."""

    storage: str = ".orchestrator"
    """Root of everything the job leaves: a local folder, s3:// or gs://."""

    source: str | None = None
    """A folder (recursive), a manifest, WebDataset tars, `physics://...` or `world://...`."""

    sources: tuple[WeightedSource, ...] = ()
    """Several sources instead of one; each becomes a dataset of its own."""

    encode: TranscodeConfig = TranscodeConfig()
    """How each video is cut and stored."""

    videos_per_unit: Annotated[PositiveInt, FormerName("unit")] = 32
    """Videos per work unit: what is committed, and repeated after a crash, as a whole."""

    bad_limit: float = Field(0.01, ge=0, le=1)
    """Largest share of inputs that may be quarantined before the job stops."""

    cpus: PositiveFloat = 1.0
    """CPU cores per packing task."""

    @model_validator(mode="before")
    @classmethod
    def _one_source(cls, data: Any) -> Any:
        return require_one_source(data)
