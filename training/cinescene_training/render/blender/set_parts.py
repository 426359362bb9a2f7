"""Parts that both halves of the scripted set are made of: its materials, pots, windows, tiled roofs and lanterns."""

import math
from typing import Any

import numpy as np

from . import set_materials as make
from .set_shapes import Workshop

CREAM, ROSE, WHITE = (0.72, 0.6, 0.42), (0.58, 0.17, 0.085), (0.74, 0.71, 0.64)
LIMESTONE = (0.66, 0.56, 0.42)
HALF_WIDTH, HALF_DEPTH = 7.0, 6.5
"""Metres from the middle of the court to its walls."""


class Palette:
    """The set's materials, made once."""

    def __init__(self) -> None:
        self.cream = make.plaster("cream plaster", CREAM)
        self.rose = make.plaster("rose plaster", ROSE)
        self.white = make.plaster("whitewash", WHITE, dirt=0.8)
        self.ochre = make.plaster("ochre plaster", (0.6, 0.27, 0.07))
        self.limestone = make.stone("limestone", LIMESTONE)
        self.pale = make.stone("pale stone", (0.74, 0.68, 0.58), dirt=0.3)
        self.slate = make.stone("blue stone", (0.1, 0.17, 0.26), dirt=0.2)
        self.red_stone = make.stone("red stone", (0.45, 0.14, 0.08), dirt=0.2)
        self.rubble = make.masonry(
            "rubble", ((0.5, 0.4, 0.27), (0.3, 0.23, 0.15)), (0.34, 0.28, 0.2), (0.52, 0.24), wild=0.07, depth=0.06
        )
        self.floor = make.masonry(
            "floor slabs", ((0.47, 0.34, 0.21), (0.31, 0.19, 0.11)), (0.16, 0.12, 0.08), (0.46, 0.3), lying=True,
            wild=0.012, dirt=0.0, depth=0.012, roughness=0.42,
        )  # fmt: skip
        self.tiles = make.glazed_tiles("glazed tiles", 0.24)
        roof = ((0.36, 0.11, 0.05), (0.52, 0.2, 0.09), (0.6, 0.3, 0.16), (0.4, 0.15, 0.08))
        self.roof = make.clay("roof tiles", roof)
        self.terracotta = make.clay("terracotta", ((0.5, 0.18, 0.08), (0.58, 0.25, 0.12)))
        self.oak = make.wood("oak", (0.24, 0.11, 0.045))
        self.beams = make.wood("beams", (0.2, 0.1, 0.045), upright=False)
        self.teal = make.wood("teal paint", (0.03, 0.2, 0.2), roughness=0.45)
        self.blue = make.wood("blue paint", (0.03, 0.11, 0.36), roughness=0.45)
        self.iron = make.plain("iron", (0.03, 0.03, 0.032), roughness=0.45, metallic=0.9)
        self.glass = make.plain("glass", (0.012, 0.018, 0.025), roughness=0.03)
        self.water = make.plain("water", (0.01, 0.06, 0.07), roughness=0.02)
        self.lamp = make.plain("lamp", (1.0, 0.55, 0.2), glow=14.0)
        self.soil = make.plain("soil", (0.06, 0.035, 0.02), roughness=1.0, grain=0.02)
        self.bark = make.wood("bark", (0.16, 0.1, 0.06), roughness=0.9)
        self.green = make.leaf("leaves", ((0.035, 0.09, 0.012), (0.09, 0.2, 0.03), (0.16, 0.26, 0.05)))
        self.olive = make.leaf("olive leaves", ((0.09, 0.13, 0.06), (0.2, 0.25, 0.13), (0.13, 0.2, 0.06)))
        self.dark = make.leaf("cypress", ((0.012, 0.035, 0.012), (0.03, 0.07, 0.02)))
        self.pink = make.leaf("bougainvillea", ((0.5, 0.02, 0.16), (0.72, 0.05, 0.3), (0.6, 0.02, 0.22)))
        self.red = make.leaf("geraniums", ((0.6, 0.02, 0.02), (0.7, 0.08, 0.04)))
        self.lemon = make.plain("lemons", (0.8, 0.55, 0.03), roughness=0.4)


