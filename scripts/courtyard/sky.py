"""The sun and the sky."""

import torch
from torch import Tensor

from .patterns import mix, noise

SUN_DIRECTION = torch.nn.functional.normalize(torch.tensor([-0.52, 0.95, -0.62]), dim=0)
SUN_COLOUR = torch.tensor([3.3, 2.95, 2.45])


def sky(direction: Tensor) -> Tensor:
    """[n, 3] light of a fair-weather sky with a few clouds, and a sun with a glow."""
    height = direction[:, 1].clamp(min=0)
    colour = mix(torch.tensor([0.78, 0.86, 0.95]), torch.tensor([0.13, 0.32, 0.78]), 1 - (1 - height) ** 2.2)
    flat = direction / (height[:, None] + 0.25)
    plane = torch.stack([flat[:, 0] * 1.3 + 4.2, torch.full_like(height, 0.5), flat[:, 2] * 1.7 + 1.1], dim=-1)
    cloud = ((noise(plane * 1.2, octaves=5) - 0.53) * 5.5).clamp(0, 1) * (height * 5).clamp(0, 1)
    colour = mix(colour, torch.tensor([1.12, 1.08, 1.04]), 0.85 * cloud)
    towards = (direction * SUN_DIRECTION).sum(-1).clamp(min=0)
    glow = 0.35 * towards**24 + 0.6 * towards**220 + 12 * (towards > 0.9994)
    return colour + glow[:, None] * torch.tensor([1.0, 0.92, 0.78])
