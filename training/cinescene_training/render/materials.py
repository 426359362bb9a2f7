"""What surfaces look like: named colours, patterns that fade before they alias, and pictures to hang on walls.

A material is a row of numbers, a table of rows travels to the tracer, and `pattern_mix` says how much
of a row's second colour a point shows. Colours in rows are light, not codes: code = sqrt(light).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from .dice import Dice

Colour = tuple[float, float, float]

COLOURS: Mapping[str, Colour] = MappingProxyType(
    {
        "red": (0.80, 0.16, 0.14),
        "orange": (0.92, 0.50, 0.12),
        "yellow": (0.92, 0.80, 0.22),
        "green": (0.24, 0.62, 0.26),
        "teal": (0.12, 0.60, 0.60),
        "blue": (0.18, 0.36, 0.82),
        "purple": (0.50, 0.26, 0.72),
        "pink": (0.92, 0.52, 0.68),
        "brown": (0.48, 0.30, 0.18),
        "white": (0.90, 0.89, 0.86),
        "grey": (0.55, 0.55, 0.56),
    }
)
"""The colours a caption can name, sRGB."""

PLAIN, CHECKER, STRIPES, BRICK, PLANKS, TILES, DOTS, MARBLE, FADE, ZIGZAG, PLAID, DIAMONDS = range(12)
"""Patterns of walls and floors."""
RINGS, WINDOW, DOOR = range(12, 15)
"""Patterns of what hangs on walls."""

TEXTURES: Mapping[str, int] = MappingProxyType(
    {
        "plain": PLAIN, "checkered": CHECKER, "striped": STRIPES, "brick": BRICK, "planked": PLANKS, "tiled": TILES,
        "dotted": DOTS, "marbled": MARBLE, "faded": FADE, "zigzag": ZIGZAG, "plaid": PLAID, "diamond": DIAMONDS,
    }
)  # fmt: skip
"""The wall patterns a caption can name."""
FLOORS = (PLANKS, TILES, CHECKER, MARBLE, PLAIN, DIAMONDS, BRICK, PLAID)
PAINTINGS = (CHECKER, STRIPES, DOTS, MARBLE, ZIGZAG, PLAID, DIAMONDS, RINGS)

# Cycles per metre, across and down, for a feature size that reads at a few metres.
_CYCLES: Mapping[int, tuple[float, float]] = MappingProxyType(
    {
        PLAIN: (0.35, 0.35), CHECKER: (0.8, 0.8), STRIPES: (1.2, 0.0), BRICK: (1.7, 4.2), PLANKS: (0.45, 3.0),
        TILES: (1.6, 1.6), DOTS: (1.8, 1.8), MARBLE: (0.6, 0.6), FADE: (0.0, 0.22), ZIGZAG: (1.4, 1.4),
        PLAID: (0.9, 0.9), DIAMONDS: (0.9, 0.9), RINGS: (1.5, 1.5), WINDOW: (1.0, 1.0), DOOR: (1.0, 1.0),
    }
)  # fmt: skip


T = TypeVar("T")


class Material(NamedTuple, Generic[T]):
    """One surface: a row of the material table, or a column of looked-up rows [v, r]."""

    pattern: T
    across: T
    """Cycles per metre (per half width on a panel) across the surface."""
    down: T
    shift_across: T
    shift_down: T
    first_red: T
    first_green: T
    first_blue: T
    second_red: T
    second_green: T
    second_blue: T
    glow: T
    """0 is lit by the lights, 1 shows its colour as it is."""
    dirt: T
    """How far slow stains darken and brighten the surface."""


def light(colour: Colour, strength: float = 1.0) -> Colour:
    """The light whose code is `colour` (gamma 2), times `strength`."""
    red, green, blue = (strength * code * code for code in colour)
    return red, green, blue


def varied(dice: Dice, colour: Colour, amount: float = 0.05) -> Colour:
    """A neighbour of the colour."""
    red, green, blue = (min(max(code + dice.uniform(-amount, amount), 0.02), 0.98) for code in colour)
    return red, green, blue


def partner(dice: Dice, colour: Colour) -> Colour:
    """A second colour that leaves the first one its name: a darker or lighter shade, or near white."""
    way = dice.integer(3)
    if way == 0:
        factor = dice.uniform(0.45, 0.65)
        return colour[0] * factor, colour[1] * factor, colour[2] * factor
    target = 0.95 if way == 1 else 0.88
    share = dice.uniform(0.4, 0.6) if way == 1 else 0.85
    red, green, blue = (code + (target - code) * share for code in colour)
    return red, green, blue


def make_material(
    dice: Dice, pattern: int, colour: Colour, *, second: Colour | None = None, glow: float = 0.0, scale: float = 1.0
) -> Material[float]:
    """Draw one surface of a pattern and a first colour; `scale` > 1 makes the pattern finer."""
    second = partner(dice, colour) if second is None else second
    across, down = _CYCLES[pattern]
    size = scale * dice.uniform(0.75, 1.3)
    if pattern == STRIPES:
        angle = dice.choice((0.0, math.pi / 2, dice.uniform(0.5, 1.07)))
        across, down = across * math.cos(angle), across * math.sin(angle)
    stain = dice.uniform(0.14, 0.22) if pattern in (PLAIN, FADE) else dice.uniform(0.06, 0.12)
    return Material(
        float(pattern), across * size, down * size, dice.uniform(0, 8), dice.uniform(0, 8),
        *light(colour), *light(second), glow, stain,
    )  # fmt: skip


def material_table(rows: Sequence[Material[float]]) -> Tensor:
    """[columns, rows] float32: one column of the table per number of a material."""
    return torch.tensor([list(row) for row in rows], dtype=torch.float32).T.contiguous()


def _fraction(x: Tensor) -> Tensor:
    return x - x.floor()


def _square(x: Tensor, width: Tensor) -> Tensor:
    """A 0/1 square wave of period 1, its edges as wide as a pixel; it fades to 1/2 as pixels outgrow it."""
    return (((_fraction(x) - 0.5).abs() - 0.25) / (width + 4 * width * width * width + 0.02) + 0.5).clamp(0, 1)


def _joint(x: Tensor, width: Tensor, half: float) -> Tensor:
    """1 on a line at every whole number, `half` wide on each side, as wide as a pixel at its edges."""
    distance = 0.5 - (_fraction(x) - 0.5).abs()
    edge = 0.6 * width + 0.01
    return ((half - distance) / edge + 0.5).clamp(0, 1) * (half / (half + 0.5 * width)).clamp(max=1)


def _shade(x: Tensor, y: Tensor, shift: Tensor) -> Tensor:
    """A number in 0..1 per cell, unlike its neighbours', without hashing: rounding cannot flip it."""
    return (2 * _fraction(0.7548777 * x + 0.5698403 * y + shift) - 1).abs()


