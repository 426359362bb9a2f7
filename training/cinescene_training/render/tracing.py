"""The tracer: what each ray of a view meets first, how far away, and its colour.

One view is one camera at one time; its rays leave one point. The core, `trace_rays`, is arithmetic on
[v, r] tensors with a fixed number of solids and no branch on data: it runs as it is, on any device, or
compiled into a few loops. Rays are traced in blocks of fixed length, one view at a time on the CPU, so
that a picture does not depend on the pictures made along with it, to the last bit.
"""

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .captions import MOST_BOXES
from .layout import MOST_PILLARS
from .materials import DOOR, WINDOW, Material, pattern_mix, stain
from .places import FACES, FIRST_BOX, FIRST_PART, FIRST_PILLAR, NUM_SOLIDS, PANELS_PER_FACE
from .solids import MISS, Vector, box_entry, cone_entry, pillar_entry, safe, sphere_entry
from .subjects import BLOCKS, ELLIPSOIDS, NUM_PARTS

SKY_DISTANCE = 1000.0
"""Metres along a ray at which the sky is taken to be."""
SKY = FIRST_PART + NUM_PARTS
"""Surface number of the sky: faces, boxes, pillars and parts of the subject come before it."""
FIRST_PANEL = FIRST_PART + NUM_PARTS
"""Row of the material table where panels start."""
BLOCK = 2**14
"""Rays traced in one call on the CPU; measured: fewer cost calls, more leave the processor's cache."""
GPU_BLOCK = 2**22
"""Rays traced in one call on a GPU, of several views together."""
_CORNER_METRES, _CONTACT_METRES = 0.6, 0.35


class ViewTensors(NamedTuple):
    """What the tracer reads of v views, float32, in room axes."""

    origin: Tensor
    """[v, 3] camera centres."""
    rotation: Tensor
    """[v, 3, 3] camera to room."""
    pixel: Tensor
    """[v] size of a pixel at distance 1."""
    size: Tensor
    """[v, 3] half width, height, half depth."""
    unit_from_room: Tensor
    """[v, s, 3, 4]: room axes to those in which each solid is a unit solid: boxes, pillars, parts of the subject.
    Without the subject there are no parts."""
    half: Tensor
    """[v, s, 3] half sizes of the solids: metres per unit."""
    panels: Tensor
    materials: Tensor
    lights: Tensor
    ambient: Tensor
    sky: Tensor
    """The last five as in `Places`."""
    shadow: Tensor
    """[v, 4] x, z, radius and strength of the subject's shadow on the floor."""


class Hits(NamedTuple):
    """Where the rays ended."""

    colour: Tensor
    """[v, 3, r] sRGB, 0..1."""
    distance: Tensor
    """[v, r] in lengths of the given directions."""
    surface: Tensor
    """[v, r] int64 number of the surface; `SKY` for the sky."""


def _each(values: Tensor) -> list[Tensor]:
    """The last dimension of [v, n] as n columns [v, 1], which broadcast over rays."""
    return [values[:, index, None] for index in range(values.shape[1])]


def _applied(matrix: Tensor, vector: Vector) -> Vector:
    """Matrices [..., 3, 3] applied to vectors whose components broadcast against [..., 1]."""
    rows = [[matrix[..., i, j, None] for j in range(3)] for i in range(3)]
    return Vector(*(row[0] * vector.x + row[1] * vector.y + row[2] * vector.z for row in rows))


def trace_rays(plane: Tensor, view: ViewTensors) -> Hits:
    """Trace rays [3, r] in camera axes, the same for all v views."""
    ray = _applied(view.rotation, Vector(*(plane[axis][None] for axis in range(3))))
    ray = Vector(safe(ray.x), safe(ray.y), safe(ray.z))
    origin = Vector(*_each(view.origin))
    distance, surface = _walls(origin, ray, view)
    for group, (first, enter) in enumerate(_GROUPS):
        last = _GROUPS[group + 1][0] if group + 1 < len(_GROUPS) else NUM_SOLIDS
        if first < view.half.shape[1]:
            entry, number = _nearest(enter, slice(first, last), ray, view)
            nearer = entry < distance
            distance = torch.where(nearer, entry, distance)
            surface = torch.where(nearer, number + FIRST_BOX, surface)
    return _shade(origin, ray, view, distance, surface)


