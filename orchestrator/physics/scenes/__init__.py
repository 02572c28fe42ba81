"""One small file per family of scenes; each draws a `Scene` from a generator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from orchestrator.physics.scene import Scene
from orchestrator.physics.scenes import collision, drop, launch, lever, occlusion, ramp, wall

SCENE_BUILDERS: dict[str, Callable[[np.random.Generator], Scene]] = {
    "drop": drop.build,
    "ramp": ramp.build,
    "lever": lever.build,
    "collision": collision.build,
    "occlusion": occlusion.build,
    "launch": launch.build,
    "wall": wall.build,
}
