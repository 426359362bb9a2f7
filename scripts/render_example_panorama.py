"""Renders the bundled panorama: a walled courtyard, seen from its middle at eye height.

    python scripts/render_example_panorama.py [--width 2048] [--passes 16] [--out cinescene_core/assets/courtyard.jpg]

A small path tracer: one sun with soft edges, a sky, one bounce of light. Everything in the picture is
made by this file, so the panorama carries the project's own licence. The same arguments give the same picture.
Inside this file y points up: x right, y up, z forward, metres.
"""

import argparse
import math
from pathlib import Path

import torch
from courtyard.materials import surface
from courtyard.place import COURTYARD, SOLIDS
from courtyard.sky import SUN_COLOUR, SUN_DIRECTION, sky
from PIL import Image
from torch import Tensor

from cinescene_core.panorama import pixels_to_directions

EYE = (0.0, 1.6, 0.0)
SUN_RADIUS = 0.011  # of the unit sphere; a little larger than the real sun, for softer shadows
FAR = 1e9
EXPOSURE = 1.05


def intersect(origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest hit of [n, 3] rays: distances [n] (FAR for none) and solid numbers [n]."""
    nearest = torch.full((len(origin),), FAR)
    solid = torch.zeros(len(origin), dtype=torch.long)
    for group in COURTYARD:
        inverse = 1 / direction.where(direction.abs() > 1e-9, torch.full_like(direction, 1e-9))
        low, high = (group.low - origin) * inverse, (group.high - origin) * inverse
        enter, leave = torch.minimum(low, high).amax(1), torch.maximum(low, high).amin(1)
        rays = ((leave > enter.clamp(min=0)) & (enter < nearest)).nonzero()[:, 0]
        for shape in group.solids if len(rays) else ():
            distance = shape.hit(origin[rays], direction[rays])
            closer = distance < nearest[rays]
            nearest[rays[closer]] = distance[closer]
            solid[rays[closer]] = shape.number
    return nearest, solid


def describe(
    origin: Tensor, direction: Tensor, distance: Tensor, solid: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Point, normal, colour and mirror share of hits."""
    point = origin + distance[:, None] * direction
    normal, colour, mirror = torch.zeros_like(point), torch.zeros_like(point), torch.zeros(len(point))
    for number in solid.unique().tolist():
        rows = (solid == number).nonzero()[:, 0]
        normal[rows], colour[rows], mirror[rows] = surface(SOLIDS[number], point[rows], direction[rows])
    return point, normal, colour, mirror


def sunlight(point: Tensor, normal: Tensor, randomness: Tensor) -> Tensor:
    """[n, 3] light that arrives from the sun, with the shadows of everything in between."""
    angle, radius = randomness[:, 0] * math.tau, randomness[:, 1].sqrt() * SUN_RADIUS
    right = torch.linalg.cross(SUN_DIRECTION, torch.tensor([0.0, 1.0, 0.0]))
    above = torch.linalg.cross(right, SUN_DIRECTION)
    offset = radius[:, None] * (angle.cos()[:, None] * right + angle.sin()[:, None] * above)
    towards = torch.nn.functional.normalize(SUN_DIRECTION + offset, dim=-1)
    facing = (normal * towards).sum(-1).clamp(min=0)
    light = torch.zeros_like(point)
    lit = (facing > 0).nonzero()[:, 0]
    if len(lit):
        distance, _ = intersect((point + 1e-3 * normal)[lit], towards[lit])
        light[lit] = (facing[lit] * (distance == FAR))[:, None] * SUN_COLOUR
    return light


def around(normal: Tensor, randomness: Tensor) -> Tensor:
    """Random [n, 3] directions over the hemisphere of each normal, more of them along it."""
    angle, height = randomness[:, 0] * math.tau, 2 * randomness[:, 1] - 1
    ring = (1 - height.square()).clamp(min=0).sqrt()
    ball = torch.stack([ring * angle.cos(), height, ring * angle.sin()], dim=-1)
    return torch.nn.functional.normalize(normal + 0.999 * ball, dim=-1)


def trace(direction: Tensor, randomness: Tensor) -> Tensor:
    """What the eye meets along [n, 3] directions; `randomness` is [n, 6] in 0..1.

    Returns:
        [n, 13]: light seen directly, colour that reflects bounced light, bounced light, normal, log distance.
    """
    origin = torch.tensor(EYE).expand_as(direction)
    distance, solid = intersect(origin, direction)
    result = torch.zeros(len(direction), 13)
    result[:, 0:3] = sky(direction).clamp(max=6)
    seen = (distance < FAR).nonzero()[:, 0]
    if not len(seen):
        return result
    randomness, direction, distance = randomness[seen], direction[seen], distance[seen]
    point, normal, colour, mirror = describe(origin[seen], direction, distance, solid[seen])
    reflected = direction - 2 * (direction * normal).sum(-1, keepdim=True) * normal
    shine = torch.where(reflected[:, 1:2] > 0.15, sky(reflected), torch.tensor([0.20, 0.17, 0.14])).clamp(max=6)
    matt = colour * (1 - mirror[:, None])
    direct = matt * sunlight(point, normal, randomness[:, 0:2]) + mirror[:, None] * shine
    arriving = bounced(point + 1e-3 * normal, around(normal, randomness[:, 2:4]), randomness[:, 4:6])
    result[seen] = torch.cat([direct, matt, arriving, normal, distance.log()[:, None]], dim=-1)
    return result


def bounced(start: Tensor, direction: Tensor, randomness: Tensor) -> Tensor:
    """[n, 3] light that arrives from the sky or from what stands in that direction."""
    distance, solid = intersect(start, direction)
    arriving = sky(direction).clamp(max=2)
    hit = (distance < FAR).nonzero()[:, 0]
    if len(hit):
        there, facing, paint, _ = describe(start[hit], direction[hit], distance[hit], solid[hit])
        # What has bounced twice is taken as an even glow.
        arriving[hit] = paint * (sunlight(there, facing, randomness[hit]) + torch.tensor([0.38, 0.36, 0.35]))
    return arriving


def smooth(light: Tensor, guide: Tensor, rounds: int = 4) -> Tensor:
    """Average [h, w, 3] light over neighbours on the same surface: an a-trous filter guided by normal and distance."""
    taps = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
    for number in range(rounds):
        step, total, weights = 2**number, torch.zeros_like(light), torch.zeros_like(light[..., :1])
        for i, row in enumerate(taps):
            for j, column in enumerate(taps):
                move = ((i - 2) * step, (j - 2) * step)  # rolling wraps around the seam; the poles are sky and floor
                difference = (guide.roll(move, (0, 1)) - guide).square()
                apart = 12 * difference[..., :3].sum(-1, keepdim=True) + 60 / step * difference[..., 3:]
                weight = row * column * torch.exp(-apart)
                total += weight * light.roll(move, (0, 1))
                weights += weight
        light = total / weights
    return light


def develop(linear: Tensor) -> Tensor:
    """Linear light to sRGB in 0..1: an exposure, a shoulder that keeps highlights, the sRGB curve."""
    x = linear * EXPOSURE
    x = x * (1 + x / 9) / (1 + 0.62 * x)
    x = x.clamp(0, 1)
    return torch.where(x < 0.0031308, 12.92 * x, 1.055 * x.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def render(width: int, passes: int, rays_at_once: int = 2**18) -> Tensor:
    """[width / 2, width, 3] picture in 0..1, the mean of `passes` jittered passes."""
    height, generator = width // 2, torch.Generator().manual_seed(2026)
    total = torch.zeros(height * width, 13)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    corner = torch.stack([x, y], dim=-1).reshape(-1, 2).double()
    shift = torch.rand(height * width, 6, generator=generator)
    # Adding these numbers again and again covers the 8 dimensions evenly (the plastic number's sequence).
    step = torch.tensor([1.0850702 ** -(k + 1) for k in range(8)])
    for number in range(passes):
        position = (0.5 + (number + 1) * step) % 1
        pixels = corner + position[6:].double()
        directions = pixels_to_directions(pixels, height, width).float() * torch.tensor([1.0, -1.0, 1.0])
        randomness = (shift + position[:6]) % 1
        for first in range(0, len(total), rays_at_once):
            part = slice(first, first + rays_at_once)
            total[part] += trace(directions[part], randomness[part])
        print(f"pass {number + 1} of {passes}", flush=True)
    picture = (total / passes).reshape(height, width, 13)
    light = smooth(picture[..., 6:9], picture[..., 9:])
    return develop(picture[..., 0:3] + picture[..., 3:6] * light)


def main() -> None:
    """Render and save; quality 90 keeps the file well under a megabyte."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--passes", type=int, default=16)
    default = Path(__file__).parents[1] / "cinescene_core" / "assets" / "courtyard.jpg"
    parser.add_argument("--out", type=Path, default=default)
    arguments = parser.parse_args()
    picture = (render(arguments.width, arguments.passes) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(picture).save(arguments.out, quality=90, optimize=True)


if __name__ == "__main__":
    main()
