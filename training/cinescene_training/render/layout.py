"""How a place is laid out: the paths of every move first, then a room around them, then furniture beside them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cinescene_core.trajectory.presets import PRESETS

from .captions import ACTIONS, MOST_BOXES, SHAPES
from .dice import Dice
from .subjects import FIGURES, REACH, hop_height

MOVES: tuple[str, ...] = tuple(name for name in PRESETS if name != "static")
"""The moves of the paper's supplement A."""
START_YAW_DEGREES = 45.0
"""The start camera stands within this angle of the subject's front (supplement A, Initial Viewpoint)."""
CLEARANCE = 0.3
"""Metres that every camera path keeps from floor, ceiling, walls and furniture, at least."""
FLOOR_CLEARANCE = 0.15
MOST_PILLARS = 2
_PASSING = 0.35
"""Metres between a subject's top and a camera that passes over it."""
_TALL = {"person": 1.8, "robot": 1.7, "dog": 0.9, "snowman": 1.5, "ball": 1.1, "cube": 1.0, "cone": 1.4}
_SMALLEST = 0.45


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Numbers of one place, in metres and degrees. Room axes: origin on the floor in the middle, y down."""

    distance: float
    """From the start camera to the subject."""
    camera_height: float
    start_yaw_degrees: float
    """Of the start camera, relative to the way the subject faces."""
    amounts: Mapping[str, float]
    """How far each move goes, degrees or metres: uniform in the range of supplement A."""
    shape: str
    action: str
    subject_height: float
    room_yaw_degrees: float
    """Yaw of the room's z axis in the world."""
    camera: tuple[float, float]
    """Start camera in the room: x, z."""
    half_extents: tuple[float, float]
    """Half width (x) and half depth (z)."""
    height: float
    boxes: tuple[tuple[float, float, float, float, float, float], ...]
    """x, z, half x, half z, height, yaw in degrees of each."""
    pillars: tuple[tuple[float, float, float, float], ...]
    """x, z, radius, height of each."""


def make_layout(dice: Dice, kind: str) -> Layout:
    """Draw a layout in which all moves are possible, each over its whole range.

    Amounts are drawn first and never cut: the subject distance, the ceiling and the walls follow
    from them, and a camera that travels past the subject passes over a subject low enough.
    """
    shares = {name: dice.uniform(PRESETS[name].minimum, PRESETS[name].maximum) for name in MOVES}
    camera_height = dice.uniform(1.2, 1.75)
    sink = max(math.sin(math.radians(shares["arc_down"])), shares["pedestal_down"])
    rise = max(math.sin(math.radians(shares["arc_up"])), shares["pedestal_up"])
    # As far as the sinking moves allow: the nearer the subject, the less of it a level camera sees.
    farthest = min((camera_height - FLOOR_CLEARANCE) / sink, 3.2)
    distance = dice.uniform(0.85, 1.0) * farthest
    shape, action, subject_height = _cast(dice, shares["dolly_in"] * distance, distance, camera_height)
    amounts = {name: share * (distance if PRESETS[name].relative else 1.0) for name, share in shares.items()}

    paths = _ways(amounts, distance)
    turn = dice.uniform(-180, 180)
    needed = np.concatenate([paths, _circle((0.0, distance), 0.45 * distance + 0.8)])
    inside = _turned(needed, turn)
    low, high = inside.min(0) - CLEARANCE - 0.2, inside.max(0) + CLEARANCE + 0.2
    low -= [dice.uniform(0, 1.2), dice.uniform(0, 1.2)]
    high += [dice.uniform(0, 1.2), dice.uniform(0, 1.2)]
    middle, half = (low + high) / 2, (high - low) / 2
    top = camera_height + rise * distance + CLEARANCE
    height = max(top, dice.uniform(2.5, 3.2) if kind == "room" else dice.uniform(2.2, 3.4)) + dice.uniform(0, 0.3)

    # What must stay free: the paths, and all between the start camera and the subject.
    view = np.stack([np.zeros(40), np.linspace(0, distance, 40)], axis=1)
    camera = -middle
    free = _turned(np.concatenate([paths, view]), turn) + camera
    stage = _turned(np.array([[0.0, distance]]), turn)[0] + camera
    boxes = _boxes(dice, half, free, stage, 0.45 * distance + 0.6, camera)
    pillars = _pillars(dice, half, free, stage, 0.45 * distance + 0.6, camera, boxes, height, kind)
    return Layout(
        distance=distance, camera_height=camera_height, amounts=amounts, shape=shape, action=action,
        start_yaw_degrees=dice.uniform(-START_YAW_DEGREES, START_YAW_DEGREES), subject_height=subject_height,
        room_yaw_degrees=turn, camera=(float(camera[0]), float(camera[1])),
        half_extents=(float(half[0]), float(half[1])), height=height, boxes=tuple(boxes), pillars=tuple(pillars),
    )  # fmt: skip


def _cast(dice: Dice, dolly: float, distance: float, camera_height: float) -> tuple[str, str, float]:
    """Choose shape, action and height, low enough where the camera will travel past the subject."""
    shape = dice.choice(SHAPES)
    action = dice.choice(ACTIONS[shape])
    tallest = _TALL[shape] * dice.uniform(0.75, 1.0)
    # The walk comes up to 0.45 of the distance nearer; its body and the camera need room besides.
    reach = REACH[shape] * tallest + (0.45 * distance if action.split()[-1] in ("forward", "backward") else 0.0)
    if dolly > distance - reach - CLEARANCE:
        lift = 1 + hop_height(action, 1.0)
        tallest = max(min(tallest, (camera_height - _PASSING) / (lift * _top(shape, action))), _SMALLEST)
    return shape, action, tallest


