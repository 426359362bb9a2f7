"""The moving subject: a figure of ellipsoids, boxes and a cone on joints, and what it does over time.

All motion is rigid per part and a closed form of time, so points can be followed exactly. A body stands
on the floor with its own axes: x to its right, y down, z the way it faces. Tables count in body heights,
upwards.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor

from cinescene_core.cameras import pose_from, rotation_from_angles

from .dice import Dice
from .materials import CHECKER, COLOURS, PLAIN, STRIPES, Colour, Material, light

TAKE_SECONDS = 6.0
"""A walk lasts this long, then the subject stands; 81 frames at 15 fps take 5.3 seconds."""
ELLIPSOIDS, BLOCKS, CONES = 7, 2, 1
"""Slots of a figure, in this order; a shape leaves some empty."""
NUM_PARTS = ELLIPSOIDS + BLOCKS + CONES
EMPTY = (0.0, -1000.0, 0.0), (0.01, 0.01, 0.01)
"""Centre and half size of an empty slot: far below the floor, where no ray sees it."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One solid of a shape, in body heights."""

    slot: int
    pivot: tuple[float, float, float]
    """The joint: right, up, forward."""
    centre: tuple[float, float, float]
    """The solid's middle seen from the joint."""
    half: tuple[float, float, float]
    role: str = "body"
    """body | head | left_arm | right_arm | left_leg | right_leg | hind_left_leg | hind_right_leg | tail | face."""


_Triple = tuple[float, float, float]


def _part(slot: int, role: str, pivot: _Triple, half: _Triple, centre: _Triple = (0.0, 0.0, 0.0)) -> Part:
    return Part(slot=slot, role=role, pivot=pivot, centre=centre, half=half)


def _limbs(arm: tuple[float, float, float], leg: tuple[float, float, float], thick: float) -> tuple[Part, ...]:
    """Arms and legs hanging from joints at (side, height) with a length."""
    found = []
    for slot, (name, side) in enumerate((("left", -1), ("right", 1)), start=2):
        found.append(_part(slot, f"{name}_arm", (side * arm[0], arm[1], 0), (thick, arm[2], thick), (0, -arm[2], 0)))
    for slot, (name, side) in enumerate((("left", -1), ("right", 1)), start=4):
        half = (1.3 * thick, leg[2], 1.3 * thick)
        found.append(_part(slot, f"{name}_leg", (side * leg[0], leg[1], 0), half, (0, -leg[2], 0)))
    return tuple(found)


_EYES = ((-0.16, 0), (0.16, 1))