_GROUPS: tuple[tuple[int, Callable[[Vector, Vector], Tensor]], ...] = (
    (0, box_entry),
    (MOST_BOXES, pillar_entry),
    (MOST_BOXES + MOST_PILLARS, sphere_entry),
    (MOST_BOXES + MOST_PILLARS + ELLIPSOIDS, box_entry),
    (MOST_BOXES + MOST_PILLARS + ELLIPSOIDS + BLOCKS, cone_entry),
)
"""First solid of each group of one kind, and where rays enter it."""


def _nearest(
    enter: Callable[[Vector, Vector], Tensor], group: slice, ray: Vector, view: ViewTensors
) -> tuple[Tensor, Tensor]:
    """Nearest entry [v, r] into any of a group of solids, and the number of the solid."""
    affine = view.unit_from_room[:, group]
    start = (affine[..., :3] * view.origin[:, None, None]).sum(-1) + affine[..., 3]  # [v, s, 3]
    way = _applied(affine[..., :3], Vector(*(component[:, None] for component in ray)))
    entry = enter(Vector(*(start[..., axis, None] for axis in range(3))), way)  # [v, s, r]
    nearest = entry.amin(1)
    numbers = torch.arange(group.start, group.start + affine.shape[1], device=entry.device)[None, :, None]
    return nearest, torch.where(entry == nearest[:, None], numbers, 0).amax(1)


def _walls(origin: Vector, ray: Vector, view: ViewTensors) -> tuple[Tensor, Tensor]:
    """Leave the room: through wall, floor, ceiling, or into the sky above an open wall."""
    half_x, height, half_z = _each(view.size)
    is_open = view.sky[:, 9, None] > 0
    to_x = (torch.where(ray.x > 0, half_x, -half_x) - origin.x) / ray.x
    to_z = (torch.where(ray.z > 0, half_z, -half_z) - origin.z) / ray.z
    to_y = (torch.where(ray.y > 0, 0.0, -height) - origin.y) / ray.y
    to_y = torch.where(is_open & (ray.y < 0), MISS, to_y)
    distance = torch.minimum(torch.minimum(to_x, to_z), to_y)
    wall = torch.where(to_x < to_z, torch.where(ray.x > 0, 0, 1), torch.where(ray.z > 0, 4, 5))
    surface = torch.where(distance == to_y, torch.where(ray.y > 0, 2, 3), wall)
    over = is_open & (origin.y + distance * ray.y < -height)
    far = SKY_DISTANCE / ray.dot(ray).sqrt()
    return torch.where(over, far, distance), torch.where(over, SKY, surface)


class _Point(NamedTuple):
    """A surface point: where, which way it faces, and its coordinates on the surface."""

    at: Vector
    normal: Vector
    u: Tensor
    v: Tensor


def _shade(origin: Vector, ray: Vector, view: ViewTensors, distance: Tensor, surface: Tensor) -> Hits:
    at = Vector(*(start + distance * way for start, way in zip(origin, ray, strict=True)))
    point = _surface_point(at, view, surface)
    u, v, row, pixel_scale, border = _panel(point, view, surface)
    columns = torch.gather(view.materials, 2, row[:, None].expand(-1, view.materials.shape[1], -1))
    material = Material(*(columns[:, index] for index in range(columns.shape[1])))

    length = ray.dot(ray).sqrt()
    facing = -ray.dot(point.normal) / length
    width = view.pixel[:, None] * distance * length * pixel_scale / (facing.clamp(min=0.02)).sqrt()
    mix = pattern_mix(material, u, v, width)
    dim = stain(material, point.u, point.v) * (1 - 0.8 * border)
    shade = _occlusion(point, view, surface)
    lit = _lighting(point, view)
    first = (material.first_red, material.first_green, material.first_blue)
    second = (material.second_red, material.second_green, material.second_blue)
    lamp = _lamps(point, view, surface)
    sky = _sky(ray, length, view)
    colour = []
    for channel in range(3):
        albedo = (first[channel] + mix * (second[channel] - first[channel])) * dim
        amount = lit[channel] * shade
        value = albedo * (amount + material.glow * (1 - amount)) + lamp
        value = torch.where(surface == SKY, sky[channel], value)
        colour.append(value.clamp(0, 1).sqrt())
    return Hits(torch.stack(colour, dim=1), distance, surface)


