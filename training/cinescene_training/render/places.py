"""Places from seeds: a closed room or an open courtyard, its surfaces, lights, furniture and subject, as tensors."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from cinescene_core.cameras import rotation_from_angles
from cinescene_core.checks import check_choice

from .captions import KINDS, MOST_BOXES, SUBJECT_COLOURS, action_caption, caption, place_caption
from .dice import Dice
from .layout import MOST_PILLARS, Layout, make_layout
from .materials import (
    COLOURS,
    DOOR,
    FLOORS,
    MARBLE,
    PAINTINGS,
    PLAIN,
    STRIPES,
    TEXTURES,
    WINDOW,
    Colour,
    Material,
    light,
    make_material,
    material_table,
    varied,
)
from .subjects import EMPTY, NUM_PARTS, Stage, Subjects, make_subject, subject_materials

FACES = ("right", "left", "floor", "ceiling", "front", "back")
"""Sides of a room, by its own axes: +x, -x, +y, -y, +z, -z."""
PANELS_PER_FACE = 2
FIRST_BOX = len(FACES)
FIRST_PILLAR = FIRST_BOX + MOST_BOXES
FIRST_PART = FIRST_PILLAR + MOST_PILLARS
"""Where in the material table, and among the surfaces that rays meet, each group starts."""
NUM_SOLIDS = MOST_BOXES + MOST_PILLARS + NUM_PARTS
_TENSORS = (
    "room_from_world", "size", "unit_from_room", "half", "panels", "materials", "lights", "ambient", "sky",
)  # fmt: skip
_NO_PANEL = (0.0, 0.0, -1.0, -1.0)
_NO_MATERIAL = Material(*[0.0] * len(Material._fields))
_Rect = tuple[float, float, float, float]
_Panel = tuple[_Rect, Material[float]]
# What each purpose draws from a stream of its own, so that a change to one leaves the others as they were.
_LAYOUT, _SURFACES, _LIGHTS, _SUBJECT = range(4)


@dataclass(frozen=True, eq=False)
class Places:
    """b places. World axes are the start camera's: the start pose is the identity and looks along +z.

    Room axes have their origin on the floor, in the middle, y down. Lengths are metres.
    """

    seeds: tuple[int, ...]
    kind: str
    """room | courtyard."""
    layouts: tuple[Layout, ...]
    captions: tuple[str, ...]
    """Subject, action and place in words."""
    action_captions: tuple[str, ...]
    """Subject and action alone."""
    place_captions: tuple[str, ...]
    """The place without its subject."""
    subject_colours: tuple[str, ...]
    room_from_world: Tensor
    """[b, 4, 4] float64: a turn about the vertical and a shift."""
    size: Tensor
    """[b, 3] half width, height, half depth."""
    unit_from_room: Tensor
    """[b, k + p, 3, 4] room axes to those in which a box is the cube from -1 to 1, and a pillar has its top at
    y = 0 and radius 1. Those not there lie far below the floor."""
    half: Tensor
    """[b, k + p, 3] half sizes: metres per unit of those axes."""
    panels: Tensor
    """[b, faces, panels, 4] middle and half sizes along each face; half sizes of -1 where there is none."""
    materials: Tensor
    """[b, columns, rows]: faces, boxes, pillars, parts of the subject, then panels."""
    lights: Tensor
    """[b, 2, 7] position (room), light, 1 / range squared: a lamp's light halves at its range."""
    ambient: Tensor
    """[b, 3] light from everywhere."""
    sky: Tensor
    """[b, 10] zenith, horizon, direction to the sun (room), and 1 where there is no ceiling."""
    subjects: Subjects

    def __len__(self) -> int:
        return len(self.seeds)

    def to(self, device: torch.device | str) -> Self:
        """The same places on another device."""
        moved = {name: getattr(self, name).to(device) for name in (*_TENSORS, "subjects")}
        return dataclasses.replace(self, **moved)