FIGURES: Mapping[str, tuple[Part, ...]] = MappingProxyType(
    {
        "person": (
            _part(0, "body", (0, 0.60, 0), (0.14, 0.21, 0.10)),
            _part(1, "head", (0, 0.80, 0), (0.095, 0.105, 0.10), (0, 0.095, 0)),
            *_limbs((0.17, 0.76, 0.17), (0.075, 0.47, 0.235), 0.05),
            _part(6, "face", (0, 0.80, 0), (0.07, 0.03, 0.05), (0, 0.11, 0.07)),
        ),
        "robot": (
            _part(7, "body", (0, 0.58, 0), (0.17, 0.19, 0.12)),
            _part(8, "head", (0, 0.78, 0), (0.12, 0.10, 0.11), (0, 0.11, 0)),
            *_limbs((0.225, 0.74, 0.18), (0.09, 0.42, 0.21), 0.055),
            _part(6, "face", (0, 0.78, 0), (0.085, 0.03, 0.04), (0, 0.125, 0.10)),
        ),
        "dog": (
            _part(0, "body", (0, 0.56, 0), (0.20, 0.21, 0.44)),
            _part(1, "head", (0, 0.72, 0.40), (0.17, 0.17, 0.24), (0, 0.10, 0.10)),
            _part(2, "left_leg", (-0.13, 0.46, 0.28), (0.07, 0.23, 0.07), (0, -0.23, 0)),
            _part(3, "right_leg", (0.13, 0.46, 0.28), (0.07, 0.23, 0.07), (0, -0.23, 0)),
            _part(4, "hind_left_leg", (-0.13, 0.46, -0.28), (0.07, 0.23, 0.07), (0, -0.23, 0)),
            _part(5, "hind_right_leg", (0.13, 0.46, -0.28), (0.07, 0.23, 0.07), (0, -0.23, 0)),
            _part(6, "tail", (0, 0.66, -0.40), (0.045, 0.19, 0.045), (0, 0.16, -0.06)),
        ),
        "snowman": (
            _part(0, "body", (0, 0.24, 0), (0.27, 0.24, 0.27)),
            _part(1, "body", (0, 0.54, 0), (0.20, 0.18, 0.20)),
            _part(2, "left_arm", (-0.19, 0.60, 0), (0.035, 0.15, 0.035), (0, -0.15, 0)),
            _part(3, "right_arm", (0.19, 0.60, 0), (0.035, 0.15, 0.035), (0, -0.15, 0)),
            _part(4, "head", (0, 0.68, 0), (0.14, 0.13, 0.14), (0, 0.10, 0)),
            _part(5, "face", (0, 0.68, 0), (0.03, 0.03, 0.12), (0, 0.10, 0.16)),
            _part(9, "head", (0, 0.68, 0), (0.13, 0.10, 0.13), (0, 0.26, 0)),
        ),
        "ball": (
            _part(0, "body", (0, 0.5, 0), (0.5, 0.5, 0.5)),
            *(_part(5 + slot, "face", (x, 0.62, 0.44), (0.075, 0.09, 0.06)) for x, slot in _EYES),
        ),
        "cube": (
            _part(7, "body", (0, 0.5, 0), (0.5, 0.5, 0.5)),
            *(_part(5 + slot, "face", (x, 0.66, 0.5), (0.08, 0.10, 0.05)) for x, slot in _EYES),
        ),
        "cone": (
            _part(9, "body", (0, 0.5, 0), (0.42, 0.5, 0.42)),
            *(_part(5 + slot, "face", (0.6 * x, 0.52, 0.21), (0.05, 0.06, 0.05)) for x, slot in _EYES),
        ),
    }
)  # fmt: skip
"""The solids of each shape."""

REACH: Mapping[str, float] = MappingProxyType(
    {"person": 0.32, "robot": 0.34, "dog": 0.78, "snowman": 0.36, "ball": 0.5, "cube": 0.71, "cone": 0.42}
)
"""Largest distance of a standing shape from its axis, in body heights."""


@dataclass(frozen=True, eq=False)
class Subjects:
    """The subjects of b places, with m parts each; lengths in metres, angles in radians, rates per second."""

    root: Tensor
    """[b, 3] the floor below the body at time 0, world axes."""
    velocity: Tensor
    """[b, 3] travel, world axes; 0 for those who stay."""
    facing: Tensor
    """[b] yaw of the body's forward axis; pi faces the start camera."""
    spin: Tensor
    """[b] turn about the vertical per second."""
    twist: Tensor
    """[b] how far the body turns to and fro."""
    hop: Tensor
    """[b] height of its jumps."""
    tilt: Tensor
    """[b] how far it rocks from side to side."""
    roll: Tensor
    """[b] rolling about `axle` per second."""
    rate: Tensor
    """[b] phase of every to and fro, radians per second."""
    axle: Tensor
    """[b, 3] body axis that travelling limbs and wheels turn about."""
    hub: Tensor
    """[b] height of the point that rocking and rolling turn about."""
    pivot: Tensor
    """[b, m, 3] joints, body axes."""
    centre: Tensor
    """[b, m, 3] middles, from the joint."""
    half: Tensor
    """[b, m, 3] half sizes."""
    bend_axis: Tensor
    """[b, m, 3] axis of each joint."""
    bend: Tensor
    """[b, m] angle of each joint at rest."""
    swing: Tensor
    """[b, m] how far it swings about that."""
    phase: Tensor
    """[b, m] where in the swing it starts."""
    shadow: Tensor
    """[b] radius of the soft shadow on the floor."""

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return type(self)(*(getattr(self, field.name).to(device) for field in fields(self)))


