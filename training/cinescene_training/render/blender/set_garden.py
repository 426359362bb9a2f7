"""The green half of the scripted set: the white wall with its pergola, the gate, the trees, the town beyond."""

import math
from typing import Any

import numpy as np

from .set_parts import HALF_DEPTH, HALF_WIDTH, Palette, lantern, pot, tiled_roof, window
from .set_shapes import Workshop, arch, archivolt, rectangle


def left(shop: Workshop, paint: Palette) -> None:
    """The white wall: glazed tiles below, blue windows, a pergola with bougainvillea, a table in its shade."""
    openings = [rectangle(0.6, 1.8, 1.5, 3.0), rectangle(4.0, 5.2, 1.5, 3.0), arch(-3.6, 1.3, 0, 2.0)]
    shop.panel(rectangle(-HALF_DEPTH, HALF_DEPTH, 0, 4.6), paint.white, holes=openings, thickness=0.5)
    for low, high in ((-HALF_DEPTH, -4.45), (-2.75, HALF_DEPTH)):
        shop.box((low, 0, 0), (high, 1.2, 0.03), paint.tiles, bevel=0)
        shop.box((low, 1.2, 0), (high, 1.29, 0.07), paint.slate)
    for u in (1.2, 4.6):
        window(shop, paint, u, 1.5, 1.2, 1.5, paint.blue, back=-0.25)
    shop.panel(arch(-3.6, 1.3, 0, 2.0), paint.blue, front=-0.25, thickness=0.08)
    for u in (-3.95, -3.6, -3.25):
        shop.box((u - 0.012, 0.05, -0.25), (u + 0.012, 2.4, -0.235), paint.iron, bevel=0)
    shop.panel(archivolt(-3.6, 1.3, 2.0, 0.18), paint.limestone, front=0.06, thickness=0.2, bevel=0.01)
    for u in (-4.34, -2.86):
        shop.box((u - 0.09, 0, -0.1), (u + 0.09, 2.0, 0.06), paint.limestone)
    tiled_roof(shop, paint, -HALF_DEPTH, HALF_DEPTH, 4.62, 0.22, 2, 0.3)
    pergola(shop, paint)
    table(shop, paint, 1.6, 1.35)
    pot(shop, paint, -1.9, 0.6, 0.7, paint.red)
    pot(shop, paint, -5.5, 0.7, 0.85, paint.pink)
    lantern(shop, paint, (-2.4, 2.5, 0.36), 2.9)
    shop.box((-2.44, 2.86, 0), (-2.36, 2.94, 0.42), paint.iron)


def pergola(shop: Workshop, paint: Palette) -> None:
    """Posts, beams, and a roof of leaves and flowers that hangs over the edge."""
    low, high, out, height = -1.2, 5.6, 2.7, 2.95
    for u in (low + 0.2, (low + high) / 2, high - 0.2):
        shop.box((u - 0.2, 0, out - 0.2), (u + 0.2, 0.5, out + 0.2), paint.limestone, bevel=0.02)
        shop.box((u - 0.08, 0.5, out - 0.08), (u + 0.08, height, out + 0.08), paint.beams)
        climb = [
            (u + 0.13 * math.cos(t * 7), 0.3 + t * 2.7, out + 0.13 * math.sin(t * 7)) for t in np.linspace(0, 1, 24)
        ]
        shop.tube(climb, 0.025, paint.bark, sides=6)
    shop.box((low, height, out - 0.09), (high, height + 0.18, out + 0.09), paint.beams)
    for u in np.linspace(low + 0.1, high - 0.1, 14).tolist():
        shop.box((u - 0.04, height + 0.18, 0), (u + 0.04, height + 0.32, out + 0.35), paint.beams)
    for _ in range(46):
        u, w = shop.rng.uniform(low, high), shop.rng.uniform(0.1, out + 0.3)
        centre = (u, height + 0.42, w)
        size = shop.rng.uniform(0.3, 0.6)
        shop.leaves(shop.cloud(centre, (size, 0.16, size), 110, shell=0.0), 0.13, paint.green)
        flowers = int(90 * (w / out) ** 2)
        if flowers:
            shop.leaves(shop.cloud(centre, (size, 0.22, size), flowers, shell=0.5), 0.075, paint.pink)
    for _ in range(15):
        u = shop.rng.uniform(low, high)
        drop = shop.rng.uniform(0.3, 0.85)
        centre = (u, height + 0.25 - drop / 2, out + 0.22)
        shop.leaves(shop.cloud(centre, (0.24, drop / 2, 0.15), 90, shell=0.0), 0.11, paint.green, hang=0.6)
        shop.leaves(shop.cloud(centre, (0.28, drop / 2, 0.19), 210, shell=0.2), 0.075, paint.pink, hang=0.3)


