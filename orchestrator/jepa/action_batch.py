"""What was done in a clip, as an objective and a model read it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class ActionBatch(NamedTuple):
    """Beside the T frames of each of B clips, in the data's own units (`job/config/actions.py`).

    Normalising is the model's: it knows `data.actions.statistics`, and so does what is exported.
    """

    actions: Tensor
    """float32 [B, T - 1, D]: what leads from one frame to the next. `given`: the rows of the
    `data.actions.block` control steps in between, side by side; `change`: of the state."""

    states: Tensor
    """float32 [B, T, S]: at each frame; S is 0 where the data has none."""
