"""Where rays meet solids. Every solid gives the nearest entry from outside, or `MISS`.

Rays of one view leave one point: what depends on the point alone is one number per view, [v, 1],
and a ray costs what its direction costs, [v, r]. Directions need not have unit length; distances
count in their lengths. No branch depends on data, so that the whole tracer compiles to few loops.
"""

from typing import NamedTuple

import torch
from torch import Tensor

MISS = 1e9
"""Distance of a ray that meets nothing."""
NEAREST = 1e-4
"""Nearer hits are the surface a ray starts on."""


class Vector(NamedTuple):
    """Three components of equal shape, kept apart: arithmetic on each is contiguous."""

    x: Tensor
    y: Tensor
    z: Tensor

    def dot(self, other: "Vector") -> Tensor:
        """Inner product."""
        return self.x * other.x + self.y * other.y + self.z * other.z


def safe(component: Tensor) -> Tensor:
    """The component of a direction, moved off zero so that it can divide."""
    return torch.where(component.abs() < 1e-9, 1e-9, component)


def box_entry(origin: Vector, direction: Vector) -> Tensor:
    """Enter the cube from -1 to 1 in its own axes (Kay and Kajiya's slabs)."""
    inverse = Vector(1 / safe(direction.x), 1 / safe(direction.y), 1 / safe(direction.z))
    middle = Vector(-origin.x * inverse.x, -origin.y * inverse.y, -origin.z * inverse.z)
    half = Vector(inverse.x.abs(), inverse.y.abs(), inverse.z.abs())
    entry = torch.maximum(torch.maximum(middle.x - half.x, middle.y - half.y), middle.z - half.z)
    leave = torch.minimum(torch.minimum(middle.x + half.x, middle.y + half.y), middle.z + half.z)
    return torch.where((entry < leave) & (entry > NEAREST), entry, MISS)


def sphere_entry(origin: Vector, direction: Vector) -> Tensor:
    """Enter the unit sphere; an ellipsoid is one in stretched axes."""
    a, b, c = direction.dot(direction), origin.dot(direction), origin.dot(origin) - 1
    discriminant = b * b - a * c
    entry = (-b - discriminant.clamp(min=0).sqrt()) / a
    return torch.where((discriminant > 0) & (entry > NEAREST), entry, MISS)


def pillar_entry(origin: Vector, direction: Vector) -> Tensor:
    """Enter the upright cylinder of radius 1 that stands from y = 0 down without end."""
    a = direction.x * direction.x + direction.z * direction.z + 1e-12
    b = origin.x * direction.x + origin.z * direction.z
    discriminant = b * b - a * (origin.x * origin.x + origin.z * origin.z - 1)
    side = (-b - discriminant.clamp(min=0).sqrt()) / a
    side_hit = (discriminant > 0) & (side > NEAREST) & (origin.y + side * direction.y > 0)
    lid = -origin.y / safe(direction.y)
    x, z = origin.x + lid * direction.x, origin.z + lid * direction.z
    lid_hit = (x * x + z * z < 1) & (lid > NEAREST) & (direction.y > 0)
    return torch.minimum(torch.where(side_hit, side, MISS), torch.where(lid_hit, lid, MISS))


def cone_entry(origin: Vector, direction: Vector) -> Tensor:
    """Enter the cone with its tip at y = -1 and its base, of radius 1, at y = 1."""
    tip = (origin.y + 1) / 2
    slope = direction.y / 2
    a = direction.x * direction.x + direction.z * direction.z - slope * slope
    b = origin.x * direction.x + origin.z * direction.z - tip * slope
    c = origin.x * origin.x + origin.z * origin.z - tip * tip
    discriminant = b * b - a * c
    root = discriminant.clamp(min=0).sqrt()
    nearest = torch.full_like(b, MISS)
    for distance in ((-b - root) / safe(a), (-b + root) / safe(a)):
        on_it = (discriminant > 0) & (distance > NEAREST) & ((origin.y + distance * direction.y).abs() < 1)
        nearest = torch.minimum(nearest, torch.where(on_it, distance, MISS))
    base = (1 - origin.y) / safe(direction.y)
    x, z = origin.x + base * direction.x, origin.z + base * direction.z
    on_base = (x * x + z * z < 1) & (base > NEAREST)
    return torch.minimum(nearest, torch.where(on_base, base, MISS))