def subject_poses(subjects: Subjects, time: Tensor) -> Tensor:
    """Where every part is: world_from_part [b, n, m, 4, 4] float64 at times [b, n] in seconds."""
    time = time.double()
    rate, still = subjects.rate[:, None] * time, torch.zeros_like(time)
    walked = time.clamp(0, TAKE_SECONDS)
    root = subjects.root[:, None] + subjects.velocity[:, None] * walked[..., None]
    height = subjects.hub[:, None] + subjects.hop[:, None] * torch.sin(rate / 2).abs()
    yaw = subjects.facing[:, None] + subjects.spin[:, None] * time + subjects.twist[:, None] * torch.sin(rate / 2)
    body = rotation_from_angles(torch.rad2deg(yaw))  # [b, n, 3, 3]
    body = body @ axis_rotation(subjects.axle[:, None], subjects.roll[:, None] * walked)
    forward = subjects.root.new_tensor([0.0, 0.0, 1.0])
    body = body @ axis_rotation(forward, subjects.tilt[:, None] * torch.sin(rate))
    hub = torch.stack([still, -height, still], dim=-1)
    world_from_body = pose_from(body, root + hub)

    # Joints keep swinging while the body travels; afterwards those of a walk rest.
    swing_time = torch.where(subjects.velocity.norm(dim=-1)[:, None] > 0, walked, time)
    angle = subjects.bend[:, None] + subjects.swing[:, None] * torch.sin(
        subjects.rate[:, None, None] * swing_time[..., None] + subjects.phase[:, None]
    )
    turn = axis_rotation(subjects.bend_axis[:, None], angle)  # [b, n, m, 3, 3]
    lowered = subjects.pivot.clone()
    lowered[..., 1] += subjects.hub[:, None]
    place = lowered[:, None] + (turn @ subjects.centre[:, None, :, :, None])[..., 0]
    return world_from_body[:, :, None] @ pose_from(turn, place)


def axis_rotation(axis: Tensor, angle: Tensor) -> Tensor:
    """Rodrigues' formula: [..., 3, 3] rotations about unit axes [..., 3] by radians [...], broadcast."""
    x, y, z = axis.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    sine, cosine = angle.sin()[..., None, None], angle.cos()[..., None, None]
    return torch.eye(3, dtype=angle.dtype, device=angle.device) + sine * cross + (1 - cosine) * (cross @ cross)