def table(shop: Workshop, paint: Palette, u: float, w: float) -> None:
    """A round iron table with a cloth, a jug and lemons, and two chairs."""
    shop.lathe([(0.24, 0), (0.22, 0.03), (0.03, 0.06), (0.03, 0.7)], (u, 0, w), paint.iron)
    shop.lathe([(0.55, 0.7), (0.56, 0.74), (0.0, 0.745)], (u, 0, w), paint.teal)
    jug = [(0.07, 0), (0.1, 0.08), (0.09, 0.16), (0.05, 0.22), (0.065, 0.28), (0.055, 0.28)]
    shop.lathe(jug, (u + 0.15, 0.745, w - 0.1), paint.blue)
    shop.lathe([(0.05, 0), (0.17, 0.07), (0.16, 0.07)], (u - 0.12, 0.745, w + 0.12), paint.pale)
    for a, b in ((-0.16, 0.1), (-0.07, 0.12), (-0.12, 0.2)):
        shop.lathe([(0.005, 0), (0.035, 0.02), (0.04, 0.05), (0.005, 0.1)], (u + a, 0.79, w + b), paint.lemon)
    for du, dw in ((-0.95, 0.1), (0.9, -0.25)):
        a, b = u + du, w + dw
        shop.lathe([(0.21, 0.44), (0.21, 0.47)], (a, 0, b), paint.teal)
        for k in range(4):
            x, z = a + 0.16 * math.cos(k * math.pi / 2 + 0.8), b + 0.16 * math.sin(k * math.pi / 2 + 0.8)
            shop.tube([(x, 0, z), (x, 0.45, z)], 0.012, paint.iron, sides=6)
        way = math.copysign(1.0, du)
        back = [
            (a + way * 0.2 * math.cos(t), 0.45 + 0.45 * math.sin(t * 1.0) ** 0.3, b + 0.2 * math.sin(t))
            for t in np.linspace(-1.2, 1.2, 13)
            if t
        ]
        shop.tube([(x, 0.9, z) for x, _, z in back], 0.014, paint.iron, sides=6)
        for x, _, z in back[::3]:
            shop.tube([(x, 0.45, z), (x, 0.9, z)], 0.009, paint.iron, sides=5)


def back(shop: Workshop, paint: Palette) -> None:
    """The rubble wall: a great gate, a fountain, ivy, a lantern on either side."""
    gate = arch(0, 2.9, 0, 2.0, rise=0.85)
    shop.panel(rectangle(-HALF_WIDTH, HALF_WIDTH, 0, 4.1), paint.rubble, holes=[gate], thickness=0.7)
    shop.box((-HALF_WIDTH, 4.08, -0.75), (HALF_WIDTH, 4.24, 0.08), paint.limestone, bevel=0.03)
    shop.panel(archivolt(0, 2.9, 2.0, 0.34, rise=0.85), paint.limestone, front=0.06, thickness=0.3, bevel=0.015)
    for u in (-1.62, 1.62):
        shop.box((u - 0.17, 0, -0.24), (u + 0.17, 2.0, 0.06), paint.limestone, bevel=0.015)
        lantern(shop, paint, (u * 1.35, 2.35, 0.36), 2.8)
        shop.box((u * 1.35 - 0.04, 2.76, 0), (u * 1.35 + 0.04, 2.84, 0.42), paint.iron)
    shop.panel(gate, paint.oak, front=-0.5, thickness=0.1)
    for k in range(12):
        u = -1.45 + k * 0.2417
        top = 2.0 + 0.85 * math.sqrt(max(1.45**2 - (u + 0.12) ** 2, 0.0))
        shop.box((u, 0.03, -0.5), (u + 0.235, top, -0.42), paint.oak, bevel=0.008)
        for v in (0.5, 1.2, 1.9):
            shop.lathe([(0.001, 0.0), (0.02, 0.01), (0.001, 0.03)], (u + 0.12, v, -0.41), paint.iron, segments=8)
    for v in (0.45, 1.15, 1.85):
        shop.box((-1.45, v, -0.42), (1.45, v + 0.1, -0.405), paint.iron, bevel=0)
    fountain(shop, paint, 4.5)
    for u, v, radius in (
        (-6.0, 3.6, 1.1), (-5.2, 3.9, 0.9), (-4.3, 4.0, 0.7), (-6.4, 2.5, 0.7), (6.2, 3.7, 0.8), (5.4, 4.05, 0.6),
    ):  # fmt: skip
        shop.leaves(shop.cloud((u, v, 0.08), (radius, radius * 0.8, 0.2), 1500, shell=0.0), 0.13, paint.green, hang=0.7)
    pot(shop, paint, -2.6, 0.7, 0.8, paint.red)
    pot(shop, paint, 2.55, 0.7, 0.8, paint.red)


