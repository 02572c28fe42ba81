"""The `data` of a train job: which video and pictures, and how clips are cut from them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from orchestrator.job.config.actions import Actions
from orchestrator.job.config.base import CustomComponent, Range, Section, component_tag, field_error
from orchestrator.job.config.former_names import FormerName, with_present_keys
from orchestrator.job.config.pack import TranscodeConfig, WeightedSource, require_one_source


class Bucket(NamedTuple):
    """The shape of a clip. A step is of one bucket, so that all its clips are of one shape."""

    frames: int
    size: int

    def __str__(self) -> str:
        return f"{self.frames} frames of {self.size} pixels"


class ClipSpec(NamedTuple):
    """How clips are cut from a source."""

    frames: int
    fps: float
    size: int

    @property
    def bucket(self) -> Bucket:
        """Their shape."""
        return Bucket(self.frames, self.size)

    @property
    def span_s(self) -> float:
        """Seconds from a clip's first frame to its last; a video must last longer."""
        return (self.frames - 1) / self.fps


def _not_given(value: object) -> bool:
    return value is None


class MixedSource(WeightedSource):
    """One source of a training's mixture; a folder may be one of pictures. What a source does not
    say of its clips, `data` does."""

    # Left out of a job's plain data where they are not given: jobs of before have no such keys,
    # and keep their fingerprints.
    frames: PositiveInt | None = Field(None, exclude_if=_not_given)
    """Frames of a clip of this source. Pictures: `model.tubelet`, one moment. Default:
    `data.frames`."""

    fps: PositiveFloat | None = Field(None, exclude_if=_not_given)
    """Frames per second of a clip of this source. Default: `data.fps`."""

    size: PositiveInt | None = Field(None, exclude_if=_not_given)
    """Pixels of the square that the model sees of this source. Default: `data.size`."""


class CropFlip(Section):
    """A random resized crop and a horizontal flip, the same for every frame of a clip."""

    kind: Literal["crop-flip"] = "crop-flip"
    """The built-in augmentation."""

    scale: Range = (0.3, 1.0)
    """Area of the crop as a share of the frame."""

    aspect: Range = (0.75, 1.35)
    """Width over height of the crop before it is resized to a square."""

    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a mirror image. 0 where left and right differ."""

    @model_validator(mode="after")
    def _inside_the_frame(self) -> CropFlip:
        if self.scale[1] > 1:
            raise ValueError(f"scale {self.scale[1]} is more than the whole frame (1.0)")
        return self


NO_AUGMENTATION = {"scale": (1.0, 1.0), "aspect": (1.0, 1.0), "flip": 0.0}
"""`CropFlip` that changes nothing: the frame, or its centred square where it is none."""

AnyAugment = Annotated[
    Annotated[CropFlip, Tag("crop-flip")] | Annotated[CustomComponent, Tag("custom")],
    Discriminator(lambda v: component_tag(v, "crop-flip")),
]


class Data(Section):
    """Which video, how a clip is cut from it, and what comes with it."""

    source: str | None = None
    """A folder of videos or of pictures, a manifest, WebDataset tars, a packed dataset,
    `physics://...` or `world://...`."""

    sources: tuple[MixedSource, ...] = ()
    """A weighted mixture instead of one source. Sources whose clips are of one shape (`frames`,
    `size`) are a bucket; where there are several, each step is of one, by the weights."""

    frames: PositiveInt = 16
    """Frames of a clip."""

    fps: PositiveFloat = 4.0
    """Frames per second of a clip; frames are chosen by timestamp."""

    size: PositiveInt = 256
    """Pixels of the square that the model sees."""

    augment: AnyAugment = CropFlip()
    """What is done to a clip before the model sees it. Beside `act`: the whole frame, since a
    mirrored or cropped picture would no longer be the one that the actions lead to."""

    actions: Annotated[Actions | None, FormerName("act")] = None
    """Actions and states beside the frames. Default: none are read."""

    epoch: PositiveInt | None = None
    """Positions that count as one epoch of a mixture. Default: the number of clips."""

    window: PositiveInt = 16
    """Shards that are shuffled together."""

    bad_limit: float = Field(0.01, ge=0, le=1)
    """Largest share of clips that may fail to decode before the job stops."""

    decode_threads: NonNegativeInt = 0
    """Decoding threads per worker; 0: the cores that the worker may use."""

    prefetch: PositiveInt = 2
    """Steps of decoded batches kept ready per worker."""

    encode: TranscodeConfig = TranscodeConfig()
    """How raw video is packed before training."""

    @model_validator(mode="before")
    @classmethod
    def _one_source(cls, data: Any) -> Any:
        return require_one_source(data)

    @model_validator(mode="before")
    @classmethod
    def _disable_augmentation_for_actions(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = with_present_keys(cls, data)
        if data.get("actions") is None:
            return data
        augment = data.get("augment", {})
        if isinstance(augment, dict) and component_tag(augment, "crop-flip") == "crop-flip":
            return {**data, "augment": {**NO_AUGMENTATION, **augment}}
        return data

    @model_validator(mode="after")
    def _check_augmentation_with_actions(self) -> Data:
        augment = self.augment
        if self.actions is None or not isinstance(augment, CropFlip):
            return self
        if augment.flip:
            text = "mirrors the picture and not the actions"
            raise field_error("data.augment.flip", f"flip {text}; write 0")
        for key, value in (("scale", augment.scale), ("aspect", augment.aspect)):
            if value != (1.0, 1.0):
                text = f"{list(value)} moves the picture and not the states"
                raise field_error(
                    f"data.augment.{key}", f"{text}; write [1, 1] beside data.actions"
                )
        return self

    @property
    def clip_specs(self) -> tuple[ClipSpec, ...]:
        """How clips are cut from each source, in their order."""
        own = self.sources or (MixedSource(uri=self.source or ""),)
        return tuple(
            ClipSpec(one.frames or self.frames, one.fps or self.fps, one.size or self.size)
            for one in own
        )

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """The shapes of clips, each once, in the order of the sources that have them first."""
        if not any(source.frames or source.size for source in self.sources):
            return (self.default_clip_spec.bucket,)  # a plan of a thousand sizes asks as often
        return tuple(dict.fromkeys(spec.bucket for spec in self.clip_specs))

    @property
    def default_clip_spec(self) -> ClipSpec:
        """How evaluation, export and health look at video."""
        return ClipSpec(self.frames, self.fps, self.size)

    @property
    def bucket_shares(self) -> dict[Bucket, float]:
        """The share of the steps that is of each bucket; where there are several, every source has
        a weight."""
        if len(self.buckets) == 1:
            return {self.buckets[0]: 1.0}
        shares = dict.fromkeys(self.buckets, 0.0)
        weights = [source.weight or 0.0 for source in self.sources]
        for spec, weight in zip(self.clip_specs, weights, strict=True):
            shares[spec.bucket] += weight / sum(weights)
        return shares
