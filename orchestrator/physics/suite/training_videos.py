"""Videos to learn from: the suite's situations as they really go, from draws of their own."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.physics.scene import Scene, Trajectory
from orchestrator.physics.suite.quads import (
    MAX_ATTEMPTS,
    MIN_CONTEXT_SECONDS,
    MIN_OUTCOME_SECONDS,
    SCENARIO_BUILDERS,
    SCENARIOS,
)
from orchestrator.physics.suite.render_quad import first_divergent_frame, with_distractors
from orchestrator.physics.suite.scenario import ScenarioDraft, ScenarioSampler, mirror
from orchestrator.randomness import generator

_PART_OFFSET = 2**21  # far from the draws of the quadruplets, and from those of the other families


def sample_training_scene(
    scenario: str, index: int, *, fps: float, frames: int, seed: int, distractors: int
) -> tuple[Scene, Trajectory]:
    """One possible video of a scenario: its scene, and how things move in it.

    Only familiar shapes, colours, speeds and gravity: those of the `ood` split stay unseen. Which
    context, which side and which counterbalance a video has is drawn too.

    Raises:
        RuntimeError: no draw has its break inside the video (a fault of the scenario).
    """
    # The last part of a scenario's run of parts is kept for this: the same for every attempt.
    first = _PART_OFFSET + SCENARIOS.index(scenario) * (MAX_ATTEMPTS + 1)
    bits = generator(seed, index, "physics", first + MAX_ATTEMPTS).integers(0, 2, 3)
    coin, turned, context = bool(bits[0]), bool(bits[1]), int(bits[2])
    for part in range(first, first + MAX_ATTEMPTS):
        rng = generator(seed, index, "physics", part)
        draft = SCENARIO_BUILDERS[scenario](
            ScenarioSampler(rng, ood=False, counterbalance=coin, frames=frames, fps=fps)
        )
        if draft is None or not _break_is_in_video(draft, frames, fps):
            continue
        draft = with_distractors(rng, mirror(draft) if turned else draft, distractors)
        return replace(draft.scenes[context], family=f"suite-{scenario}"), draft.trajectories[
            context
        ][context]
    raise RuntimeError(f"no usable video {index} of '{scenario}' for seed {seed}")


def _break_is_in_video(draft: ScenarioDraft, frames: int, fps: float) -> bool:
    """Whether cause and effect are both in the video. Behind a screen they are by construction."""
    if draft.break_is_occluded:
        return True
    t_break = first_divergent_frame(draft.trajectories)
    return (
        t_break is not None
        and MIN_CONTEXT_SECONDS * fps <= t_break <= frames - MIN_OUTCOME_SECONDS * fps
    )
