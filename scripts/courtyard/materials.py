"""What the solids are made of: a colour for every point, from patterns."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .patterns import hash_cells, lines, mix, noise, rgb
from .solids import Solid

PLAIN = {
    "iron": rgb(44, 46, 50), "gilt": rgb(196, 152, 78), "cobalt": rgb(40, 72, 150), "bronze": rgb(120, 96, 60),
    "orange": rgb(236, 140, 40), "bottle": rgb(46, 92, 60), "spray": rgb(225, 236, 244), "soil": rgb(88, 66, 50),
    "blue glaze": rgb(42, 92, 158), "lantern": rgb(252, 226, 168), "dado": rgb(120, 62, 56),
}  # fmt: skip
MIRRORS = {"glass": 0.35, "water": 0.3, "blue glaze": 0.07, "bottle": 0.1, "bronze": 0.06}


def _along(p: Tensor, n: Tensor) -> Tensor:
    """The horizontal coordinate in the plane of a wall."""
    return torch.where(n[:, 0].abs() > 0.5, p[:, 2], p[:, 0])


def _stucco(p: Tensor, base: Tensor) -> Tensor:
    patchy = noise(p * 1.1, octaves=4) * 0.5 + noise(p * 9, octaves=2) * 0.25
    damp = ((0.9 - p[:, 1]) / 0.9).clamp(0, 1) * noise(p * 2.3, octaves=3)
    return mix(base * (0.72 + 0.45 * patchy[:, None]), base * rgb(190, 170, 150), damp * 0.9)


def _brick(p: Tensor, n: Tensor) -> Tensor:
    u, row = _along(p, n), (p[:, 1] / 0.085).floor()
    shifted = u + 0.13 * (row % 2)
    cell = torch.stack([(shifted / 0.26).floor(), row], dim=-1)
    tone = hash_cells(cell)
    colour = mix(rgb(150, 74, 54), rgb(198, 118, 84), tone) * (0.8 + 0.4 * noise(p * 30, octaves=2))[:, None]
    mortar = torch.maximum(lines(p[:, 1], 0.085, 0.014), lines(shifted, 0.26, 0.014))
    return mix(colour, rgb(196, 184, 166), mortar)


def _azulejo(u: Tensor, v: Tensor) -> Tensor:
    """Blue on white: a four-leaved flower in each 0.36 m tile, quarter rings at its corners."""
    size = 0.36
    a, b = (u / size) % 1 - 0.5, (v / size) % 1 - 0.5
    angle, radius = torch.atan2(b, a), torch.hypot(a, b)
    corner = torch.hypot(a.abs() - 0.5, b.abs() - 0.5)
    petal = (radius < 0.13 + 0.2 * (2 * angle).cos().abs() ** 0.8) & (radius > 0.05)
    vein = petal & (((2 * angle).sin().abs() < 0.18) & (radius > 0.1))
    colour = rgb(236, 238, 236).expand(len(u), 3)
    for mask, paint in (
        (corner < 0.27, rgb(58, 96, 170)),
        (corner < 0.21, rgb(236, 238, 236)),
        (corner < 0.13, rgb(226, 178, 70)),
        (petal, rgb(36, 72, 152)),
        (vein, rgb(150, 184, 224)),
        (radius < 0.045, rgb(226, 178, 70)),
    ):
        colour = mix(colour, paint, mask.float())
    tone = 0.88 + 0.2 * hash_cells(torch.stack([(u / size).floor(), (v / size).floor()], dim=-1))
    joint = torch.maximum(lines(u, size, 0.008), lines(v, size, 0.008))
    return mix(colour * tone[:, None], rgb(150, 150, 146), joint)


def _tiled_wall(p: Tensor, n: Tensor) -> Tensor:
    return torch.where((p[:, 1:2] < 2.2), _azulejo(_along(p, n), p[:, 1]), _stucco(p, rgb(240, 212, 140)))


def _paving(p: Tensor) -> Tensor:
    u, v = (p[:, 0] + p[:, 2]) / math.sqrt(2), (p[:, 0] - p[:, 2]) / math.sqrt(2)
    cell = torch.stack([(u / 0.55).floor(), (v / 0.55).floor()], dim=-1)
    check = (cell.sum(-1) % 2).float()
    stone = mix(rgb(186, 170, 146), rgb(160, 122, 98), check) * (0.82 + 0.3 * hash_cells(cell))[:, None]
    stone = mix(stone, rgb(120, 108, 94), torch.maximum(lines(u, 0.55, 0.018), lines(v, 0.55, 0.018)))
    radius, angle = torch.hypot(p[:, 0], p[:, 2]), torch.atan2(p[:, 0], p[:, 2])
    star = ((angle * 8 / math.tau + 0.5) % 1 - 0.5).abs() * 2
    for mask, paint in (
        (radius < 1.32, rgb(96, 84, 74)),
        (radius < 1.28, rgb(214, 196, 166)),
        ((radius < 1.24) & (radius > 1.08) & (lines(angle, math.tau / 32, math.tau / 64) > 0), rgb(66, 96, 118)),
        (radius < 1.04, rgb(96, 84, 74)),
        (radius < 1.01, rgb(222, 206, 178)),
        (radius < 1.0 - 0.62 * star, rgb(158, 92, 68)),
        (radius < 0.72 - 0.42 * (1 - star), rgb(66, 96, 118)),
        (radius < 0.27, rgb(96, 84, 74)),
        (radius < 0.25, rgb(206, 166, 92)),
        (radius < 0.17 - 0.09 * star, rgb(158, 92, 68)),
    ):
        stone = mix(stone, paint * (0.85 + 0.3 * noise(p * 5, octaves=3))[:, None], mask.float())
    border = torch.maximum((p[:, 0] + 0.2).abs() - 4.85, (p[:, 2] - 0.7).abs() - 4.85) > 0
    cobble = mix(rgb(150, 138, 124), rgb(186, 174, 156), hash_cells((p * 7).floor()[:, [0, 2]]))
    cobble = mix(cobble, rgb(104, 96, 86), torch.maximum(lines(p[:, 0], 1 / 7, 0.015), lines(p[:, 2], 1 / 7, 0.015)))
    stone = torch.where(border[:, None], cobble, stone)
    return stone * (0.78 + 0.3 * noise(p * 1.3, octaves=3) + 0.15 * noise(p * 25))[:, None]


def _wood(q: Tensor, base: Tensor, plank: float = 0.16) -> Tensor:
    """Planks along the longest of the first two own axes, with grain."""
    across = torch.stack([q[:, 0] * 2.2, q[:, 1] * 28, q[:, 2] * 28], dim=-1)
    grain = noise(across, octaves=3)
    gap = lines(q[:, 2] + 0.5 * plank, plank, 0.008)
    return mix(base * (0.6 + 0.7 * grain)[:, None], base * 0.15, gap)


def _door(p: Tensor) -> Tensor:
    u, v = p[:, 0].abs(), p[:, 1]
    paint = rgb(38, 108, 92)
    panel = torch.zeros(len(p))
    for bottom, top in ((0.35, 1.05), (1.2, 1.95)):
        inside = (u > 0.17) & (u < 0.78) & (v > bottom) & (v < top)
        core = (u > 0.24) & (u < 0.71) & (v > bottom + 0.07) & (v < top - 0.07)
        panel += inside.float() * 0.55 + core.float() * 0.45
    colour = (
        paint * (0.85 + 0.3 * noise(p * torch.tensor([14.0, 1.5, 1.0]), octaves=2) - 0.45 * (panel == 0.55))[:, None]
    )
    colour = mix(colour, paint * 0.12, ((u < 0.012) & (v < 2.15)).float())
    fan = torch.hypot(p[:, 0], v - 2.2)
    spoke = lines(torch.atan2(v - 2.2, p[:, 0]), math.pi / 6, 0.05)
    glass = (fan < 0.62) & (fan > 0.16) & (v > 2.24) & (spoke == 0)
    colour = mix(colour, rgb(120, 160, 186), glass.float())
    knob = torch.hypot(u - 0.1, v - 1.1) < 0.045
    return mix(colour, rgb(226, 186, 96), knob.float())


def _painting(number: int, q: Tensor) -> Tensor:
    u, v = q[:, 0] / 0.75, q[:, 1] / 0.6
    still = torch.zeros_like(u)
    if number == 0:  # sunset over hills
        colour = mix(rgb(252, 206, 120), rgb(92, 112, 178), v * 0.5 + 0.5)
        colour = mix(colour, rgb(255, 240, 200), (torch.hypot(u - 0.25, v - 0.1) < 0.16).float())
        for height, paint in ((0.05, rgb(150, 96, 130)), (-0.25, rgb(92, 70, 110)), (-0.55, rgb(50, 56, 70))):
            ridge = height + 0.35 * (noise(torch.stack([u * 2.2 + 9 * height, still, still], dim=-1), 3) - 0.5)
            colour = mix(colour, paint, (v < ridge).float())
        return colour
    if number == 1:  # a vase of flowers on a dark ground
        colour = mix(rgb(46, 52, 60), rgb(92, 78, 66), v * 0.5 + 0.5)
        colour = mix(colour, rgb(170, 120, 84), (v < -0.7).float())
        colour = mix(colour, rgb(84, 142, 168), (torch.hypot(u * 1.5, (v + 0.55) * 1.1) < 0.36).float())
        for a, b, paint in (
            (-0.3, 0.2, rgb(220, 70, 70)),
            (0.05, 0.5, rgb(244, 196, 84)),
            (0.3, 0.15, rgb(236, 226, 214)),
            (0.0, 0.05, rgb(206, 96, 150)),
        ):
            ring = torch.hypot(u - a, v - b)
            colour = mix(mix(colour, paint, (ring < 0.24).float()), paint * 0.45, (ring < 0.07).float())
        return colour
    colour = rgb(238, 230, 212).expand(len(q), 3)  # shapes and lines
    for mask, paint in (
        (torch.hypot(u + 0.45, v - 0.15) < 0.42, rgb(212, 68, 52)),
        ((u - 0.25 > 0) & (u - 0.25 < 0.5) & (v.abs() < 0.55), rgb(44, 86, 150)),
        ((u + v - 0.1).abs() < 0.07, rgb(30, 30, 34)),
        (torch.hypot(u - 0.1, v + 0.4) < 0.22, rgb(244, 190, 60)),
    ):
        colour = mix(colour, paint, mask.float())
    return colour


def _tower(p: Tensor, base: Tensor) -> Tensor:
    opening = (p[:, 1] > 14.4) & (p[:, 1] < 16.9) & ((p[:, 0] + 3).abs() < 0.55)
    return mix(base, rgb(70, 60, 60), opening.float())


def _glass(p: Tensor, n: Tensor) -> Tensor:
    bars = torch.maximum(lines(_along(p, n), 0.65, 0.06), lines(p[:, 1] - 0.1, 0.75, 0.05))
    return mix(rgb(52, 62, 70).expand(len(p), 3), rgb(228, 224, 212), bars)


def _roof_tiles(q: Tensor) -> Tensor:
    rounding = 0.5 + 0.5 * (q[:, 0] * math.tau / 0.22).cos()
    tone = hash_cells(torch.stack([(q[:, 0] / 0.22).floor(), (q[:, 2] / 0.35).floor()], dim=-1))
    return mix(rgb(196, 106, 70), rgb(150, 72, 50), rounding) * (0.6 + 0.6 * tone)[:, None]


def _barrel(q: Tensor) -> Tensor:
    unrolled = torch.stack([q[:, 1], q[:, 1] * 0, torch.atan2(q[:, 0], q[:, 2]) * 0.36], dim=-1)
    hoops = (q[:, 1].abs() - 0.3).abs() < 0.035
    return mix(_wood(unrolled, rgb(146, 98, 62), 0.12), rgb(60, 60, 64), hoops.float())


def _paint(name: str, tint: Tensor, p: Tensor, q: Tensor, n: Tensor) -> Tensor:
    """Colours [n, 3] at points p, in the solid's own axes q, with normals n."""
    if name in PLAIN:
        return PLAIN[name].expand(len(p), 3)
    if name.startswith("painting"):
        return _painting(int(name[-1]), q * torch.tensor([-1.0, 1.0, 1.0]))
    grain = (0.75 + 0.5 * noise(p * 6, octaves=3))[:, None]
    materials: dict[str, Callable[[], Tensor]] = {
        "white stucco": lambda: _stucco(p, rgb(240, 232, 216)),
        "rose stucco": lambda: _stucco(p, rgb(222, 150, 124)),
        "brick": lambda: _brick(p, n),
        "tiles and plaster": lambda: _tiled_wall(p, n),
        "limestone": lambda: rgb(214, 202, 180) * grain,
        "tower": lambda: _tower(p, rgb(226, 196, 150) * grain),
        "terracotta": lambda: rgb(190, 104, 70) * grain,
        "glass": lambda: _glass(p, n),
        "door": lambda: _door(p),
        "shutter": lambda: mix(tint * grain, tint * 0.3, lines(p[:, 1], 0.075, 0.022)),
        "roof tiles": lambda: _roof_tiles(q),
        "paving": lambda: _paving(p),
        "wood": lambda: _wood(q, rgb(168, 116, 72)),
        "crate": lambda: _wood(q[:, [0, 2, 1]], rgb(186, 140, 92)),
        "barrel": lambda: _barrel(q),
        "awning": lambda: mix(tint.expand(len(p), 3), rgb(244, 238, 226), ((q[:, 0] / 0.28) % 1 < 0.5).float()),
        "cloth": lambda: tint.expand(len(p), 3),
        "bark": lambda: rgb(112, 92, 74) * (0.5 + 0.9 * noise(p * torch.tensor([30.0, 5.0, 30.0]), octaves=2))[:, None],
        "leaf": lambda: tint * (0.55 + 1.0 * noise(p * 19, octaves=2))[:, None],
        "flowers": lambda: mix(rgb(70, 110, 52).expand(len(p), 3), tint, ((noise(p * 15) - 0.42) * 12).clamp(0, 1)),
        "water": lambda: mix(rgb(70, 128, 140), rgb(120, 176, 184), noise(p * 7, octaves=2)),
    }
    return materials[name]()


def surface(solid: Solid, p: Tensor, direction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normals that face the ray, colours and mirror shares at points on a solid."""
    n = solid.normal(p)
    n = torch.where((n * direction).sum(-1, keepdim=True) > 0, -n, n)
    colour = _paint(solid.material, solid.paint, p, solid.local(p), n)
    if solid.cut == "leaves":  # leaves face every way
        scatter = torch.stack([noise(p * 23 + 31 * axis) for axis in range(3)], dim=-1) - 0.5
        n = torch.nn.functional.normalize(n + 2.2 * scatter, dim=-1)
    slope = (1 + (n * direction).sum(-1)).clamp(0, 1) ** 4
    mirror = MIRRORS.get(solid.material, 0.0)
    return n, colour, (mirror + 0.5 * slope) * (mirror > 0)
