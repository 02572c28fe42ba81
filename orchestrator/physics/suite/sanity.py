"""The sanity tier: what nobody could miss, beside abrupt things that may well happen.

A thing that vanishes, jumps or changes colour in full view must surprise more than a bounce, a
collision, a sudden launch or a thing that goes behind a screen. In one half of a suite the legal
event changes more of the picture, in the other half less: a detector of change has no edge.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from orchestrator.physics.renderer import render
from orchestrator.physics.scene import (
    VIEW,
    Backdrop,
    Colour,
    Scene,
    Screen,
    Solid,
    Thing,
    rectangle,
)
from orchestrator.physics.simulation import run
from orchestrator.physics.suite.scenario import Lab
from orchestrator.randomness import generator

BROKEN = ("vanish", "teleport", "recolour")
LEGAL = ("bounce", "collision", "launch", "occlusion")

Film = npt.NDArray[np.uint8]
# Draws of their own, far from those of the quadruplets and of what is learnt from.
_PARTS = 2**22


@dataclass(frozen=True)
class Sanity:
    """Seven videos of one place, with the same things in it."""

    broken: dict[str, Film]
    """By name, `[T, size, size, 3]`: something impossible in full view."""
    legal: dict[str, Film]
    """Something abrupt that is possible."""
    moment: int
    """First frame that shows that it has happened, in all of them."""


def make_sanity(
    split: str, number: int, *, size: int, fps: float, frames: int, seed: int = 0
) -> Sanity:
    """One set of videos, a pure function of its arguments, which are those of `make_quad`."""
    splits = ("validation", "test", "ood")
    rng = generator(seed, number, "physics", _PARTS + splits.index(split))
    lab = Lab(rng, split == "ood", bool(number & 1), frames, fps)
    stage = _Stage(lab, size)
    films = {name: getattr(stage, name)() for name in BROKEN + LEGAL}
    if number >> 1 & 1:
        films = {name: film[:, :, ::-1].copy() for name, film in films.items()}
    return Sanity(
        {name: films[name] for name in BROKEN},
        {name: films[name] for name in LEGAL},
        stage.moment,
    )


class _Stage:
    """A table seen from above without rails: things come in, and leave."""

    def __init__(self, lab: Lab, size: int) -> None:
        self.lab, self.size = lab, size
        self.backdrop: Backdrop = lab.palette.backdrop()
        self.solid: Colour = lab.palette.solid()
        self.moment = max(2, round(lab.seconds(1.05, 1.35) * lab.fps))
        self.time = (self.moment - 0.5) / lab.fps
        large, small = (0.64, 0.7), (0.34, 0.4)
        # What changes more of the picture: the legal thing where the coin shows heads.
        self.calm = self._body(large if lab.coin else small)
        self.calm_speed = lab.uniform(1.3, 1.6) if lab.coin else lab.uniform(0.6, 0.9)
        self.wild = self._body(small if lab.coin else large)
        self.speed = lab.uniform(1.4, 1.7) if lab.coin else lab.uniform(8.0, 9.0)
        self.lane = lab.uniform(4.0, 6.0)

    def _body(self, size: tuple[float, float]) -> Thing:
        made = self.lab.body(shapes=("ball", "ball", "box", "hexagon"), size=size)
        return replace(made, mass=1.0, restitution=1.0, friction=0.0)

    def _filmed(
        self,
        things: tuple[Thing, ...],
        solids: tuple[Solid, ...] = (),
        screens: tuple[Screen, ...] = (),
        shift: tuple[float, float] = (0.0, 0.0),
    ) -> Film:
        scene = Scene(
            "sanity",
            things,
            solids,
            self.backdrop,
            self.lab.palette.rim,
            screens=screens,
            gravity=0.0,
        )
        poses = run(scene, self.lab.frames, self.lab.fps).poses
        poses[..., :2] += shift
        return render(scene, poses, self.size)[0]

    def _strolling(self) -> Thing:
        """In full view all the time, in the middle of the picture when it happens."""
        speed, y = self.calm_speed, self.lane
        return self._moving(self.calm, VIEW / 2 - speed * self.time, y, speed)

    @staticmethod
    def _moving(made: Thing, x: float, y: float, speed: float) -> Thing:
        return replace(made, pose=(x, y, 0.0), velocity=(speed, 0.0, 0.0))

    def _broken(self, after: Film) -> Film:
        before = self._filmed((self._strolling(),))
        return np.concatenate([before[: self.moment], after[self.moment :]])

    def vanish(self) -> Film:
        """A thing is gone from one frame to the next."""
        return self._broken(self._filmed(()))

    def teleport(self) -> Film:
        """It goes on elsewhere."""
        up = self.lab.uniform(2.4, 3.0) * (1 if self.lane < VIEW / 2 else -1)
        return self._broken(self._filmed((self._strolling(),), shift=(0.0, up)))

    def recolour(self) -> Film:
        """It goes on in another colour."""
        paint = self.lab.palette.thing()
        return self._broken(self._filmed((replace(self._strolling(), colour=paint),)))

    def bounce(self) -> Film:
        """A thing meets a wall, and comes back."""
        face = self.lab.uniform(3.0, 3.6) if not self.lab.coin else self.lab.uniform(5.0, 5.6)
        thick = self.lab.uniform(0.5, 0.9)
        wall = Solid(rectangle(face, 1.0, face + thick, VIEW - 1.0), self.solid, "wall")
        reach = _half_width(self.wild)
        thing = self._moving(
            self.wild, face - reach - self.speed * self.time, self.lane, self.speed
        )
        return self._filmed((thing,), solids=(wall,))

    def collision(self) -> Film:
        """Two things meet, and part."""
        gap, x = _half_width(self.wild), self.lab.uniform(4.6, 5.4)
        off = gap + self.speed * self.time
        other = replace(self.wild, colour=self.lab.palette.thing())
        pair = (
            self._moving(self.wild, x - off, self.lane, self.speed),
            self._moving(other, x + off, self.lane, -self.speed),
        )
        return self._filmed(pair)

    def launch(self) -> Film:
        """A thing at rest is struck, and leaves as fast as the striker came."""
        x = self.lab.uniform(3.0, 3.6) if not self.lab.coin else self.lab.uniform(4.6, 5.4)
        gap = 2 * _half_width(self.wild)
        other = replace(self.wild, colour=self.lab.palette.thing(), role="target")
        pair = (
            self._moving(self.wild, x - gap - self.speed * self.time, self.lane, self.speed),
            self._moving(other, x, self.lane, 0.0),
        )
        return self._filmed(pair)

    def occlusion(self) -> Film:
        """A thing goes behind a screen."""
        left, width = self.lab.uniform(3.0, 3.6), self.lab.uniform(2.4, 3.0)
        screen = Screen(left, 1.2, left + width, VIEW - 1.2, self.lab.palette.screen())
        thing = self._moving(self.wild, left - self.speed * self.time, self.lane, self.speed)
        return self._filmed((thing,), screens=(screen,))


def _half_width(made: Thing) -> float:
    return made.size if made.corners is None else float(made.corners[:, 0].max())
