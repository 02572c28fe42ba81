"""The `embed` job: the features that a trained model has of every clip of a dataset."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    ByteSize,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from orchestrator.job.config.base import Name, Section
from orchestrator.job.config.former_names import FormerName
from orchestrator.job.config.pack import TranscodeConfig, WeightedSource, require_one_source


class EmbedData(Section):
    """Which video, and which clips of it. Nothing is drawn at random: no crop, no flip."""

    source: str | None = None
    """A folder, manifest, WebDataset tars, packed dataset or `physics://...`."""

    sources: tuple[WeightedSource, ...] = ()
    """Several sources instead of one; every clip of each is embedded once, whatever its weight."""

    frames: PositiveInt | None = None
    """Frames of a clip. Default: as many as the model was trained on."""

    fps: PositiveFloat | None = None
    """Frames per second of a clip. Default: what the model was trained on."""

    clips_per_segment: Annotated[PositiveInt, FormerName("clips")] = 1
    """Clips of a video segment: 1 lies in its middle, several are spaced evenly. Of each frame
    the largest centred square is seen, at the model's size."""

    bad_limit: float = Field(0.01, ge=0, le=1)
    """Largest share of clips that may fail before the job stops. All that fail are listed;
    segments shorter than a clip are listed too and do not count."""

    encode: TranscodeConfig = TranscodeConfig()
    """How raw video is packed before it is embedded."""

    @model_validator(mode="before")
    @classmethod
    def _one_source(cls, data: Any) -> Any:
        return require_one_source(data)


class EmbedScale(Section):
    """How the work is spread. Nothing here changes the features beyond rounding."""

    workers: PositiveInt | None = None
    """Actors that hold the model. Default: one for each GPU, else for each `cpus` of the
    cluster's cores, one left for data."""

    batch: PositiveInt = 16
    """Clips of a forward."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto`: a GPU for each actor where the cluster has any."""

    cpus: PositiveFloat = 1.0
    """CPU cores of an actor: it decodes in so many processes and computes in so many threads."""


class EmbedTrack(Section):
    """Where the model is known."""

    uri: str | None = None
    """MLflow server or database. Default: MLFLOW_TRACKING_URI, else a database in `storage`."""


class EmbedJob(Section):
    """Write the features of every clip of a dataset to Parquet."""

    kind: Literal["embed"]
    """The job's kind."""

    name: Name
    """An identity, and the folder `features/NAME`: the same name continues the same features."""

    storage: str = ".orchestrator"
    """Root of everything the job leaves: a local folder, s3:// or gs://."""

    model: str = Field(min_length=1)
    """models:/NAME@alias, models:/NAME/VERSION, runs:/ID/model or a model's folder."""

    random_init_seed: Annotated[NonNegativeInt | None, FormerName("untrained")] = None
    """Seed of a randomly initialised model of the same shape that is used in the model's place:
    what features of nothing learnt are, for a probe to stand beside."""

    data: EmbedData
    """Which video."""

    pooling: Literal["tokens", "frames", "mean"] = "mean"
    """`tokens`: every space-time patch [tokens, dim]; `frames`: their means over space
    [tubelets, dim]; `mean`: the mean of all [dim]."""

    dtype: Literal["float16", "float32"] = "float16"
    """Type of the numbers that are stored; the model computes in float32."""

    part_bytes: ByteSize = Field(ByteSize(64_000_000), gt=0)
    """Largest Parquet file, in bytes (`64MB` works too): what is committed, and repeated after a
    crash, as a whole. One segment may exceed it alone."""

    scale: EmbedScale = EmbedScale()
    """How the work is spread."""

    track: EmbedTrack = EmbedTrack()
    """Where the model is known."""
