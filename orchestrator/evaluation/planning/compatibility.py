"""Whether a model can act in a world: what it is, and what it takes."""

from __future__ import annotations

import re

import numpy as np
import torch
from gymnasium.spaces import Box

from orchestrator.environments.base import World
from orchestrator.environments.registry import build_world
from orchestrator.errors import RequestError
from orchestrator.evaluation.evaluable import made_by
from orchestrator.evaluation.planning.policies import moment
from orchestrator.jepa.model_files import WorldModel, load_folder
from orchestrator.job.config.planning import Planning
from orchestrator.planning.base import Bounds, Dynamics
from orchestrator.tracking.model_uri import model_folder

SIZE = 64
"""Pixels of a picture, where neither job nor model says it."""


def load_dynamics(model: str, server: str) -> Dynamics:
    """The model that a job names.

    Raises:
        RequestError: there is no such model, or it does not know what actions do.
    """
    if re.fullmatch(r"[\w.]+:[\w.]+", model):
        made = made_by(model)
        if not isinstance(made, Dynamics):
            missing = [one for one in _OFFERED if not hasattr(made, one)]
            raise RequestError(
                f"{model} cannot be acted with: it has no {', '.join(missing)}",
                where="model",
                mend="follow orchestrator.planning.base: Dynamics",
            )
        return made
    with model_folder(model, tracking=server) as folder:
        loaded = load_folder(folder)
    if not loaded.config.job["data"].get("act") or not isinstance(loaded, Dynamics):
        raise RequestError(
            f"{model} was trained without actions: it cannot say what they lead to",
            where="model",
            mend="name a model whose job has data.act, such as jobs/robotics/two_rooms.yaml",
        )
    return loaded


_OFFERED = ("block", "history", "encode", "predict")


def picture_size(planning: Planning, model: Dynamics) -> int:
    """Pixels of the pictures that the model is shown."""
    own = model.clip.size if isinstance(model, WorldModel) else SIZE
    return planning.size or own


def build_restorable(name: str, size: int) -> World:
    """A world that can be put into a start.

    Raises:
        RequestError: there is no such world, or it cannot be restored.
    """
    world = build_world(name, size)
    if not world.restorable:
        raise RequestError(
            f"{name} cannot be put into a state: there are no starts and goals to be held out",
            where="planning.world",
            mend="name a world that restores states: two-rooms, push-t, lever, drop",
        )
    return world


def bounds_of(world: World, block: int) -> Bounds:
    """The world's action space, once for each control step of a model step.

    Raises:
        RequestError: it has no bounds.
    """
    space = world.action_space
    if not isinstance(space, Box) or len(space.shape) != 1 or not space.is_bounded():
        raise RequestError(
            f"actions of {type(world).__name__} are {space}: nothing to draw plans from",
            where="planning.world",
            mend="name a world whose actions are a box of finite bounds",
        )
    low, high = (torch.from_numpy(np.tile(side, block)).float() for side in (space.low, space.high))
    return Bounds(low, high, block)


def check_fit(model: Dynamics, world: World) -> None:
    """Refuse a model that was not made for such a world.

    Raises:
        RequestError: its control steps, its actions or its pictures are others.
    """
    if isinstance(model, WorldModel):
        _check_trained(model, model.block, world)
    width = len(bounds_of(world, model.block).low)
    world.restore(world.draw(np.random.default_rng(0)))
    with torch.inference_mode():
        z = moment(model, world.render()[None])
        try:
            ahead = model.predict(
                z, torch.zeros(1, 2, width), torch.from_numpy(world.state)[None, None]
            )
        except (RuntimeError, ValueError) as error:
            raise RequestError(
                f"it cannot take {model.block} actions of {width // model.block} numbers as one"
                f" step: {str(error).splitlines()[0]}",
                where="model",
                mend="name a model of this world",
            ) from None
    wanted = (1, 2 * z.shape[1], z.shape[2])
    if tuple(ahead.shape) != wanted:
        raise RequestError(
            f"from one moment and two actions it predicts {list(ahead.shape)}, not {list(wanted)}",
            where="model",
            mend="follow orchestrator.planning.base: Dynamics",
        )


def _check_trained(model: WorldModel, block: int, world: World) -> None:
    act, fps = model.config.job["data"]["act"], model.clip.fps
    if act["actions"] != "given":
        raise RequestError(
            "its actions are changes of state, and this world is told what to do",
            where="model",
            mend="train with data.act.actions: given",
        )
    rate = block * fps
    if abs(rate - world.rate) > 1e-6 * world.rate:
        raise RequestError(
            f"it knows {block} control steps from frame to frame at {fps:g} frames a second,"
            f" {rate:g} a second; the world has {world.rate:g}",
            where="model",
            mend=f"train with data.fps={world.rate / block:g} on videos of this world",
        )
    numbers, space = len(act["statistics"]["action_mean"]), world.action_space
    if space.shape != (numbers,):
        raise RequestError(
            f"its actions have {numbers} numbers, the world's {space.shape}",
            where="model",
            mend="name a model of this world",
        )