def sample_places(seeds: Sequence[int], kind: str = "room") -> Places:
    """Make a place from each seed. The same seed gives the same numbers on every machine, in any company.

    Args:
        seeds: one or more, each 0 or more (`place_seed`).
        kind: room (closed) or courtyard (open to the sky).

    Raises:
        ValueError: no seed, a negative one, or an unknown kind.
    """
    check_choice("kind of place", kind, KINDS)
    if not seeds:
        raise ValueError("sample_places got no seed; give one per place, for example from `place_seed`.")
    made = [_make_place(seed, kind) for seed in seeds]
    texts = ("layout", "caption", "action_caption", "place_caption", "subject_colour")
    layouts, captions, actions, places, colours = (tuple(entry[name] for entry in made) for name in texts)
    stacked = {name: torch.stack([entry[name] for entry in made]) for name in _TENSORS}
    subjects = Subjects(
        *(
            torch.tensor([entry["subject"][field.name] for entry in made], dtype=torch.float64)
            for field in fields(Subjects)
        )
    )
    return Places(
        seeds=tuple(seeds), kind=kind, layouts=layouts, captions=captions, action_captions=actions,
        place_captions=places, subject_colours=colours, subjects=subjects, **stacked,
    )  # fmt: skip


def _make_place(seed: int, kind: str) -> dict:
    number = KINDS.index(kind)
    layout = make_layout(Dice(seed, 10 * number + _LAYOUT), kind)
    surfaces = Dice(seed, 10 * number + _SURFACES)
    front = front_face(layout)
    textures, colours, faces = _face_materials(surfaces, front)
    panels, panel_materials = _panels(surfaces, layout)
    furniture = [*_box_materials(surfaces, layout), *_pillar_materials(surfaces, layout)]
    unit_from_room, half = furniture_axes(layout)
    dice = Dice(seed, 10 * number + _SUBJECT)
    colour = dice.choice([name for name in SUBJECT_COLOURS if name != colours[front]])
    stage = Stage(
        distance=layout.distance, floor=layout.camera_height, height=layout.subject_height,
        facing_degrees=layout.start_yaw_degrees,
    )  # fmt: skip
    parts = subject_materials(dice, layout.shape, COLOURS[colour])
    lights, ambient, sky = _lighting(Dice(seed, 10 * number + _LIGHTS), layout, kind)
    where = place_caption(colours[front], textures[front], kind, len(layout.boxes))
    what = action_caption(colour, layout.shape, layout.action)
    return {
        "layout": layout,
        "caption": caption(what, where),
        "action_caption": what,
        "place_caption": where,
        "subject_colour": colour,
        "room_from_world": room_from_world(layout),
        "size": torch.tensor([layout.half_extents[0], layout.height, layout.half_extents[1]], dtype=torch.float32),
        "unit_from_room": unit_from_room.float(),
        "half": half.float(),
        "panels": torch.tensor(panels, dtype=torch.float32),
        "materials": material_table([*faces, *furniture, *parts, *panel_materials]),
        "lights": torch.tensor(lights, dtype=torch.float32),
        "ambient": torch.tensor(ambient, dtype=torch.float32),
        "sky": torch.tensor(sky, dtype=torch.float32),
        "subject": make_subject(dice, layout.shape, layout.action, stage),
    }


def room_from_world(layout: Layout) -> Tensor:
    """[4, 4] float64: start camera axes to room axes."""
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = rotation_from_angles(-layout.room_yaw_degrees)
    matrix[:3, 3] = torch.tensor([layout.camera[0], -layout.camera_height, layout.camera[1]], dtype=torch.float64)
    return matrix


def front_face(layout: Layout) -> int:
    """The wall in the middle of the start camera's picture, furniture aside: an index into `FACES`."""
    yaw = math.radians(layout.room_yaw_degrees)
    x, z = -math.sin(yaw), math.cos(yaw)  # the start camera's forward axis, in the room
    to_x = (math.copysign(layout.half_extents[0], x) - layout.camera[0]) / (x or 1e-12)
    to_z = (math.copysign(layout.half_extents[1], z) - layout.camera[1]) / (z or 1e-12)
    return (0 if x > 0 else 1) if to_x < to_z else (4 if z > 0 else 5)


