"""Boxes, balls and cylinders: where a ray meets them, and how walls are built from them."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .patterns import noise, rgb


@dataclass(eq=False)
class Solid:
    """A unit box, ball or upright cylinder, stretched by `size`, turned by `turn`, moved to `centre`."""

    kind: str
    centre: tuple[float, float, float]
    size: tuple[float, float, float]
    material: str
    yaw: float = 0.0
    pitch: float = 0.0
    cut: str = ""
    tint: tuple[float, float, float] = (255, 255, 255)
    number: int = -1
    turn: Tensor = field(init=False)

    def __post_init__(self) -> None:
        a, b = math.radians(self.yaw), math.radians(self.pitch)
        about_y = torch.tensor([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
        about_x = torch.tensor([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
        self.turn = about_y @ about_x
        self.middle, self.stretch, self.paint = torch.tensor(self.centre), torch.tensor(self.size), rgb(*self.tint)

    def local(self, p: Tensor) -> Tensor:
        """World points in the solid's own axes, in metres from its centre."""
        return (p - self.middle) @ self.turn

    def hit(self, origin: Tensor, direction: Tensor) -> Tensor:
        """Distance along [n, 3] rays to the surface, infinite where they miss."""
        o, d = self.local(origin) / self.stretch, direction @ self.turn / self.stretch
        d = d.where(d.abs() > 1e-9, torch.full_like(d, 1e-9))
        if self.kind == "box":
            a, b = (-1 - o) / d, (1 - o) / d
            enter, leave = torch.minimum(a, b).amax(1), torch.maximum(a, b).amin(1)
        else:
            flat = torch.tensor([1.0, 0.0, 1.0]) if self.kind == "tube" else torch.ones(3)
            square, half, rest = (d * d * flat).sum(1), (o * d * flat).sum(1), (o * o * flat).sum(1) - 1
            root = half * half - square * rest
            spread = root.clamp(min=0).sqrt()
            enter, leave = (-half - spread) / square, (-half + spread) / square
            leave = leave.where(root > 0, torch.full_like(leave, -1.0))
            if self.kind == "tube":
                a, b = (-1 - o[:, 1]) / d[:, 1], (1 - o[:, 1]) / d[:, 1]
                enter, leave = torch.maximum(enter, torch.minimum(a, b)), torch.minimum(leave, torch.maximum(a, b))
        missed = (leave <= enter) | (leave <= 1e-4)
        infinite = torch.full_like(enter, math.inf)
        if not self.cut:
            return enter.where(enter > 1e-4, leave).where(~missed, infinite)
        best = infinite
        for t in (leave, enter):
            solid = ~missed & (t > 1e-4)
            rows = solid.nonzero()[:, 0]
            keep = CUTS[self.cut](origin[rows] + t[rows, None] * direction[rows], o[rows] + t[rows, None] * d[rows])
            best[rows[keep]] = t[rows[keep]]
        return best

    def normal(self, p: Tensor) -> Tensor:
        """Outward normals at surface points."""
        q = self.local(p) / self.stretch
        if self.kind == "box":
            n = torch.nn.functional.one_hot((q.abs()).argmax(1), 3) * q.sign()
        elif self.kind == "tube":
            cap = (q[:, 1].abs() > 0.9999)[:, None]
            n = torch.where(cap, q * torch.tensor([0.0, 1.0, 0.0]), q * torch.tensor([1.0, 0.0, 1.0]))
        else:
            n = q
        return torch.nn.functional.normalize((n / self.stretch) @ self.turn.T, dim=-1)


CUTS = {
    # Holes between leaves; the triangle of a pennant, pointing down.
    "leaves": lambda p, q: noise(p * 11, octaves=2) > 0.50,
    "pennant": lambda p, q: q[:, 0].abs() < (q[:, 1] + 1) / 2,
}


@dataclass(eq=False)
class Group:
    """Solids that stand together, with the box around them."""

    solids: list[Solid]

    def __post_init__(self) -> None:
        corners = torch.tensor([[(i >> k & 1) * 2.0 - 1 for k in range(3)] for i in range(8)])
        points = torch.cat([corners * s.stretch @ s.turn.T + s.middle for s in self.solids])
        self.low, self.high = points.amin(0) - 1e-3, points.amax(0) + 1e-3


def box(x: tuple[float, float], y: tuple[float, float], z: tuple[float, float], material: str, **more) -> Solid:
    """A box from its extents."""
    centre = tuple((a + b) / 2 for a, b in (x, y, z))
    return Solid("box", centre, tuple(abs(b - a) / 2 for a, b in (x, y, z)), material, **more)


def tube(x: float, z: float, radius: float, y: tuple[float, float], material: str, **more) -> Solid:
    """An upright cylinder."""
    return Solid("tube", (x, sum(y) / 2, z), (radius, (y[1] - y[0]) / 2, radius), material, **more)


def ball(x: float, y: float, z: float, radius: float | tuple[float, float, float], material: str, **more) -> Solid:
    """A ball, or an ellipsoid from three radii."""
    return Solid("ball", (x, y, z), radius if isinstance(radius, tuple) else (radius,) * 3, material, **more)


def wall(
    axis: str, at: float, thick: float, span: tuple[float, float], top: float, material: str, openings: list
) -> list[Solid]:
    """A wall across x or z with rectangular openings (low, high, bottom, top), sorted and apart."""

    def piece(a: float, b: float, y0: float, y1: float) -> Solid:
        depth = tuple(sorted((at, at + thick)))
        return box((a, b), (y0, y1), depth, material) if axis == "x" else box(depth, (y0, y1), (a, b), material)

    pieces, edge = [], span[0]
    columns = sorted({(a, b) for a, b, _, _ in openings})
    for a, b in columns:
        pieces.append(piece(edge, a, 0, top))
        y = 0.0
        for _, _, y0, y1 in sorted((o for o in openings if o[:2] == (a, b)), key=lambda o: o[2]):
            if y0 > y:
                pieces.append(piece(a, b, y, y0))
            y = y1
        pieces.append(piece(a, b, y, top))
        edge = b
    return [*pieces, piece(edge, span[1], 0, top)]