def _surface_point(at: Vector, view: ViewTensors, surface: Tensor) -> _Point:
    """Normal and surface coordinates (metres) of whatever was hit."""
    is_x, is_y, is_solid = surface < 2, (surface == 2) | (surface == 3), surface >= FIRST_BOX
    sign = torch.where((surface == 0) | (surface == 2) | (surface == 4), -1.0, 1.0)
    normal, u, v = _solid_point(at, view, surface)
    faces = is_x, is_y, ~(is_x | is_y)
    normal = Vector(
        *(torch.where(is_solid, there, torch.where(here, sign, 0.0)) for there, here in zip(normal, faces, strict=True))
    )
    u = torch.where(is_solid, u, torch.where(is_x, at.z, at.x))
    v = torch.where(is_solid, v, torch.where(is_y, at.z, at.y))
    return _Point(at, normal, u, v)


def _solid_point(at: Vector, view: ViewTensors, surface: Tensor) -> tuple[Vector, Tensor, Tensor]:
    """Normal and surface coordinates where a solid was hit; anything elsewhere."""
    solid = (surface - FIRST_BOX).clamp(0, view.half.shape[1] - 1)
    table = torch.cat([view.unit_from_room.flatten(2), view.half], dim=2).mT  # [v, 15, s]
    found = torch.gather(table, 2, solid[:, None].expand(-1, table.shape[1], -1))
    rows = [[found[:, 4 * i + j] for j in range(4)] for i in range(3)]
    unit = Vector(*(row[0] * at.x + row[1] * at.y + row[2] * at.z + row[3] for row in rows))
    ax, ay, az = unit.x.abs(), unit.y.abs(), unit.z.abs()
    on_x, on_y = (ax > ay) & (ax > az), ay > az
    kind = [solid >= first for first, _ in _GROUPS]  # each group, and all after it
    block, pillar = ~kind[1] | (kind[3] & ~kind[4]), kind[1] & ~kind[2]
    on_top = pillar & (unit.y < 1e-3) & (unit.x * unit.x + unit.z * unit.z < 0.995)
    on_y = torch.where(block, ~on_x & on_y, on_top | (kind[4] & (unit.y > 0.999)))
    on_x = block & on_x
    flat = block | on_y
    tilted = torch.where(kind[4], -(unit.y + 1) / 4, torch.where(pillar, 0.0, unit.y))
    local = Vector(
        torch.where(flat & ~on_x, 0.0, unit.x),
        torch.where(flat, torch.where(on_y, torch.where(on_top, -1.0, unit.y), 0.0), tilted),
        torch.where(flat & (on_x | on_y), 0.0, unit.z),
    )
    # A normal goes back by the transpose of the matrix that makes the solid a unit.
    normal = Vector(*(rows[0][j] * local.x + rows[1][j] * local.y + rows[2][j] * local.z for j in range(3)))
    scale = normal.dot(normal).clamp(min=1e-20).rsqrt()
    wide, tall, deep = (found[:, 12 + axis] for axis in range(3))
    around = on_x | (pillar & (ax > az))
    u = torch.where(around, unit.z * deep, unit.x * wide)
    v = torch.where(block & on_y, unit.z * deep, unit.y * tall)
    return Vector(normal.x * scale, normal.y * scale, normal.z * scale), u, v