def _top(shape: str, action: str) -> float:
    """Highest point of a figure during an action, in body heights."""
    raised = action in ("waves", "cheers", "dances")
    arms = [part.pivot[1] + 2 * part.half[1] for part in FIGURES[shape] if part.role.endswith("arm") and raised]
    return max([1.05, *arms])


def _ways(amounts: Mapping[str, float], distance: float) -> np.ndarray:
    """Points [n, 2] (x, z in start camera axes) along the ground plan of every move, a few centimetres apart."""
    steps = np.linspace(0, 1, 81)
    found = [np.zeros((1, 2))]
    for name in MOVES:
        preset = PRESETS[name]
        amount = amounts[name]
        if preset.kind == "move":
            found.append(amount * steps[:, None] * np.array([preset.direction[0], preset.direction[2]]))
        elif preset.kind == "arc":
            yaw, pitch = (math.radians(amount * sign) * steps for sign in preset.direction[:2])
            # Ry(yaw) Rx(pitch) applied to the way back from the subject.
            found.append(
                np.stack(
                    [-distance * np.sin(yaw) * np.cos(pitch), distance - distance * np.cos(yaw) * np.cos(pitch)], 1
                )
            )
    return np.concatenate(found)


def _circle(centre: tuple[float, float], radius: float) -> np.ndarray:
    angle = np.linspace(0, math.tau, 48, endpoint=False)
    return np.array(centre) + radius * np.stack([np.sin(angle), np.cos(angle)], 1)


def _turned(points: np.ndarray, yaw_degrees: float) -> np.ndarray:
    """World ground points in the axes of a room whose z axis has that yaw."""
    c, s = math.cos(math.radians(yaw_degrees)), math.sin(math.radians(yaw_degrees))
    return np.stack([c * points[:, 0] - s * points[:, 1], s * points[:, 0] + c * points[:, 1]], axis=1)


def footprint_distance(points: np.ndarray, box: tuple[float, ...]) -> np.ndarray:
    """Level distance of points [n, 2] from a box (x, z, half x, half z, height, yaw); 0 inside."""
    local = _turned(points - np.array(box[:2]), box[5])
    return np.hypot(*np.maximum(np.abs(local) - np.array(box[2:4]), 0).T)


def _boxes(
    dice: Dice, half: np.ndarray, free: np.ndarray, stage: np.ndarray, stage_radius: float, camera: np.ndarray
) -> list[tuple[float, float, float, float, float, float]]:
    """Boxes on the floor, clear of paths, stage, camera and each other."""
    wanted = 1 + dice.integer(MOST_BOXES)
    found: list[tuple[float, float, float, float, float, float]] = []
    for _ in range(40 * wanted):
        if len(found) == wanted:
            break
        wide, deep = dice.uniform(0.18, 0.6), dice.uniform(0.18, 0.6)
        tall = dice.uniform(0.3, 1.1) if dice.chance(0.75) else dice.uniform(1.3, 2.1)
        yaw = dice.choice((0.0, dice.uniform(-45, 45)))
        outer = math.hypot(wide, deep)
        x, z = (dice.uniform(-1, 1) * (float(side) - outer - 0.02) for side in half)
        box = (x, z, wide, deep, tall, yaw)
        near = any(math.hypot(x - other[0], z - other[1]) < outer + math.hypot(*other[2:4]) + 0.1 for other in found)
        if near or footprint_distance(free, box).min() < CLEARANCE + 0.05:
            continue
        if footprint_distance(stage[None], box)[0] < stage_radius or footprint_distance(camera[None], box)[0] < 0.8:
            continue
        found.append(box)
    return found


def _pillars(
    dice: Dice, half: np.ndarray, free: np.ndarray, stage: np.ndarray, stage_radius: float, camera: np.ndarray,
    boxes: list[tuple[float, float, float, float, float, float]], height: float, kind: str,
) -> list[tuple[float, float, float, float]]:  # fmt: skip
    """Round pillars, clear of the same; they carry the ceiling, or end in the air of a courtyard."""
    found: list[tuple[float, float, float, float]] = []
    for _ in range(dice.integer(MOST_PILLARS + 1)):
        for _ in range(20):
            radius = dice.uniform(0.12, 0.26)
            at = np.array([dice.uniform(-1, 1) * (side - radius - 0.15) for side in half])
            clear = np.hypot(*(free - at).T).min() > radius + CLEARANCE + 0.05
            clear &= math.hypot(*(stage - at)) > stage_radius + radius and math.hypot(*(camera - at)) > 1.0 + radius
            clear &= all(footprint_distance(at[None], box)[0] > radius + 0.1 for box in boxes)
            clear &= all(math.hypot(at[0] - other[0], at[1] - other[1]) > 1.2 for other in found)
            if clear:
                top = height + 0.5 if kind == "room" else dice.uniform(1.4, 3.0)
                found.append((float(at[0]), float(at[1]), radius, top))
                break
    return found
