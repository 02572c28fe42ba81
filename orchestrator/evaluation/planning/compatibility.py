"""Whether a model can act in a world: what it is, and what it takes."""

from __future__ import annotations

import re

import numpy as np
import torch
from gymnasium.spaces import Box

from orchestrator.environments.base import Environment
from orchestrator.environments.registry import build_environment
from orchestrator.errors import RequestError
from orchestrator.evaluation.evaluable import instantiate_import_path
from orchestrator.evaluation.planning.policies import encode_images
from orchestrator.jepa.model_files import WorldModel, load_folder
from orchestrator.job.config.planning import Planning
from orchestrator.planning.base import ActionBounds, PlannableModel
from orchestrator.tracking.model_uri import model_folder

DEFAULT_IMAGE_SIZE = 64
"""Pixels of a picture, where neither job nor model says it."""


def load_dynamics(model: str, server: str) -> PlannableModel:
    """The model that a job names.

    Raises:
        RequestError: there is no such model, or it does not know what actions do.
    """
    if re.fullmatch(r"[\w.]+:[\w.]+", model):
        made = instantiate_import_path(model)
        if not isinstance(made, PlannableModel):
            missing = [one for one in _REQUIRED_ATTRIBUTES if not hasattr(made, one)]
            raise RequestError(
                f"{model} cannot be acted with: it has no {', '.join(missing)}",
                where="model",
                hint="follow orchestrator.planning.base: PlannableModel",
            )
        return made
    with model_folder(model, tracking_uri=server) as folder:
        loaded = load_folder(folder)
    if not loaded.config.job["data"].get("actions") or not isinstance(loaded, PlannableModel):
        raise RequestError(
            f"{model} was trained without actions: it cannot say what they lead to",
            where="model",
            hint="name a model whose job has data.actions, such as jobs/robotics/two_rooms.yaml",
        )
    return loaded


_REQUIRED_ATTRIBUTES = ("block", "history", "encode", "predict")


def image_size(planning: Planning, model: PlannableModel) -> int:
    """Pixels of the pictures that the model is shown."""
    own = model.clip.size if isinstance(model, WorldModel) else DEFAULT_IMAGE_SIZE
    return planning.size or own


def build_restorable_environment(name: str, size: int) -> Environment:
    """A world that can be put into a start.

    Raises:
        RequestError: there is no such world, or it cannot be restored.
    """
    world = build_environment(name, size)
    if not world.can_set_state:
        raise RequestError(
            f"{name} cannot be put into a state: there are no starts and goals to be held out",
            where="planning.environment",
            hint="name a world that restores states: two-rooms, push-t, lever, drop",
        )
    return world


def action_bounds(world: Environment, block: int) -> ActionBounds:
    """The world's action space, once for each control step of a model step.

    Raises:
        RequestError: it has no bounds.
    """
    space = world.action_space
    if not isinstance(space, Box) or len(space.shape) != 1 or not space.is_bounded():
        raise RequestError(
            f"actions of {type(world).__name__} are {space}: nothing to draw plans from",
            where="planning.environment",
            hint="name a world whose actions are a box of finite bounds",
        )
    low, high = (torch.from_numpy(np.tile(side, block)).float() for side in (space.low, space.high))
    return ActionBounds(low, high, block)


def check_compatible(model: PlannableModel, world: Environment) -> None:
    """Refuse a model that was not made for such a world.

    Raises:
        RequestError: its control steps, its actions or its pictures are others.
    """
    if isinstance(model, WorldModel):
        _check_training_data(model, model.block, world)
    width = len(action_bounds(world, model.block).low)
    world.set_state(world.sample_state(np.random.default_rng(0)))
    with torch.inference_mode():
        z = encode_images(model, world.render()[None])
        try:
            ahead = model.predict(
                z, torch.zeros(1, 2, width), torch.from_numpy(world.state)[None, None]
            )
        except (RuntimeError, ValueError) as error:
            raise RequestError(
                f"it cannot take {model.block} actions of {width // model.block} numbers as one"
                f" step: {str(error).splitlines()[0]}",
                where="model",
                hint="name a model of this world",
            ) from None
    wanted = (1, 2 * z.shape[1], z.shape[2])
    if tuple(ahead.shape) != wanted:
        raise RequestError(
            f"from one moment and two actions it predicts {list(ahead.shape)}, not {list(wanted)}",
            where="model",
            hint="follow orchestrator.planning.base: PlannableModel",
        )


def _check_training_data(model: WorldModel, block: int, world: Environment) -> None:
    act, fps = model.config.job["data"]["actions"], model.clip.fps
    if act["representation"] != "given":
        raise RequestError(
            "its actions are changes of state, and this world is told what to do",
            where="model",
            hint="train with data.actions.representation: given",
        )
    rate = block * fps
    if abs(rate - world.control_rate) > 1e-6 * world.control_rate:
        raise RequestError(
            f"it knows {block} control steps from frame to frame at {fps:g} frames a second,"
            f" {rate:g} a second; the world has {world.control_rate:g}",
            where="model",
            hint=f"train with data.fps={world.control_rate / block:g} on videos of this world",
        )
    numbers, space = len(act["statistics"]["action_mean"]), world.action_space
    if space.shape != (numbers,):
        raise RequestError(
            f"its actions have {numbers} numbers, the world's {space.shape}",
            where="model",
            hint="name a model of this world",
        )