def _panel(point: _Point, view: ViewTensors, surface: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Coordinates and material row on walls and what hangs on them; pixel scale there; 1 on a frame."""
    face = surface.clamp(max=len(FACES) - 1)
    table = view.panels.flatten(2).transpose(1, 2)  # [v, panels x 4, faces]
    rect = torch.gather(table, 2, face[:, None].expand(-1, table.shape[1], -1))
    u, v, row = point.u, point.v, surface.clamp(max=FIRST_PANEL - 1)
    scale, border = torch.ones_like(u), torch.zeros_like(u)
    for slot in range(PANELS_PER_FACE):
        middle_u, middle_v, half_u, half_v = (rect[:, 4 * slot + index] for index in range(4))
        du, dv = point.u - middle_u, point.v - middle_v
        inside = (du.abs() < half_u) & (dv.abs() < half_v) & (surface < len(FACES))
        edge = torch.minimum(half_u - du.abs(), half_v - dv.abs())
        u, v = torch.where(inside, du / half_u, u), torch.where(inside, dv / half_v, v)
        number = FIRST_PANEL + PANELS_PER_FACE * face + slot
        pattern = torch.gather(view.materials[:, 0], 1, number)
        framed = (pattern != WINDOW) & (pattern != DOOR)
        border = torch.where(inside & framed & (edge < 0.05), 1.0, border)
        row = torch.where(inside, number, row)
        scale = torch.where(inside, 1 / half_u, scale)
    return u, v, row, scale, border


def _occlusion(point: _Point, view: ViewTensors, surface: Tensor) -> Tensor:
    """Darkness in corners, around the feet of furniture, and below the subject: a factor up to 1."""
    half_x, height, half_z = _each(view.size)
    at, normal = point.at, point.normal
    closed = 1 - view.sky[:, 9, None]
    gaps = (
        (half_x - at.x.abs(), 1 - normal.x.abs(), 0.32),
        (half_z - at.z.abs(), 1 - normal.z.abs(), 0.32),
        (-at.y, 1 - normal.y.abs(), 0.28),
        (height + at.y, closed * (1 - normal.y.abs()), 0.28),
    )
    shade = torch.ones_like(at.x)
    for gap, weight, depth in gaps:
        near = (1 - gap / _CORNER_METRES).clamp(0, 1)
        shade = shade * (1 - depth * weight * near * near)
    near = (1 - _gap(point, view, surface) / _CONTACT_METRES).clamp(0, 1)
    shade = shade * (1 - 0.55 * near * near)
    x, z, radius, strength = _each(view.shadow)
    dx, dz = (at.x - x) / radius, (at.z - z) / radius
    blob = (1 - dx * dx - dz * dz).clamp(min=0)
    return shade * torch.where(surface == 2, 1 - strength * blob, 1.0)


def _gap(point: _Point, view: ViewTensors, surface: Tensor) -> Tensor:
    """Distance [v, r] to the nearest box or pillar, but for the one that the point is on."""
    fixed = MOST_BOXES + MOST_PILLARS
    affine, half = view.unit_from_room[:, :fixed], view.half[:, :fixed, :, None]
    at = Vector(*(component[:, None] for component in point.at))
    unit = _applied(affine[..., :3], at)
    unit = Vector(*(part + affine[..., axis, 3, None] for axis, part in enumerate(unit)))
    numbers = torch.arange(FIRST_BOX, FIRST_BOX + fixed, device=half.device)[None, :, None]
    is_box = numbers < FIRST_PILLAR
    x, z = ((part.abs() - 1).clamp(min=0) for part in (unit.x, unit.z))
    # A pillar has its top at y = 0 and no bottom.
    y = torch.where(is_box, unit.y.abs() - 1, -unit.y).clamp(min=0) * half[:, :, 1]
    around = ((unit.x * unit.x + unit.z * unit.z).sqrt() - 1).clamp(min=0) * half[:, :, 0]
    x, z = x * half[:, :, 0], z * half[:, :, 2]
    level = torch.where(is_box, x * x + z * z, around * around)
    gap = torch.where(surface[:, None] == numbers, MISS, level + y * y)
    return gap.amin(1).sqrt()


def _lighting(point: _Point, view: ViewTensors) -> tuple[Tensor, Tensor, Tensor]:
    """Lambert's law for both lights, and the ambient, of which a ceiling gets more: it faces the floor."""
    ambient = _each(view.ambient)
    sides = 0.94 + 0.12 * point.normal.y + 0.05 * point.normal.x
    total = [part * sides for part in ambient]
    for index in range(view.lights.shape[1]):
        x, y, z, red, green, blue, falloff = _each(view.lights[:, index])
        way = Vector(x - point.at.x, y - point.at.y, z - point.at.z)
        square = way.dot(way)
        facing = (way.dot(point.normal) * square.clamp(min=1e-6).rsqrt()).clamp(min=0)
        amount = facing / (1 + square * falloff)
        total = [sum_ + amount * part for sum_, part in zip(total, (red, green, blue), strict=True)]
    return total[0], total[1], total[2]


def _lamps(point: _Point, view: ViewTensors, surface: Tensor) -> Tensor:
    """Bright discs on the ceiling under each lamp's place."""
    glow = torch.zeros_like(point.u)
    for index in range(view.lights.shape[1]):
        x, _, z, *_ = _each(view.lights[:, index])
        dx, dz = point.at.x - x, point.at.z - z
        glow = torch.where((surface == 3) & (dx * dx + dz * dz < 0.06), 1.0, glow)
    return glow


def _sky(ray: Vector, length: Tensor, view: ViewTensors) -> tuple[Tensor, Tensor, Tensor]:
    """Horizon to zenith, slow clouds and a glow around the sun."""
    zenith, horizon = _each(view.sky[:, :3]), _each(view.sky[:, 3:6])
    x, y, z = ray.x / length, (-ray.y / length).clamp(min=0), ray.z / length
    rise = y.sqrt()
    sun = Vector(*_each(view.sky[:, 6:9]))
    towards = (ray.dot(sun) / length).clamp(min=0)
    glow = towards * towards
    glow = glow * glow
    glow = glow * glow
    glow = 0.25 * glow + 0.8 * ((towards - 0.995) * 400).clamp(0, 1)
    a, b = x / (y + 0.35), z / (y + 0.35)
    waves = torch.sin(3.1 * a + 1.7 * torch.sin(1.9 * b + 1.0)) + torch.sin(
        4.3 * b - 2.2 * a + 1.1 * torch.sin(3.7 * a)
    )
    cloud = 0.45 * (0.5 * waves - 0.25).clamp(0, 1) * y
    parts = [low + rise * (high - low) for low, high in zip(horizon, zenith, strict=True)]
    red, green, blue = (part + cloud * (0.9 - part) + glow for part in parts)
    return red, green, blue


def view_tensors_at(view: ViewTensors, index: slice) -> ViewTensors:
    """Some of the views."""
    return ViewTensors(*(part[index] for part in view))


def trace(plane: Tensor, view: ViewTensors, *, compiled: bool = False) -> Hits:
    """Trace rays [3, r] of v views, in blocks.

    Raises:
        RuntimeError: compiled, and there is no compiler.
    """
    return Hits(*(torch.cat(column) for column in zip(*trace_views(plane, view, compiled=compiled), strict=True)))


def trace_views(plane: Tensor, view: ViewTensors, *, compiled: bool = False) -> Iterator[Hits]:
    """What `trace` gives, a few views at a time: one on the CPU, on a GPU as many as keep it busy."""
    run = compiled_tracer(plane.device.type) if compiled else trace_rays
    rays, on_cpu = plane.shape[1], plane.device.type == "cpu"
    # One length serves every picture where each length is compiled anew.
    block = BLOCK if on_cpu and compiled else min(BLOCK if on_cpu else GPU_BLOCK, rays)
    at_once = 1 if on_cpu else max(1, GPU_BLOCK // rays)
    for first in range(0, len(view.origin), at_once):
        yield _trace_blocks(run, plane, view_tensors_at(view, slice(first, first + at_once)), block)


def _trace_blocks(run: Callable[[Tensor, ViewTensors], Hits], plane: Tensor, view: ViewTensors, block: int) -> Hits:
    """Blocks of equal length: the last is filled up with the first ray, and cut."""
    rays = plane.shape[1]
    missing = -rays % block
    filled = torch.cat([plane, plane[:, :1].expand(-1, missing)], dim=1) if missing else plane
    hits = [run(part.contiguous(), view) for part in filled.split(block, dim=1)]
    joined = (torch.cat(column, dim=-1)[..., :rays] for column in zip(*hits, strict=True))
    return Hits(*joined)


@functools.cache
def compiled_tracer(device_type: str) -> Callable[[Tensor, ViewTensors], Hits]:
    """`trace_rays` through torch.compile, made once per process; the first call takes its time.

    Raises:
        RuntimeError: the compiler that torch needs for this device is not there.
    """
    if device_type == "cpu" and not any(
        shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++") if name
    ):
        raise RuntimeError(
            "Compiled rendering on the CPU needs a C++ compiler, and neither g++ nor clang++ was found. "
            "Install one, or render with compiled=False (about a quarter of the speed)."
        )
    if device_type == "cuda" and importlib.util.find_spec("triton") is None:
        raise RuntimeError(
            "Compiled rendering on a GPU needs triton, and it is not installed. "
            "Install triton, or render with compiled=False."
        )
    return torch.compile(trace_rays, fullgraph=True)