def _marble(x: Tensor, y: Tensor) -> Tensor:
    warp = torch.sin(4.1 * y + 1.7 * torch.sin(2.3 * x + 0.6))
    return 0.5 + 0.32 * torch.sin(math.tau * x + 1.9 * warp) + 0.18 * torch.sin(5.3 * x - 8.7 * y + 2.1 * warp)


def _masonry(x: Tensor, y: Tensor, wx: Tensor, wy: Tensor, shift: Tensor, half: tuple[float, float]) -> Tensor:
    """Cells with joints between them: 0 to 0.4 by cell, 1 in the joint."""
    joint = torch.maximum(_joint(x, wx, half[0]), _joint(y, wy, half[1]))
    cell = 0.4 * _shade(x.floor(), y.floor(), shift)
    return cell + (1 - cell) * joint


def _window(u: Tensor, v: Tensor) -> Tensor:
    """Two by two panes: bars are the first colour, panes the second; u and v run from -1 to 1."""
    bars = (u.abs() < 0.06) | (v.abs() < 0.05) | (u.abs() > 0.92) | (v.abs() > 0.93)
    return torch.where(bars, 0.0, 0.82 + 0.18 * v)


def _door(u: Tensor, v: Tensor) -> Tensor:
    """Two recessed fields and a knob."""
    field = (u.abs() < 0.66) & ((v - 0.48).abs() < 0.36) | (u.abs() < 0.66) & ((v + 0.44).abs() < 0.42)
    knob = (u - 0.82) * (u - 0.82) + 6 * (v - 0.06) * (v - 0.06) < 0.012
    return torch.where(knob, 1.0, torch.where(field, 0.55, 0.12))