def _face_materials(dice: Dice, front: int) -> tuple[dict[int, str], dict[int, str], list[Material[float]]]:
    """Four walls unlike each other in pattern and colour, a floor and a ceiling."""
    walls = (0, 1, 4, 5)
    textures = dict(zip(walls, dice.sample(tuple(TEXTURES), 4), strict=True))
    colours = dict(zip(walls, dice.sample(tuple(COLOURS), 4), strict=True))
    rows = {face: make_material(dice, TEXTURES[textures[face]], varied(dice, COLOURS[colours[face]])) for face in walls}
    floor = dice.choice([name for name in COLOURS if name != colours[front]])
    rows[2] = make_material(dice, dice.choice(FLOORS), _muted(varied(dice, COLOURS[floor])), scale=0.9)
    rows[3] = make_material(dice, dice.choice((PLAIN, STRIPES, PLAIN)), varied(dice, (0.86, 0.85, 0.82)))
    return textures, colours, [rows[face] for face in range(len(FACES))]


def _muted(colour: Colour, share: float = 0.35) -> Colour:
    """The colour with some of its grey."""
    grey = sum(colour) / 3
    red, green, blue = (code + share * (grey - code) for code in colour)
    return red, green, blue


def _panels(dice: Dice, layout: Layout) -> tuple[list[list[_Rect]], list[Material[float]]]:
    """Doors, windows and paintings, one in each half of a wall at most; a rug, a skylight."""
    rects, rows = [], []
    for face in range(len(FACES)):
        found: list[_Panel] = []
        if face in (0, 1, 4, 5):
            half = layout.half_extents[1] if face in (0, 1) else layout.half_extents[0]
            sides = dice.sample((-1, 1), 2)
            found.append(_wall_panel(dice, dice.choice(("door", "window", "painting", "painting")), half, sides[0]))
            if dice.chance(0.7):
                found.append(_wall_panel(dice, dice.choice(("window", "painting", "painting")), half, sides[1]))
        elif face == 2 and dice.chance(0.65):
            found.append(_rug(dice, layout))
        found += [(_NO_PANEL, _NO_MATERIAL)] * (PANELS_PER_FACE - len(found))
        rects.append([rect for rect, _ in found])
        rows += [row for _, row in found]
    return rects, rows


def _wall_panel(dice: Dice, what: str, half: float, side: int) -> _Panel:
    """A door, window or painting on one half of a wall: its middle along the wall and y, half sizes, and looks."""
    if what == "door":
        wide, tall = dice.uniform(0.4, 0.55), dice.uniform(0.95, 1.08)
        at = -tall
        row = make_material(dice, DOOR, varied(dice, COLOURS[dice.choice(tuple(COLOURS))], 0.1))
    elif what == "window":
        wide, tall = dice.uniform(0.45, 0.9), dice.uniform(0.4, 0.65)
        at = -dice.uniform(1.45, 1.7)
        panes = dice.choice(((0.62, 0.80, 0.98), (0.68, 0.82, 0.60), (0.98, 0.80, 0.55), (0.20, 0.28, 0.42)))
        row = make_material(
            dice, WINDOW, dice.choice(((0.92, 0.92, 0.90), (0.36, 0.24, 0.16))), second=panes, glow=0.85
        )
    else:
        wide, tall = dice.uniform(0.3, 0.9), dice.uniform(0.28, 0.55)
        at = -dice.uniform(1.35, 1.7)
        row = _artwork(dice)
    room = half - wide - 0.15
    return (side * dice.uniform(min(wide + 0.1, room), room), at, wide, tall), row


def _artwork(dice: Dice) -> Material[float]:
    """A painting of two bold colours; its pattern counts in half widths."""
    first, second = (varied(dice, COLOURS[name]) for name in dice.sample(tuple(COLOURS), 2))
    row = make_material(dice, dice.choice(PAINTINGS), first, second=second)
    across, down = dice.uniform(0.7, 1.6), dice.uniform(0.5, 1.4)
    return row._replace(across=across, down=down if row.pattern != STRIPES or dice.chance(0.5) else 0.0)


def _rug(dice: Dice, layout: Layout) -> _Panel:
    """A carpet somewhere on the floor."""
    wide, deep = (dice.uniform(0.2, 0.45) * side for side in layout.half_extents)
    x, z = (
        dice.uniform(-1, 1) * (side - size) * 0.8 for side, size in zip(layout.half_extents, (wide, deep), strict=True)
    )
    row = _artwork(dice)
    cycles = dice.uniform(0.8, 1.5)
    return (x, z, wide, deep), row._replace(across=cycles * wide, down=cycles * deep)


