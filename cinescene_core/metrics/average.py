"""Means that say what they are means of: frames first, then videos, and how many had no value."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Average:
    """One cell of a table of results."""

    value: float | None
    """Mean over videos of each video's mean over frames; None when no video has a value."""
    videos: int
    """How many videos it is a mean of."""
    missing: int
    """How many videos had no value (failed, undefined or without weights) and were left out."""


def average(per_video: Sequence[Tensor | float | None]) -> Average:
    """Mean over frames, then over videos, as the paper's tables are made.

    The order matters for PSNR: errors of 0.01 and 0.0001 in two frames are 30 dB this way and 23 dB when the errors
    are pooled first.

    Args:
        per_video: for each video its number, its [f] values per frame, or None where there is none. NaN marks a frame
            without a value, such as a mask without a pixel; a video of only such frames has none.
    """
    means = [mean for mean in map(_video_mean, per_video) if mean is not None]
    value = math.fsum(means) / len(means) if means else None
    return Average(value=value, videos=len(means), missing=len(per_video) - len(means))


def _video_mean(values: Tensor | float | None) -> float | None:
    if values is None:
        return None
    frames = torch.as_tensor(values, dtype=torch.float64).reshape(-1)
    known = frames[~frames.isnan()]
    return float(known.mean()) if len(known) else None
