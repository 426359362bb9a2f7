"""Rotary positions over (frame, row, column), as Wan2.1 splits them."""

from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor

THETA = 10000.0


class Rotary(NamedTuple):
    """Cosines and sines of every token's rotation, [n, c/2] float32 each."""

    cos: Tensor
    sin: Tensor


def axis_widths(head_width: int) -> tuple[int, int, int]:
    """Channels of a head that turn with frame, row and column: 128 gives 44, 42, 42."""
    plane = 2 * (head_width // 6)
    return head_width - 2 * plane, plane, plane


def rotary_tables(frames: Tensor, rows: int, columns: int, head_width: int, device: torch.device) -> Rotary:
    """Rotations of a token grid whose frames stand at given temporal positions.

    Args:
        frames: [t] temporal positions on the CPU, in the order of the sequence.
        rows, columns: token grid of every frame.
        head_width: channels of one attention head.
        device: where the tables are needed.

    Returns:
        Tables for the t * rows * columns tokens, frame by frame, row by row.
    """
    axes = (frames, torch.arange(rows, device="cpu"), torch.arange(columns, device="cpu"))
    cosines, sines = [], []
    for axis, width in zip(axes, axis_widths(head_width), strict=True):
        # float64 on the host, one short table per axis: positions times frequencies lose digits in float32.
        frequency = THETA ** -(torch.arange(0, width, 2, dtype=torch.float64, device="cpu") / width)
        angle = axis.to(torch.float64)[:, None] * frequency
        cosines.append(angle.cos().float().to(device))
        sines.append(angle.sin().float().to(device))
    return Rotary(over_grid(*cosines), over_grid(*sines))


def over_grid(by_frame: Tensor, by_row: Tensor, by_column: Tensor) -> Tensor:
    """Tables of the three axes, [t, a], [r, b] and [s, c], to one row per token: [t r s, a + b + c]."""
    sizes = {"t": len(by_frame), "r": len(by_row), "s": len(by_column)}
    parts = (
        repeat(by_frame, "t c -> t r s c", r=sizes["r"], s=sizes["s"]),
        repeat(by_row, "r c -> t r s c", t=sizes["t"], s=sizes["s"]),
        repeat(by_column, "s c -> t r s c", t=sizes["t"], r=sizes["r"]),
    )
    return rearrange(torch.cat(parts, dim=-1), "t r s c -> (t r s) c")


def apply_rotary(x: Tensor, rotary: Rotary) -> Tensor:
    """Turn neighbouring channel pairs of `x` [b, heads, n, c] by their token's angles."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([even * rotary.cos - odd * rotary.sin, even * rotary.sin + odd * rotary.cos], dim=-1)
    return turned.flatten(-2).to(x.dtype)