def floor_shadow(subjects: Subjects, time: Tensor) -> Tensor:
    """[b, n, 4]: x, z (world), radius and strength of the soft shadow below the subject at times [b, n]."""
    walked = time.double().clamp(0, TAKE_SECONDS)
    root = subjects.root[:, None] + subjects.velocity[:, None] * walked[..., None]
    lift = subjects.hop[:, None] * torch.sin(subjects.rate[:, None] * time / 2).abs()
    radius = subjects.shadow[:, None].expand_as(lift)
    return torch.stack([root[..., 0], root[..., 2], radius, 0.6 / (1 + 2 * lift)], dim=-1)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Where a subject performs."""

    distance: float
    """Metres from the start camera, along its axis."""
    floor: float
    """World y of the floor."""
    height: float
    """Metres that the body is tall."""
    facing_degrees: float
    """Yaw of the start camera relative to the way the subject faces, -45 to 45."""


_PLACE_HOPS = {"jumps": 0.35, "bounces": 0.5}
_RATES = {"jumps": 5.5, "bounces": 6.0, "waves": 7.0, "cheers": 7.0, "dances": 6.0, "nods": 5.0, "wobbles": 4.5}


def hop_height(action: str, height: float) -> float:
    """How high the action lifts a body of that height, in metres."""
    return _PLACE_HOPS.get(action, 0.05 if action == "dances" else 0.0) * height


def make_subject(dice: Dice, shape: str, action: str, stage: Stage) -> dict[str, Any]:
    """Draw one subject; the entries are those of `Subjects`, without the batch."""
    facing = math.pi - math.radians(stage.facing_degrees)
    velocity, start = _travel(dice, action, stage, facing)
    speed = math.hypot(*velocity)
    height, travels = stage.height, speed > 0
    axle = _axle(velocity, facing) if travels else [1.0, 0.0, 0.0]
    rate = min(max(math.tau * speed / (0.7 * height), 4.0), 9.0) if travels else _RATES.get(action, 5.0)
    hub = 0.5 * height if shape == "ball" else 0.0
    sign = dice.choice((-1.0, 1.0))
    rolls = travels and shape == "ball"
    joints = [_joint(part, shape, action, travels) for part in FIGURES[shape]]
    rows: dict[str, list] = {name: [] for name in ("pivot", "centre", "half", "bend_axis", "bend", "swing", "phase")}
    by_slot = {part.slot: (part, joint) for part, joint in zip(FIGURES[shape], joints, strict=True)}
    for slot in range(NUM_PARTS):
        part, (axis, bend, swing, phase) = by_slot.get(slot, (None, ([1.0, 0.0, 0.0], 0.0, 0.0, 0.0)))
        scale = height if part else 1.0
        pivot, half = (part.pivot, part.half) if part else EMPTY
        rows["pivot"].append(_scaled(pivot, scale))
        rows["centre"].append(_scaled(part.centre, scale) if part else [0.0, 0.0, 0.0])
        rows["half"].append([scale * value for value in half])
        rows["bend_axis"].append(axle if axis is None else axis)
        rows["bend"].append(bend)
        rows["swing"].append(swing)
        rows["phase"].append(phase)
    return {
        "root": [start[0], stage.floor, start[1]],
        "velocity": [velocity[0], 0.0, velocity[1]],
        "facing": facing,
        "spin": sign * dice.uniform(1.4, 2.6) if action == "spins" else 0.0,
        "twist": 0.5 if action == "dances" else 0.0,
        "hop": hop_height(action, height),
        "tilt": 0.22 if action == "wobbles" else 0.0,
        "roll": speed / (0.5 * height) if rolls else 0.0,
        "rate": rate * dice.uniform(0.9, 1.1),
        "axle": axle,
        "hub": hub,
        "shadow": (REACH[shape] + 0.12) * height,
        **rows,
    }


def _scaled(up: tuple[float, float, float], scale: float) -> list[float]:
    """Table axes (right, up, forward) to body axes (right, down, forward), in metres."""
    return [scale * up[0], -scale * up[1], scale * up[2]]


def _travel(dice: Dice, action: str, stage: Stage, facing: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Velocity and start on the floor (world x, z): the way leads over the middle of the stage."""
    direction = action.split()[-1]
    ways = {
        "left": (-1.0, 0.0),
        "right": (1.0, 0.0),
        "forward": (math.sin(facing), math.cos(facing)),
        "backward": (-math.sin(facing), -math.cos(facing)),
    }
    way = ways.get(direction, (0.0, 0.0))
    length = dice.uniform(0.55, 0.85) * stage.distance
    # Towards the camera the walk is shorter, and begins further behind.
    before = {"left": 0.5, "right": 0.5, "forward": 0.5, "backward": 0.45}.get(direction, 0.0) * length
    speed = length / TAKE_SECONDS
    return (way[0] * speed, way[1] * speed), (-way[0] * before, stage.distance - way[1] * before)


