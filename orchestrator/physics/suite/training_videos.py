"""Videos to learn from: the suite's situations as they really go, from draws of their own."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.physics.scene import Scene, Trajectory
from orchestrator.physics.suite.quads import BUILDERS, CONTEXT, OUTCOME, SCENARIOS, TRIES
from orchestrator.physics.suite.render_quad import parting, with_bystanders
from orchestrator.physics.suite.scenario import Draft, Lab, mirrored
from orchestrator.randomness import generator

_PARTS = 2**21  # far from the draws of the quadruplets, and from those of the other families


def lesson(
    scenario: str, number: int, *, fps: float, frames: int, seed: int, distractors: int
) -> tuple[Scene, Trajectory]:
    """One possible video of a scenario: its scene, and how things move in it.

    Only familiar shapes, colours, speeds and gravity: those of the `ood` split stay unseen. Which
    context, which side and which counterbalance a video has is drawn too.

    Raises:
        RuntimeError: no draw has its break inside the video (a fault of the scenario).
    """
    # The last part of a scenario's run of parts is kept for this: the same for every attempt.
    first = _PARTS + SCENARIOS.index(scenario) * (TRIES + 1)
    bits = generator(seed, number, "physics", first + TRIES).integers(0, 2, 3)
    coin, turned, context = bool(bits[0]), bool(bits[1]), int(bits[2])
    for part in range(first, first + TRIES):
        rng = generator(seed, number, "physics", part)
        draft = BUILDERS[scenario](Lab(rng, novel=False, coin=coin, frames=frames, fps=fps))
        if draft is None or not _breaks_inside(draft, frames, fps):
            continue
        draft = with_bystanders(rng, mirrored(draft) if turned else draft, distractors)
        return replace(draft.scenes[context], family=f"suite-{scenario}"), draft.runs[context][
            context
        ]
    raise RuntimeError(f"no usable video {number} of '{scenario}' for seed {seed}")


def _breaks_inside(draft: Draft, frames: int, fps: float) -> bool:
    """Whether cause and effect are both in the video. Behind a screen they are by construction."""
    if draft.hidden:
        return True
    t_break = parting(draft.runs)
    return t_break is not None and CONTEXT * fps <= t_break <= frames - OUTCOME * fps