def fountain(shop: Workshop, paint: Palette, u: float) -> None:
    """A basin against the wall, with a spout that runs into it."""
    half = [(u + 1.15 * math.cos(a), 1.15 * math.sin(a)) for a in np.linspace(0, math.pi, 25).tolist()]
    for radius, low, high, material in (
        (1.0, 0.0, 0.5, paint.limestone), (1.08, 0.5, 0.58, paint.pale), (0.86, 0.58, 0.585, paint.water)
    ):  # fmt: skip
        ring = [(u + (x - u) * radius / 1.15, z * radius / 1.15) for x, z in half]
        count = len(ring)
        vertices = [(x, v, z) for v in (low, high) for x, z in ring]
        faces: list[Any] = [(k, k + 1, k + 1 + count, k + count) for k in range(count - 1)]
        faces += [range(count, 2 * count)]
        shop.mesh("basin", vertices, faces, material, bevel=0.01)
    shop.panel(arch(u, 1.5, 0, 2.1, rise=0.7), paint.tiles, front=0.05, thickness=0.05)
    shop.panel(archivolt(u, 1.5, 2.1, 0.14, rise=0.7), paint.limestone, front=0.09, thickness=0.1, bevel=0.01)
    for edge in (-0.82, 0.82):
        shop.box((u + edge - 0.07, 0, 0), (u + edge + 0.07, 2.1, 0.09), paint.limestone)
    shop.lathe([(0.1, -0.1), (0.16, 0.0), (0.1, 0.1)], (u, 1.5, 0.06), paint.limestone, segments=20)
    shop.tube([(u, 1.5, 0.1), (u, 1.5, 0.32)], 0.03, paint.iron)
    drop = [(u, 1.5 - 0.92 * t * t, 0.32 + 0.16 * t) for t in np.linspace(0, 1, 12).tolist()]
    shop.tube(drop, np.linspace(0.014, 0.022, 12).tolist(), paint.water, sides=8)