def pot(shop: Workshop, paint: Palette, u: float, w: float, size: float, flowers: Any = None, v: float = 0.0) -> None:
    """A terracotta pot of `size` metres with a bush, in flower or not."""
    rim = [(0.28, 0), (0.4, 0.5), (0.43, 0.78), (0.5, 0.8), (0.5, 0.94), (0.43, 0.94), (0.41, 0.85)]
    shop.lathe([(r * size, h * size) for r, h in rim], (u, v, w), paint.terracotta)
    shop.lathe([(0.42 * size, 0.84 * size), (0.3 * size, 0.87 * size)], (u, v, w), paint.soil)
    crown = (u, v + 1.35 * size, w)
    shop.leaves(shop.cloud(crown, (0.62 * size, 0.6 * size, 0.62 * size), 420), 0.2 * size, paint.green)
    if flowers is not None:
        shop.leaves(shop.cloud(crown, (0.66 * size, 0.64 * size, 0.66 * size), 260, shell=0.9), 0.11 * size, flowers)


def window(
    shop: Workshop, paint: Palette, u: float, v: float, width: float, height: float, shutters: Any, *, back: float
) -> None:
    """Glass, bars, a stone sill and open shutters around an opening that starts at (u, v) below its middle."""
    left, right = u - width / 2, u + width / 2
    shop.box((left, v, back - 0.04), (right, v + height, back), paint.glass, bevel=0)
    for bar in (left, u - 0.025, right - 0.05):
        shop.box((bar, v, back), (bar + 0.05, v + height, back + 0.05), paint.pale)
    for bar in (v, v + height * 0.62, v + height - 0.05):
        shop.box((left, bar, back), (right, bar + 0.05, back + 0.045), paint.pale)
    shop.box((left - 0.14, v - 0.1, -0.06), (right + 0.14, v, 0.16), paint.limestone, bevel=0.02)
    for edge, way in ((left, -1), (right, 1)):
        near, far = edge + way * 0.06, edge + way * (0.06 + width / 2)
        a, b = min(near, far), max(near, far)
        shop.box((a, v - 0.02, 0.02), (b, v + height, 0.06), shutters)
        for slat in np.arange(v + 0.08, v + height - 0.08, 0.075).tolist():
            shop.box((a + 0.05, slat, 0.055), (b - 0.05, slat + 0.045, 0.085), shutters, bevel=0.006)


def tiled_roof(
    shop: Workshop, paint: Palette, left: float, right: float, eave: float, front: float, rows: int, slope: float
) -> None:
    """Rows of half-round tiles that climb away from the court, on a board."""
    pitch, length = 0.24, 0.42
    angles = np.linspace(0.0, math.pi, 7)
    vertices: list[Any] = []
    faces: list[Any] = []
    columns = int((right - left) / pitch)
    for row in range(rows):
        for column in range(columns):
            u = left + (column + 0.5) * pitch + shop.rng.normal(0, 0.006)
            for end in (0.0, 1.15):
                away = (row + end) * length
                radius = 0.135 - 0.02 * end
                lift = eave + away * slope + 0.035 * (1 - end) + shop.rng.normal(0, 0.004)
                ring = np.stack([u + radius * np.cos(angles), lift + radius * np.sin(angles)], 1)
                vertices += [(a, b, front - away) for a, b in ring]
            first = len(vertices) - 14
            faces += [(first + k, first + k + 1, first + k + 8, first + k + 7) for k in range(6)]
    tiles = shop.mesh("roof", vertices, faces, paint.roof, smooth=True)
    body = tiles.modifiers.new("body", "SOLIDIFY")
    body.thickness = 0.018
    depth = rows * length
    board = [(front - 0.02, eave - 0.06), (front - depth, eave - 0.06 + depth * slope)]
    (w0, v0), (w1, v1) = board
    corners = [(u, v + d, w) for u in (left, right) for (w, v) in ((w0, v0), (w1, v1)) for d in (0, 0.05)]
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    shop.mesh("boards", corners, sides, paint.beams)


def lantern(shop: Workshop, paint: Palette, place: tuple[float, float, float], hook: float) -> None:
    """An iron lantern with a warm flame, hanging from `hook`."""
    u, v, w = place
    shop.tube([(u, v + 0.2, w), (u, hook, w)], 0.008, paint.iron, sides=6)
    shop.lathe([(0.16, 0.16), (0.09, 0.24), (0.02, 0.3)], place, paint.iron, segments=6, smooth=False)
    shop.lathe([(0.1, -0.2), (0.12, -0.16)], place, paint.iron, segments=6, smooth=False)
    shop.lathe([(0.03, -0.14), (0.05, -0.02), (0.02, 0.08)], place, paint.lamp, segments=12)
    for k in range(6):
        a = k * math.tau / 6
        rod = (u + 0.11 * math.cos(a), w + 0.11 * math.sin(a))
        shop.tube([(rod[0], v - 0.16, rod[1]), (rod[0], v + 0.17, rod[1])], 0.008, paint.iron, sides=5)