def pattern_mix(material: Material[Tensor], u: Tensor, v: Tensor, width: Tensor) -> Tensor:
    """Share of the second colour at surface coordinates.

    Args:
        material: the looked-up row of each point, [v, r] each.
        u, v: metres along the surface, or -1..1 on a panel.
        width: size of a pixel there, in the same unit.

    Returns:
        [v, r] in 0..1.
    """
    x, y = u * material.across + material.shift_across, v * material.down + material.shift_down
    wx, wy = (width * material.across).abs(), (width * material.down).abs()
    square_x, square_y = _square(x, wx), _square(y, wy)
    row = y.floor()
    half_cell = _shade(x.floor(), row, material.shift_down)
    diagonal, other = _square(x + y, wx + wy), _square(x - y, wx + wy)
    fx, fy = _fraction(x) - 0.5, _fraction(y) - 0.5
    edge = wx + 0.03
    ring = (fx * fx + fy * fy + 1e-9).sqrt()
    from_centre = ((u * u + v * v + 1e-9).sqrt()) * material.across
    staggered = x + torch.where(material.pattern == BRICK, 0.5 * row, 3.7 * _shade(row, row, material.shift_across))
    grain = 0.12 * torch.sin(5 * x + 40 * y + 3 * torch.sin(3 * x)) * (0.25 / (wy + 0.25))

    def brick() -> Tensor:
        return _masonry(staggered, y, wx, wy, material.shift_across, (0.03, 0.07))

    def planks() -> Tensor:
        joint = torch.maximum(_joint(staggered, wx, 0.006), _joint(y, wy, 0.03))
        board = 0.25 + 0.5 * _shade(staggered.floor(), row, material.shift_across) + grain
        return board.clamp(0, 1) * (1 - joint) + joint

    def tiles() -> Tensor:
        joint = torch.maximum(_joint(x, wx, 0.03), _joint(y, wy, 0.03))
        return joint + (1 - joint) * 0.3 * half_cell

    choices: tuple[tuple[int, Callable[[], Tensor]], ...] = (
        (CHECKER, lambda: square_x + square_y - 2 * square_x * square_y),
        (STRIPES, lambda: diagonal),
        (BRICK, brick),
        (PLANKS, planks),
        (TILES, tiles),
        (DOTS, lambda: ((0.28 - ring) / edge + 0.5).clamp(0, 1)),
        (MARBLE, lambda: _marble(x, y)),
        (FADE, lambda: 2 * (_fraction(y) - 0.5).abs()),
        (ZIGZAG, lambda: _square(y + fx.abs(), wx + wy)),
        (PLAID, lambda: 0.38 * (square_x + square_y) + 0.24 * torch.maximum(_joint(x, wx, 0.03), _joint(y, wy, 0.03))),
        (DIAMONDS, lambda: diagonal + other - 2 * diagonal * other),
        (RINGS, lambda: _square(from_centre + material.shift_across, wx)),
        (WINDOW, lambda: _window(u, v)),
        (DOOR, lambda: _door(u, v)),
    )
    mix = torch.zeros_like(x)
    for pattern, value in choices:
        mix = torch.where(material.pattern == pattern, value(), mix)
    return mix


def stain(material: Material[Tensor], u: Tensor, v: Tensor) -> Tensor:
    """Slow dirt that no two surfaces share: a factor around 1."""
    x, y = u + material.shift_across, v + material.shift_down
    waves = torch.sin(1.9 * x + 2.1 * torch.sin(0.8 * y)) + torch.sin(2.7 * y - 1.1 * x + 1.3 * torch.sin(1.1 * x))
    return 1 + 0.5 * material.dirt * waves