def furniture_axes(layout: Layout) -> tuple[Tensor, Tensor]:
    """unit_from_room [k + p, 3, 4] and half sizes [k + p, 3] of boxes and pillars, float64."""
    centre, half = EMPTY
    gone = ([centre[0], -centre[1], centre[2]], list(half), 0.0)
    boxes = [([x, -tall / 2, z], [wide, tall / 2, deep], yaw) for x, z, wide, deep, tall, yaw in layout.boxes]
    pillars = [([x, -tall, z], [radius, 1.0, radius], 0.0) for x, z, radius, tall in layout.pillars]
    rows = [*boxes, *[gone] * (MOST_BOXES - len(boxes)), *pillars, *[gone] * (MOST_PILLARS - len(pillars))]
    at, size = (torch.tensor([row[column] for row in rows], dtype=torch.float64) for column in (0, 1))
    turn = rotation_from_angles(torch.tensor([-row[2] for row in rows], dtype=torch.float64))
    return torch.cat([turn, -turn @ at[..., None]], dim=-1) / size[..., None], size


def _box_materials(dice: Dice, layout: Layout) -> list[Material[float]]:
    found = []
    for _ in layout.boxes:
        pattern = dice.choice((*TEXTURES.values(), PLAIN, MARBLE))
        colour = varied(dice, COLOURS[dice.choice(tuple(COLOURS))])
        found.append(make_material(dice, pattern, colour, scale=1.6))
    return found + [_NO_MATERIAL] * (MOST_BOXES - len(found))


def _pillar_materials(dice: Dice, layout: Layout) -> list[Material[float]]:
    found = []
    for _ in layout.pillars:
        row = make_material(
            dice, dice.choice((PLAIN, STRIPES, MARBLE)), varied(dice, COLOURS[dice.choice(tuple(COLOURS))])
        )
        # Bands around it: a pattern across would show where its coordinates begin.
        found.append(row._replace(across=0.0, down=1.6) if row.pattern == STRIPES else row)
    return found + [_NO_MATERIAL] * (MOST_PILLARS - len(found))


def _lighting(dice: Dice, layout: Layout, kind: str) -> tuple[list[list[float]], list[float], list[float]]:
    if kind == "room":
        warmth = dice.uniform(-0.08, 0.08)
        tint = (1 + warmth, 1.0, 1 - warmth)
        lamps = []
        for _ in range(2):
            x, z = (dice.uniform(-0.65, 0.65) * side for side in layout.half_extents)
            strength = dice.uniform(0.7, 1.1)
            reach = 0.9 * max(layout.half_extents)
            lamps.append([x, -layout.height + 0.12, z, *(strength * part for part in tint), 1 / reach**2])
        level = dice.uniform(0.28, 0.38)
        return lamps, [level * part for part in tint], [0.0] * 6 + [0.0, -1.0, 0.0, 0.0]
    yaw, rise = dice.uniform(-math.pi, math.pi), dice.uniform(0.5, 1.2)
    sun = (math.sin(yaw) * math.cos(rise), -math.sin(rise), math.cos(yaw) * math.cos(rise))
    hours = ((0.22, 0.46, 0.90), (0.72, 0.84, 0.96)), ((0.30, 0.36, 0.62), (0.96, 0.70, 0.46)), ((0.55, 0.6, 0.66),) * 2
    zenith, horizon = dice.choice(hours)
    warm = (1.0, 0.86, 0.66) if horizon[0] > 0.9 else (1.0, 0.97, 0.92)
    strength = 0.75 if zenith != horizon else 0.3
    beam = [1e4 * part for part in sun] + [strength * part for part in warm] + [0.0]
    ambient = [0.2 + 0.25 * part for part in light(horizon)]
    fill = [1e4 * -sun[0], -1e4, 1e4 * -sun[2], 0.12, 0.13, 0.16, 0.0]
    return [beam, fill], ambient, [*light(varied(dice, zenith, 0.04)), *light(varied(dice, horizon, 0.04)), *sun, 1.0]
