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
    VIEW_METERS,
    Background,
    Colour,
    Occluder,
    RigidBody,
    Scene,
    StaticPolygon,
    rectangle_vertices,
)
from orchestrator.physics.simulation import simulate_motion
from orchestrator.physics.suite.scenario import ScenarioSampler
from orchestrator.randomness import generator

IMPOSSIBLE_EVENTS = ("vanish", "teleport", "recolour")
POSSIBLE_EVENTS = ("bounce", "collision", "launch", "occlusion")

Video = npt.NDArray[np.uint8]
# Draws of their own, far from those of the quadruplets and of what is learnt from.
_PART_OFFSET = 2**22


@dataclass(frozen=True)
class SanityVideos:
    """Seven videos of one place, with the same things in it."""

    impossible: dict[str, Video]
    """By name, `[T, size, size, 3]`: something impossible in full view."""
    possible: dict[str, Video]
    """Something abrupt that is possible."""
    event_frame: int
    """First frame that shows that it has happened, in all of them."""


def make_sanity_videos(
    split: str, index: int, *, size: int, fps: float, frames: int, seed: int = 0
) -> SanityVideos:
    """One set of videos, a pure function of its arguments, which are those of `make_quad`."""
    splits = ("validation", "test", "ood")
    rng = generator(seed, index, "physics", _PART_OFFSET + splits.index(split))
    lab = ScenarioSampler(rng, split == "ood", bool(index & 1), frames, fps)
    stage = _SanityRenderer(lab, size)
    films = {name: getattr(stage, name)() for name in IMPOSSIBLE_EVENTS + POSSIBLE_EVENTS}
    if index >> 1 & 1:
        films = {name: film[:, :, ::-1].copy() for name, film in films.items()}
    return SanityVideos(
        {name: films[name] for name in IMPOSSIBLE_EVENTS},
        {name: films[name] for name in POSSIBLE_EVENTS},
        stage.moment,
    )


class _SanityRenderer:
    """A table seen from above without rails: things come in, and leave."""

    def __init__(self, lab: ScenarioSampler, size: int) -> None:
        self.lab, self.size = lab, size
        self.backdrop: Background = lab.palette.sample_background()
        self.solid: Colour = lab.palette.static_colour()
        self.moment = max(2, round(lab.sample_time(1.05, 1.35) * lab.fps))
        self.time = (self.moment - 0.5) / lab.fps
        large, small = (0.64, 0.7), (0.34, 0.4)
        # What changes more of the picture: the legal thing where the coin shows heads.
        self.calm = self._body(large if lab.counterbalance else small)
        self.calm_speed = lab.uniform(1.3, 1.6) if lab.counterbalance else lab.uniform(0.6, 0.9)
        self.wild = self._body(small if lab.counterbalance else large)
        self.speed = lab.uniform(1.4, 1.7) if lab.counterbalance else lab.uniform(8.0, 9.0)
        self.lane = lab.uniform(4.0, 6.0)

    def _body(self, size: tuple[float, float]) -> RigidBody:
        made = self.lab.sample_body(shapes=("ball", "ball", "box", "hexagon"), size=size)
        return replace(made, mass=1.0, restitution=1.0, friction=0.0)

    def _render(
        self,
        things: tuple[RigidBody, ...],
        solids: tuple[StaticPolygon, ...] = (),
        screens: tuple[Occluder, ...] = (),
        shift: tuple[float, float] = (0.0, 0.0),
    ) -> Video:
        scene = Scene(
            "sanity",
            things,
            solids,
            self.backdrop,
            self.lab.palette.outline_brightness,
            screens=screens,
            gravity=0.0,
        )
        poses = simulate_motion(scene, self.lab.frames, self.lab.fps).poses
        poses[..., :2] += shift
        return render(scene, poses, self.size)[0]

    def _visible_body(self) -> RigidBody:
        """In full view all the time, in the middle of the picture when it happens."""
        speed, y = self.calm_speed, self.lane
        return self._with_motion(self.calm, VIEW_METERS / 2 - speed * self.time, y, speed)

    @staticmethod
    def _with_motion(made: RigidBody, x: float, y: float, speed: float) -> RigidBody:
        return replace(made, pose=(x, y, 0.0), velocity=(speed, 0.0, 0.0))

    def _splice_at_event(self, after: Video) -> Video:
        before = self._render((self._visible_body(),))
        return np.concatenate([before[: self.moment], after[self.moment :]])

    def vanish(self) -> Video:
        """A thing is gone from one frame to the next."""
        return self._splice_at_event(self._render(()))

    def teleport(self) -> Video:
        """It goes on elsewhere."""
        up = self.lab.uniform(2.4, 3.0) * (1 if self.lane < VIEW_METERS / 2 else -1)
        return self._splice_at_event(self._render((self._visible_body(),), shift=(0.0, up)))

    def recolour(self) -> Video:
        """It goes on in another colour."""
        paint = self.lab.palette.body_colour()
        return self._splice_at_event(self._render((replace(self._visible_body(), colour=paint),)))

    def bounce(self) -> Video:
        """A thing meets a wall, and comes back."""
        face = (
            self.lab.uniform(3.0, 3.6)
            if not self.lab.counterbalance
            else self.lab.uniform(5.0, 5.6)
        )
        thick = self.lab.uniform(0.5, 0.9)
        wall = StaticPolygon(
            rectangle_vertices(face, 1.0, face + thick, VIEW_METERS - 1.0), self.solid, "wall"
        )
        reach = _half_width(self.wild)
        thing = self._with_motion(
            self.wild, face - reach - self.speed * self.time, self.lane, self.speed
        )
        return self._render((thing,), solids=(wall,))

    def collision(self) -> Video:
        """Two things meet, and part."""
        gap, x = _half_width(self.wild), self.lab.uniform(4.6, 5.4)
        off = gap + self.speed * self.time
        other = replace(self.wild, colour=self.lab.palette.body_colour())
        pair = (
            self._with_motion(self.wild, x - off, self.lane, self.speed),
            self._with_motion(other, x + off, self.lane, -self.speed),
        )
        return self._render(pair)

    def launch(self) -> Video:
        """A thing at rest is struck, and leaves as fast as the striker came."""
        x = (
            self.lab.uniform(3.0, 3.6)
            if not self.lab.counterbalance
            else self.lab.uniform(4.6, 5.4)
        )
        gap = 2 * _half_width(self.wild)
        other = replace(self.wild, colour=self.lab.palette.body_colour(), role="target")
        pair = (
            self._with_motion(self.wild, x - gap - self.speed * self.time, self.lane, self.speed),
            self._with_motion(other, x, self.lane, 0.0),
        )
        return self._render(pair)

    def occlusion(self) -> Video:
        """A thing goes behind a screen."""
        left, width = self.lab.uniform(3.0, 3.6), self.lab.uniform(2.4, 3.0)
        screen = Occluder(
            left, 1.2, left + width, VIEW_METERS - 1.2, self.lab.palette.occluder_colour()
        )
        thing = self._with_motion(self.wild, left - self.speed * self.time, self.lane, self.speed)
        return self._render((thing,), screens=(screen,))


def _half_width(made: RigidBody) -> float:
    return made.size if made.corners is None else float(made.corners[:, 0].max())
