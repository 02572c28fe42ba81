"""What can be judged: any world model that encodes a clip and predicts the rest of it.

`jepa.model_files.WorldModel` is one. A model of your own is named by its import path
(`model: package.module:Name`); Name, called without arguments, gives an object that follows
`Evaluable`.
"""

from __future__ import annotations

import inspect
import re
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from orchestrator.errors import RequestError
from orchestrator.jepa.model_files import ClipShape, load_folder
from orchestrator.job.loading.custom_components import import_component
from orchestrator.tracking.model_uri import model_folder


@runtime_checkable
class Evaluable(Protocol):
    """A world model as the judge sees it: pixels in, features and predicted features out."""

    @property
    def clip(self) -> ClipShape:
        """The clip that the model looks at, and its grid of tokens."""

    @property
    def masks(self) -> int:
        """Ways in which it can be asked for what is hidden, at least 1."""

    def encode(self, video: Tensor, seen: int | None = None) -> Tensor:
        """Features float32 [B, tokens, dim] of clips, uint8 [B, T, size, size, 3].

        With `seen`, those of the first so many frames, made without the others.
        """

    def foresee(self, features: Tensor, mask: int = 0) -> Tensor:
        """From the features of the first frames [B, n, dim] to what the other tokens will be,
        [B, N - n, width], as `compared` gives it."""

    def compared(self, features: Tensor, video: Tensor) -> Tensor:
        """What predictions are compared with, [B, n, width]: of `video`, whose features these are.

        Most often the features themselves, or a norm of them.
        """

    def untaught(self, seed: int) -> Evaluable:
        """A model of the same shape that has learnt nothing: what this one has to beat."""


@runtime_checkable
class PredictsNext(Protocol):
    """A judgeable model that in one pass predicts after every moment of a clip, from it and all
    before it. It may offer this beside `foresee`."""

    @property
    def horizons(self) -> int:
        """Moments ahead that are predicted after each; 0: it does not read so."""

    def ahead(self, features: Tensor) -> Tensor:
        """From a clip's features [B, N, dim] to what follows each of its moments,
        [B, moments, area, horizons, width], as `compared` gives it."""


@runtime_checkable
class DecodesToPixels(Protocol):
    """A model that reads forwards and whose features can be turned into pictures again, so that a
    report shows what it expected. It may offer this beside `ahead`."""

    def pictured(self, features: Tensor) -> Tensor | None:
        """From features of whole moments [B, n, dim], as `compared` gives them, to uint8
        [B, T, size, size, 3]; None: they cannot be seen."""


def load_evaluable(model: str, server: str) -> Evaluable:
    """The model that a job names.

    Raises:
        RequestError: there is no such model, or it cannot be judged.
    """
    if re.fullmatch(r"[\w.]+:[\w.]+", model):
        made = instantiate_import_path(model)
        if not isinstance(made, Evaluable):
            missing = [name for name in _REQUIRED_METHODS if not hasattr(made, name)]
            raise RequestError(
                f"{model} cannot be judged: it has no {', '.join(missing)}",
                where="model",
                hint="follow orchestrator.evaluation.evaluable: Evaluable",
            )
        return made
    with model_folder(model, tracking_uri=server) as folder:
        return load_folder(folder)


def instantiate_import_path(model: str) -> Any:
    """What the object behind an import path gives when it is called.

    Raises:
        RequestError: it cannot be imported, or not be called without arguments.
    """
    part = import_component(model)
    try:
        inspect.signature(part).bind()
    except (TypeError, ValueError) as error:
        raise RequestError(
            f"{model} cannot be called without arguments: {error}",
            where="model",
            hint="name a class or function that makes the model by itself",
        ) from None
    return part()


_REQUIRED_METHODS = ("clip", "masks", "encode", "foresee", "compared", "untaught")
