"""Checks that every picture metric makes before it counts anything."""

import torch
from torch import Tensor

from ..checks import ShapeError, check_finite, check_shape

RANGE_TOLERANCE = 1e-4
"""How far a value may lie outside 0..1: rounding of filters, well under half of an 8-bit level."""


def check_frames(name: str, frames: Tensor) -> dict[str, int]:
    """Require a video of at least one frame, [f, h, w, 3] floating point in 0..1; return f, h and w.

    Raises:
        ShapeError: another shape, an empty side, or integers.
        ValueError: not finite, or outside 0..1.
    """
    sizes = check_shape(name, frames, "f h w 3")
    if not frames.numel():
        raise ShapeError(f"{name} is empty: {list(frames.shape)}. Give at least one frame of one pixel.")
    if not frames.is_floating_point():
        raise ShapeError(f"{name} must be floating point in 0..1; got {frames.dtype}. Convert and divide by 255.")
    check_finite(name, frames)
    low, high = (float(edge) for edge in torch.aminmax(frames))
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise ValueError(
            f"{name} must lie in 0..1; got {low:g} to {high:g}. Divide 8-bit values by 255, shift -1..1 to 0..1, "
            "or clamp what a decoder overshoots."
        )
    return sizes


def check_pair(result: Tensor, truth: Tensor) -> dict[str, int]:
    """Require two videos of one size and length, as `check_frames`; return f, h and w.

    Raises:
        ShapeError, ValueError: as `check_frames`, or the two do not match.
    """
    sizes = check_frames("truth", truth)
    check_frames("result", result)
    if result.shape != truth.shape:
        raise ShapeError(
            f"result and truth must have one shape; got {list(result.shape)} and {list(truth.shape)}. "
            "Compare the same frames at the same size."
        )
    return sizes
