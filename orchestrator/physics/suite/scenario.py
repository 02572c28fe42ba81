"""What a scenario hands on: two scenes, four motions; and the draws that all scenarios share."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from orchestrator.physics.renderer import OUTLINE_WIDTH, outline_colour
from orchestrator.physics.scene import (
    GRAVITY,
    VIEW_METERS,
    Background,
    Colour,
    RigidBody,
    Scene,
    StaticPolygon,
    Trajectory,
    rectangle_vertices,
)
from orchestrator.physics.scenes.common import (
    GOLDEN_RATIO,
    Palette,
    bottom_offset,
    box_vertices,
    regular_polygon,
    sample_body,
)

Point = tuple[float, float]
QuadTrajectories = tuple[tuple[Trajectory, Trajectory], tuple[Trajectory, Trajectory]]
# Of summed RGB, from 0 to 3: how much more or less is clearly so, what is as good as alike, and by
# how much scenery stands out from the backdrop at the least.
MIN_CONTRAST_DIFFERENCE, MAX_EQUAL_CONTRAST_DIFFERENCE, MIN_PROP_CONTRAST = 0.1, 0.15, 0.5
NUM_COLOUR_CANDIDATES = 256  # colours that are tried
MARK_AREA_SHARES = {"plain": 0.0, "half": 0.5, "stripe": 0.35, "dot": 0.09}  # of the inside


@dataclass(frozen=True)
class ScenarioDraft:
    """A quadruplet before it is drawn."""

    scenes: tuple[Scene, Scene]
    """One per context, with as many things each."""
    trajectories: QuadTrajectories
    """`trajectories[i][j]`: the motion of outcome j in context i.

    A hidden draft is read at i == j only.
    """
    break_is_occluded: bool
    """At the break nothing that tells the contexts apart is seen, so videos are cut and joined."""
    avoid_prop_overlap: bool = False
    """Better drawn again if anything passes before the scenery that contexts do not share."""
    earliest_break_s: float = 0.0
    """Seconds after which a hidden draft may break: the causes have been seen by then."""
    object_per_context: bool = False
    """The one thing of either context is an object of its own (another colour or shape)."""
    prop_centers: tuple[Point | None, Point | None] = (None, None)
    """Centre of the piece of scenery, in metres, that the contexts do not share; None: absent."""


def same_in_both_contexts(first: Trajectory, second: Trajectory) -> QuadTrajectories:
    """The same two motions in either context."""
    return ((first, second), (first, second))


class OODPalette(Palette):
    """Colours that the training world does not have: muted things before strong backdrops."""

    def body_colour(self) -> Colour:
        self.hue = (self.hue + GOLDEN_RATIO) % 1.0
        saturation = self.rng.uniform(0.25, 0.45)
        value = self.rng.uniform(0.6, 1.0) if self.dark else self.rng.uniform(0.3, 0.55)
        return colorsys.hsv_to_rgb(self.hue, saturation, value)

    def static_colour(self) -> Colour:
        value = self.rng.uniform(0.45, 1.0) if self.dark else self.rng.uniform(0.2, 0.6)
        return colorsys.hsv_to_rgb(self.rng.random(), self.rng.uniform(0.3, 0.5), value)

    def sample_background(self) -> Background:
        plain = super().sample_background()
        hue = self.rng.random()
        strong = [
            colorsys.hsv_to_rgb(hue, self.rng.uniform(0.35, 0.5), max(colour))
            for colour in plain.colours
        ]
        return replace(plain, colours=(strong[0], strong[1]))


OOD_SHAPES = ("octagon", "slab", "house")


@dataclass
class ScenarioSampler:
    """The draws of one quad; `ood` ones lie outside of what the training world shows."""

    rng: np.random.Generator
    ood: bool
    counterbalance: bool
    """Counterbalances, over a suite, what a picture statistic could otherwise use."""
    frames: int
    fps: float
    palette: Palette = field(init=False)
    gravity: float = field(init=False, default=GRAVITY)
    speed_factor: float = field(init=False, default=1.0)
    """Events come this much sooner, so things are this much faster."""

    def __post_init__(self) -> None:
        kind = OODPalette if self.ood else Palette
        self.palette = kind.sample(self.rng)
        if self.ood:
            low, high = (0.6, 0.75) if self.rng.random() < 0.5 else (1.3, 1.5)
            self.gravity = GRAVITY * self.uniform(low, high)
            self.speed_factor = self.uniform(1.15, 1.25)

    def uniform(self, low: float, high: float) -> float:
        """A number between two others."""
        return float(self.rng.uniform(low, high))

    def sample_time(self, low: float, high: float) -> float:
        """When something happens, sooner in a novel world."""
        return self.uniform(low, high) / self.speed_factor

    def sample_body(
        self,
        *,
        shapes: tuple[str, ...] = ("ball", "ball", "box"),
        size: tuple[float, float] = (0.5, 0.7),
        restitution: tuple[float, float] = (0.75, 0.92),
        role: str = "mover",
    ) -> RigidBody:
        """A thing at the origin; a novel one that could be a polygon is of a new shape."""
        made = sample_body(
            self.rng,
            self.palette,
            (0.0, 0.0),
            shapes=shapes,
            size=size,
            restitution=restitution,
            friction=(0.1, 0.4),
            role=role,
        )
        return self.with_ood_shape(made) if self.ood and shapes != ("ball",) else made

    def with_ood_shape(self, made: RigidBody) -> RigidBody:
        """The same thing as a polygon that the training world does not have."""
        name = str(self.rng.choice(OOD_SHAPES))
        reach = min(made.size, 0.7)
        if name == "octagon":
            corners = regular_polygon(8, reach)
        elif name == "slab":
            corners = box_vertices(1.8 * reach, 0.8 * reach)
        else:
            corners = np.array([[-0.7, -0.7], [0.7, -0.7], [0.7, 0.2], [0.0, 0.9], [-0.7, 0.2]])
            corners = (corners - [0.0, -0.04]) * reach
        size = float(np.linalg.norm(corners, axis=1).max())
        bounce = min(made.restitution, 0.75)
        marking = "stripe" if made.marking in ("half", "dot") else made.marking
        return replace(
            made, shape=name, corners=corners, size=size, restitution=bounce, marking=marking
        )

    def place_on_ground(
        self, made: RigidBody, x: float, ground: float, speed: float = 0.0
    ) -> RigidBody:
        """`made` on the ground at x: a ball rolls at `speed` (m/s), a polygon slides."""
        spin = -speed / made.size
        if made.corners is not None:
            made, spin = replace(made, friction=self.uniform(0.0, 0.01)), 0.0
        pose = (x, ground + bottom_offset(made) + 0.005, 0.0)
        return replace(made, pose=pose, velocity=(speed, 0.0, spin))

    def sample_background_and_prop_colour(self) -> tuple[Background, Colour]:
        """A backdrop, and the colour of the scenery that contexts do not share.

        What passes in front of that scenery, or touches it, changes fewer pixels than before the
        backdrop if scenery is nearer to the things' colours, as it mostly is. So for one side of
        the coin it lies beyond the backdrop: nearly white on grey, or nearly black.
        """
        backdrop = self.palette.sample_background()
        if not self.counterbalance:
            return backdrop, self.palette.static_colour()
        dark = self.palette.dark

        def shifted(part: float) -> float:
            return part + 0.12 if dark else 0.85 * part

        first, second = (
            (shifted(red), shifted(green), shifted(blue)) for red, green, blue in backdrop.colours
        )
        value = self.uniform(0.0, 0.05) if dark else self.uniform(0.95, 1.0)
        paint = colorsys.hsv_to_rgb(self.rng.random(), self.uniform(0.0, 0.06), value)
        return replace(backdrop, colours=(first, second)), paint

    def has_counterbalanced_contrast(
        self, made: RigidBody, solid: Colour, backdrop: Background
    ) -> bool:
        """Whether a thing and its outline stand out more before `solid` than before the backdrop.

        Or less, as the coin says; clearly, in either case.
        """
        behind = np.mean(backdrop.colours, axis=0)
        shares, colours = _area_shares_and_colours(made, self.palette.outline_brightness)
        more = np.abs(colours - np.asarray(solid)).sum(axis=1)
        more -= np.abs(colours - behind).sum(axis=1)
        more *= 1 if self.counterbalance else -1
        return bool(shares @ more > MIN_CONTRAST_DIFFERENCE and more[0] > MIN_CONTRAST_DIFFERENCE)

    def equal_contrast_colour(self, made: RigidBody, backdrop: Background) -> Colour | None:
        """A colour before which a thing stands out as much as before the backdrop, or None.

        Where only an impossible cell has the thing pass in front of scenery, more contrast there
        and less are both a change, which deceives who weighs what moves (`centroid`): no coin
        balances that.
        """
        behind = np.mean(backdrop.colours, axis=0)
        shares, colours = _area_shares_and_colours(made, self.palette.outline_brightness)
        before = np.abs(colours - behind).sum(axis=1)
        draws = self.rng.uniform((0.0, 0.0, 0.0), (1.0, 0.7, 1.0), (NUM_COLOUR_CANDIDATES, 3))
        paints = np.array([colorsys.hsv_to_rgb(*draw) for draw in draws])
        change = np.abs(np.abs(colours[None] - paints[:, None]).sum(axis=2) - before) @ shares
        change[np.abs(paints - behind).sum(axis=1) < MIN_PROP_CONTRAST] = np.inf
        best = int(change.argmin())
        if change[best] > MAX_EQUAL_CONTRAST_DIFFERENCE:
            return None
        red, green, blue = paints[best].tolist()
        return red, green, blue

    def sample_table_rails(self) -> tuple[StaticPolygon, ...]:
        """Four rails seen from above."""
        rail, colour = self.uniform(0.3, 0.6), self.palette.static_colour()
        low, high = -5.0, VIEW_METERS + 5.0
        return (
            StaticPolygon(
                rectangle_vertices(low, low, high, rail), colour, "near rail", friction=0.3
            ),
            StaticPolygon(
                rectangle_vertices(low, VIEW_METERS - rail, high, high),
                colour,
                "far rail",
                friction=0.3,
            ),
            StaticPolygon(
                rectangle_vertices(low, low, rail, high), colour, "left rail", friction=0.3
            ),
            StaticPolygon(
                rectangle_vertices(VIEW_METERS - rail, low, high, high),
                colour,
                "right rail",
                friction=0.3,
            ),
        )


def _area_shares_and_colours(
    made: RigidBody, rim: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Shares `[3]` of a thing's picture, and their colours `[3, 3]`: outline, fill and mark."""
    inner = (1 - OUTLINE_WIDTH / made.size) ** 2
    mark = inner * MARK_AREA_SHARES[made.marking]
    shares = np.array([1 - inner, inner - mark, mark])
    edge = outline_colour(made.colour, rim)
    return shares, np.array([edge, made.colour, made.mark_colour], np.float64)


def floor_without_walls(palette: Palette, floor: float) -> tuple[StaticPolygon, ...]:
    """A floor that goes on outside the picture, without side walls."""
    return (
        StaticPolygon(
            rectangle_vertices(-20.0, -6.0, VIEW_METERS + 20.0, floor),
            palette.static_colour(),
            "floor",
        ),
    )


def mirror(draft: ScenarioDraft) -> ScenarioDraft:
    """The same quad with left and right exchanged."""
    flip = np.array([-1.0, 1, -1, -1, 1, -1])
    shift = np.array([VIEW_METERS, 0.0, 0, 0, 0, 0])
    (a, b), (c, d) = (
        (replace(run, poses=run.poses * flip + shift) for run in row) for row in draft.trajectories
    )
    first, second = (None if p is None else (VIEW_METERS - p[0], p[1]) for p in draft.prop_centers)
    return replace(
        draft,
        scenes=(draft.scenes[0].mirrored(), draft.scenes[1].mirrored()),
        trajectories=((a, b), (c, d)),
        prop_centers=(first, second),
    )