def _axle(velocity: tuple[float, float], facing: float) -> list[float]:
    """The level axis that a wheel travelling along `velocity` turns about, in body axes.

    Rolling forward takes the top with the travel: about up x velocity, and up is -y.
    """
    speed = math.hypot(*velocity)
    x, z = velocity[0] / speed, velocity[1] / speed
    world = (-z, x)  # (0, -1, 0) x (x, 0, z) = (-z, 0, x)
    return [world[0] * math.cos(facing) - world[1] * math.sin(facing), 0.0,
            world[0] * math.sin(facing) + world[1] * math.cos(facing)]  # fmt: skip


_Joint = tuple[list[float] | None, float, float, float]
_LEG_PHASE = {"left_leg": 0.0, "right_leg": math.pi, "hind_left_leg": math.pi, "hind_right_leg": 0.0}


def _joint(part: Part, shape: str, action: str, travels: bool) -> _Joint:
    """Axis (None is the axle), rest angle, swing and phase of one joint during an action."""
    side = -1.0 if "left" in part.role else 1.0
    if part.role.endswith("_arm"):
        return _arm(part, side, shape, action, travels)
    if part.role.endswith("_leg") and (travels or action == "dances"):
        return (None if travels else [1.0, 0.0, 0.0]), 0.0, 0.5, _LEG_PHASE[part.role]
    if part.role in ("head", "face") and action == "nods" and shape in ("person", "robot", "dog", "snowman"):
        return [1.0, 0.0, 0.0], 0.0, 0.3, 0.0
    if part.role == "tail":
        return [0.0, 0.0, 1.0], 0.0, 0.5, 0.0
    return [1.0, 0.0, 0.0], 0.0, 0.0, 0.0


def _arm(part: Part, side: float, shape: str, action: str, travels: bool) -> _Joint:
    """Hanging arms swing against the legs; raised ones wave about the forward axis."""
    raised = action == "cheers" or (action == "waves" and side > 0)
    if raised:
        return [0.0, 0.0, 1.0], -side * 2.5, 0.35, 0.0 if side > 0 else math.pi
    if travels and shape != "snowman":
        return None, 0.0, 0.45, math.pi if side < 0 else 0.0
    spread = 0.9 if shape == "snowman" else 0.18
    swing = 0.6 if action == "dances" else (0.25 if action == "jumps" else 0.0)
    return [0.0, 0.0, 1.0], -side * (spread + swing), swing, 0.0 if side > 0 else math.pi


def subject_materials(dice: Dice, shape: str, colour: Colour) -> list[Material[float]]:
    """One material per slot; bodies carry the named colour, limbs its shades, and faces show where the front is."""
    rows = [plain_material(colour)] * NUM_PARTS
    for part in FIGURES[shape]:
        shade = {"head": 1.12, "body": 1.0, "tail": 0.8}.get(part.role, 0.72 if "leg" in part.role else 0.86)
        rows[part.slot] = plain_material(tuple(min(shade * code, 0.97) for code in colour))  # type: ignore[arg-type]
        if part.role == "face":
            dark = shape in ("person", "robot")
            rows[part.slot] = plain_material((0.08, 0.08, 0.10) if dark else (0.93, 0.93, 0.90))
            if shape == "snowman":
                rows[part.slot] = plain_material(COLOURS["orange"])
        elif part.role == "body" and shape in ("ball", "cube", "cone", "snowman"):
            dim: Colour = (0.62 * colour[0], 0.62 * colour[1], 0.62 * colour[2])
            pattern = CHECKER if shape == "cube" else STRIPES
            cycles = 1.5 / (2 * part.half[1])
            across = cycles if pattern == CHECKER else dice.choice((0.0, 0.5 * cycles))
            rows[part.slot] = Material(
                float(pattern), across, cycles, 0.2, 0.1, *light(colour), *light(dim), 0.0, 0.0
            )  # fmt: skip
    return rows


def plain_material(colour: Colour) -> Material[float]:
    """One colour everywhere."""
    return Material(float(PLAIN), 0.0, 0.0, 0.0, 0.0, *light(colour), *light(colour), 0.0, 0.0)
