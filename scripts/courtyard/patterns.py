"""Noise, stripes and colours, from which the materials are mixed."""

import torch
from torch import Tensor


def hash_cells(cell: Tensor) -> Tensor:
    """Numbers in 0..1 from [..., d] integer cells."""
    mixed = torch.zeros(cell.shape[:-1], dtype=torch.int64)
    for axis, factor in zip(range(cell.shape[-1]), (73856093, 19349663, 83492791), strict=False):
        mixed ^= cell[..., axis].long() * factor
    mixed = (mixed ^ (mixed >> 13)) * 1274126177 & 0x7FFFFFFF
    return ((mixed ^ (mixed >> 16)) & 0xFFFFFF).float() / 0xFFFFFF


def noise(p: Tensor, octaves: int = 1) -> Tensor:
    """Smooth noise in 0..1 at [n, 3] points, about one lump per unit."""
    total, weight = torch.zeros(len(p)), 0.0
    for octave in range(octaves):
        q = p * 2**octave + 17.3 * octave
        cell, f = q.floor(), q - q.floor()
        f = f * f * (3 - 2 * f)
        value = torch.zeros(len(p))
        for corner in range(8):
            offset = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2 & 1])
            share = torch.where(offset.bool(), f, 1 - f).prod(-1)
            value += share * hash_cells(cell + offset)
        total += value / 2**octave
        weight += 1 / 2**octave
    return total / weight


def rgb(*values: float) -> Tensor:
    """A colour from sRGB 0..255, as linear reflectance."""
    return (torch.tensor(values) / 255) ** 2.2


def mix(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Blend colours; `share` [n] of b."""
    return a + (b - a) * share[:, None].clamp(0, 1)


def lines(value: Tensor, period: float, width: float) -> Tensor:
    """1 within `width` of a multiple of `period`."""
    return ((value / period + 0.5) % 1 * period - period / 2).abs().lt(width / 2).float()
