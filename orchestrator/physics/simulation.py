"""Simulate a scene with pymunk in small fixed steps: poses and contacts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pymunk

from orchestrator.physics.scene import Contact, RigidBody, Scene, Trajectory

STEPS_PER_SECOND = 480
SOLVER_ITERATIONS = 20
MIN_CONTACT_SPEED = 0.05  # m/s: slower contacts are the jitter of resting bodies
COLLISION_SLOP = 0.002  # metres of overlap that the solver tolerates, far below a pixel


def simulate_motion(scene: Scene, frames: int, fps: float) -> Trajectory:
    """Simulate a scene; frame t shows time t / fps."""
    space = pymunk.Space()
    space.gravity = (0.0, -scene.gravity)
    space.iterations = SOLVER_ITERATIONS
    space.collision_slop = COLLISION_SLOP
    log = _ContactLog()
    bodies = _add_bodies(space, scene, log)
    space.on_collision(begin=log.on_contact)
    steps = int(np.ceil(STEPS_PER_SECOND / fps))
    step = 1 / (fps * steps)
    poses = np.empty((frames, len(bodies), 6))
    for frame in range(frames):
        if frame:
            for number in range(steps):
                log.time = (frame - 1) / fps + number * step
                space.step(step)
        for row, body in zip(poses[frame], bodies, strict=True):
            row[:] = (*body.position, body.angle, *body.velocity, body.angular_velocity)
    return Trajectory(poses, log.contacts, fps)


def _add_bodies(space: pymunk.Space, scene: Scene, log: _ContactLog) -> list[pymunk.Body]:
    bodies: list[pymunk.Body] = []
    # In pymunk, shapes of the same group do not collide.
    groups = {name: number + 1 for number, (_, name) in enumerate(scene.ignored_contacts)}
    for solid in scene.solids:
        shape = pymunk.Poly(space.static_body, [tuple(c) for c in solid.vertices])
        shape.elasticity, shape.friction = 1.0, solid.friction
        shape.filter = pymunk.ShapeFilter(group=groups.get(solid.name, 0))
        log.register(shape, solid.name)
        space.add(shape)
    passes = {thing: groups[name] for thing, name in scene.ignored_contacts}
    for number, thing in enumerate(scene.things):
        body, shape = _make_body(thing)
        shape.filter = pymunk.ShapeFilter(group=passes.get(number, 0))
        log.register(shape, f"thing {number}")
        space.add(body, shape)
        bodies.append(body)
    for number, anchor in scene.pivot_anchors:
        space.add(pymunk.PivotJoint(space.static_body, bodies[number], anchor, (0, 0)))
    for number, anchor in scene.pendulum_anchors:
        space.add(pymunk.PinJoint(space.static_body, bodies[number], anchor, (0, 0)))
    return bodies


def _make_body(thing: RigidBody) -> tuple[pymunk.Body, pymunk.Shape]:
    body = pymunk.Body(thing.mass, thing.moment_of_inertia)
    x, y, body.angle = thing.pose
    body.position = (x, y)
    vx, vy, body.angular_velocity = thing.velocity
    body.velocity = (vx, vy)
    shape: pymunk.Shape
    if thing.corners is None:
        shape = pymunk.Circle(body, thing.size)
    else:
        shape = pymunk.Poly(body, [tuple(c) for c in thing.corners])
    shape.elasticity, shape.friction = thing.restitution, thing.friction
    return body, shape


class _ContactLog:
    """Records when two shapes begin to touch, and their approach speed."""

    def __init__(self) -> None:
        self.time = 0.0
        self.contacts: list[Contact] = []
        self._names: dict[pymunk.Shape, str] = {}

    def register(self, shape: pymunk.Shape, name: str) -> None:
        self._names[shape] = name

    def on_contact(self, arbiter: pymunk.Arbiter, space: pymunk.Space, data: Any) -> None:
        first, second = arbiter.shapes
        touch = arbiter.contact_point_set
        point = touch.points[0].point_a
        closing = first.body.velocity_at_world_point(point) - second.body.velocity_at_world_point(
            point
        )
        speed = float(closing.dot(touch.normal))
        if speed < MIN_CONTACT_SPEED:
            return
        names = self._names[first], self._names[second]
        self.contacts.append(Contact(round(self.time, 4), *names, round(speed, 3)))