def lemon_trees(shop: Workshop, paint: Palette) -> None:
    """Two lemon trees in square stone beds, and an olive tree."""
    for u, w, height in ((-4.6, -4.7, 1.0), (3.9, 4.6, 1.0)):
        shop.box((u - 0.6, 0, w - 0.6), (u + 0.6, 0.45, w + 0.6), paint.limestone, bevel=0.025)
        shop.box((u - 0.5, 0.44, w - 0.5), (u + 0.5, 0.47, w + 0.5), paint.soil, bevel=0)
        trunk = [(u, 0.4, w), (u + 0.05, 0.4 + height * 0.5, w - 0.03), (u - 0.02, 0.6 + height, w)]
        shop.tube(trunk, (0.07, 0.055, 0.04), paint.bark)
        crown = (u, 1.0 + height, w)
        shop.leaves(shop.cloud(crown, (0.85, 0.8, 0.85), 2600, shell=0.35), 0.13, paint.green)
        for x, y, z in shop.cloud(crown, (0.82, 0.76, 0.82), 34, shell=0.9).tolist():
            shop.lathe([(0.005, 0), (0.04, 0.025), (0.045, 0.06), (0.005, 0.12)], (x, y - 0.06, z), paint.lemon)
    u, w = 5.0, -4.9
    shop.lathe([(0.95, 0), (0.95, 0.4), (0.82, 0.42), (0.8, 0.38)], (u, 0, w), paint.limestone)
    shop.tube(
        [(u, 0.35, w), (u + 0.1, 0.9, w), (u - 0.06, 1.5, w + 0.06), (u + 0.1, 2.1, w)],
        (0.2, 0.15, 0.13, 0.09), paint.bark,
    )  # fmt: skip
    for _ in range(26):
        (x, y, z) = shop.cloud((u, 2.9, w), (1.15, 0.75, 1.15), 1, shell=0.2)[0].tolist()
        shop.tube(
            [(u + 0.05, 2.0, w), ((u + x) / 2, (2.2 + y) / 2, (w + z) / 2), (x, y, z)], 0.018, paint.bark, sides=5
        )
        shop.leaves(shop.cloud((x, y, z), (0.42, 0.34, 0.42), 210, shell=0.0), 0.11, paint.olive)


def beyond(shop: Workshop, paint: Palette) -> None:
    """What looks over the walls: a bell tower, a neighbour's roof, cypresses, and ground for all of it."""
    shop.box((-300, -1.0, -300), (300, -0.35, 300), paint.soil, bevel=0)
    bell_tower(shop, paint, -13.0, -19.0)
    shop.box((11.5, 0, -6), (19, 7.6, 3), paint.cream, bevel=0)
    shop.box((11.3, 7.6, -6.2), (19.2, 7.8, 3.2), paint.limestone)
    for u, w, height, width in (
        (-11.0, -3.5, 10.5, 0.95), (-12.2, -1.6, 9.0, 0.85), (-11.4, 3.0, 11.2, 0.95), (3.4, 12.0, 11.0, 1.0),
        (5.2, 12.8, 9.4, 0.9), (-4.2, 13.2, 8.6, 0.9), (11.6, 7.5, 11.5, 1.0),
    ):  # fmt: skip
        count = int(height * 1100)
        heights = shop.rng.uniform(0.06, 1.0, count) ** 0.9
        angles = shop.rng.uniform(0, math.tau, count)
        radii = width * np.sin(np.pi * heights**0.6) ** 0.7 * shop.rng.uniform(0.75, 1.05, count)
        points = np.stack([u + radii * np.cos(angles), heights * height, w + radii * np.sin(angles)], 1)
        shop.leaves(points, 0.34, paint.dark, hang=-0.6)
        core = [(0.08, 0.0), (width * 0.7, height * 0.35), (width * 0.5, height * 0.7), (0.02, height * 0.97)]
        shop.lathe(core, (u, 0, w), paint.dark, segments=12)


def bell_tower(shop: Workshop, paint: Palette, u: float, w: float) -> None:
    """A square tower with open arches under a tiled cap."""
    side, foot = 1.9, 15.5
    shop.box((u - side, 0, w - side), (u + side, foot, w + side), paint.cream, bevel=0.05)
    shop.box((u - side - 0.25, foot, w - side - 0.25), (u + side + 0.25, foot + 0.35, w + side + 0.25), paint.limestone)
    for du in (-1, 1):
        for dw in (-1, 1):
            a, b = u + du * (side - 0.4), w + dw * (side - 0.4)
            shop.box((a - 0.4, foot + 0.35, b - 0.4), (a + 0.4, foot + 3.4, b + 0.4), paint.cream, bevel=0.03)
    shop.box(
        (u - side - 0.2, foot + 3.4, w - side - 0.2), (u + side + 0.2, foot + 3.8, w + side + 0.2), paint.limestone
    )
    cap = [(2.75, foot + 3.8), (1.7, foot + 4.7), (0.1, foot + 5.6)]
    shop.lathe(cap, (u, 0, w), paint.terracotta, segments=8, smooth=False)
    bell = [(0.75, foot + 1.2), (0.55, foot + 1.6), (0.45, foot + 2.2), (0.1, foot + 2.5), (0.06, foot + 3.4)]
    shop.lathe(bell, (u, 0, w), paint.iron)
