"""The model section: what is trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from orchestrator.errors import suggest
from orchestrator.job.config.base import CustomComponent, Section, component_tag, field_error

# V-JEPA 2 (arXiv 2506.09985), table of architectures; tiny and small are the DeiT shapes.
ENCODER_SIZES: dict[str, dict[str, float]] = {
    "vit-tiny": {"dim": 192, "depth": 12, "heads": 3},
    "vit-small": {"dim": 384, "depth": 12, "heads": 6},
    "vit-base": {"dim": 768, "depth": 12, "heads": 12},
    "vit-large": {"dim": 1024, "depth": 24, "heads": 16},
    "vit-huge": {"dim": 1280, "depth": 32, "heads": 16},
    "vit-giant": {"dim": 1408, "depth": 40, "heads": 22, "mlp_ratio": 48 / 11},
    "vit-gigantic": {"dim": 1664, "depth": 48, "heads": 26, "mlp_ratio": 64 / 13},
}


Rope = Literal["tiled", "paired"]


def check_heads(dim: int, heads: int) -> None:
    """Heads divide the width, and a head is wide enough for three rotary axes."""
    if dim % heads:
        raise ValueError(f"dim {dim} does not divide by heads {heads}")
    if dim // heads < 6:
        raise ValueError(
            f"a head of {dim // heads} channels is too narrow for 3D RoPE (6 at least)"
        )


def encoder_preset(name: str, where: str) -> dict[str, Any]:
    if ":" in name:
        return {"kind": name}
    if name not in ENCODER_SIZES:
        raise field_error(where, f"unknown encoder '{name}'; {suggest(name, list(ENCODER_SIZES))}")
    return dict(ENCODER_SIZES[name])


class ViTConfig(Section):
    """A video vision transformer with rotary positions. A bare name picks a published size."""

    kind: Literal["vit"] = "vit"
    """The built-in encoder; an import path names your own."""

    dim: PositiveInt = 192
    """Width of a token."""

    depth: PositiveInt = 12
    """Transformer blocks."""

    heads: PositiveInt = 3
    """Attention heads; must divide `dim`."""

    mlp_ratio: PositiveFloat = 4.0
    """Width of the MLP over `dim`."""

    attention: Literal["clip", "moment"] = "clip"
    """What a token attends to: its whole clip, or the tokens of its own moment (tubelet) only."""

    @model_validator(mode="after")
    def _heads_divide(self) -> ViTConfig:
        check_heads(self.dim, self.heads)
        return self


class ConvEncoderConfig(Section):
    """A convolutional encoder, moment by moment: each stage halves a picture, until a token stands
    for `model.patch` pixels. Its tokens see their neighbours' pixels, so nothing can be masked: it
    is for objectives that predict forwards. In small worlds it learns to see sooner than a `vit`.
    """

    kind: Literal["conv"] = "conv"
    """The built-in convolutional encoder."""

    dim: PositiveInt = Field(64, multiple_of=8)
    """Width of a token, and of the last stage."""

    width: PositiveInt = Field(16, multiple_of=8)
    """Channels of the first stage; they double with each, up to `dim`."""

    blocks: PositiveInt = 1
    """Residual blocks of every stage but the first."""

    def channels(self, patch: int) -> tuple[int, ...]:
        """Of every stage; `patch` is a power of two."""
        stages = patch.bit_length() - 1
        return (*(min(self.width * 2**i, self.dim) for i in range(stages - 1)), self.dim)


class PCAEncoderConfig(Section):
    """Linear codes of patches: the principal components of the data's own pixels, found before the
    first step and never trained. What is predicted cannot collapse then, and a clip costs next to
    nothing to encode. For `objective.kind: dynamics`.
    """

    kind: Literal["codes"] = "codes"
    """The encoder that is found, not trained."""

    dim: PositiveInt = 32
    """Numbers of a code; at most those of a patch's pixels."""

    clips: PositiveInt = 256
    """Clips of the training in which codes are found."""


class PredictorConfig(Section):
    """The narrow transformer that predicts the targets' features from the context's."""

    depth: PositiveInt = 12
    """Transformer blocks."""

    dim: PositiveInt = 384
    """Width of a token inside the predictor."""

    heads: PositiveInt = 12
    """Attention heads; must divide `dim`."""

    mlp_ratio: PositiveFloat = 4.0
    """Width of the MLP over `dim`."""

    @model_validator(mode="after")
    def _heads_divide(self) -> PredictorConfig:
        check_heads(self.dim, self.heads)
        return self


AnyEncoder = Annotated[
    Annotated[ViTConfig, Tag("vit")]
    | Annotated[ConvEncoderConfig, Tag("conv")]
    | Annotated[PCAEncoderConfig, Tag("codes")]
    | Annotated[CustomComponent, Tag("custom")],
    Discriminator(lambda v: component_tag(v, "vit")),
]


def encodes_timesteps_separately(encoder: AnyEncoder) -> bool:
    """Whether a built-in encoder reads every moment by itself."""
    return isinstance(encoder, ConvEncoderConfig | PCAEncoderConfig) or (
        isinstance(encoder, ViTConfig) and encoder.attention == "moment"
    )


class Model(Section):
    """Encoder, predictor and how a clip becomes tokens. A bare string means `from`."""

    encoder: AnyEncoder = ViTConfig()
    """A size (`vit-tiny` ... `vit-gigantic`), a `vit`, `conv` or `codes` with its own numbers, or
    your own part."""

    patch: PositiveInt = 16
    """Side of a patch in pixels; must divide `data.size`."""

    tubelet: PositiveInt = 2
    """Frames per token; must divide `data.frames`."""

    levels: tuple[PositiveInt, ...] = ()
    """Blocks of the encoder, counted from 1, whose outputs the predictor reads and predicts, each
    behind a norm of its own; the last is the deepest. Default: that one alone."""

    predictor: PredictorConfig = PredictorConfig()
    """The predictor's shape."""

    rope: Rope = "tiled"
    """How an axis's rotary frequencies lie in a head: `tiled` as V-JEPA 2 trained, `paired` as
    V-JEPA 2.1 corrected it. Weights of one make no sense with the other."""

    start: str | None = Field(None, alias="from")
    """A model to start from: `models:/NAME@alias` or a folder with its files."""

    @model_validator(mode="before")
    @classmethod
    def _shorthands(cls, data: Any) -> Any:
        if isinstance(data, str):
            return {"from": data}
        if isinstance(data, dict) and isinstance(data.get("encoder"), str):
            return {**data, "encoder": encoder_preset(data["encoder"], "model.encoder")}
        return data

    @model_validator(mode="after")
    def _check_feature_layers(self) -> Model:
        if not self.levels:
            return self
        if not isinstance(self.encoder, ViTConfig):
            raise field_error("model.levels", f"an encoder '{self.encoder.kind}' has no levels")
        if list(self.levels) != sorted(set(self.levels)) or self.levels[-1] != self.encoder.depth:
            text = f"{list(self.levels)} does not rise to the last block"
            raise field_error("model.levels", f"{text}, {self.encoder.depth}")
        return self

    @model_validator(mode="after")
    def _stages_halve(self) -> Model:
        if isinstance(self.encoder, ConvEncoderConfig) and (
            self.patch < 2 or self.patch & (self.patch - 1)
        ):
            raise field_error(
                "model.patch", f"{self.patch} is no power of two, and stages halve a picture"
            )
        return self
