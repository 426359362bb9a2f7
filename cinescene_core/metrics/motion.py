"""Frames against the next frame: flicker, with and without knowing how the picture moves."""

from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import grid_sample

from ..checks import ShapeError, check_finite, check_shape
from .frames import check_frames

_EDGE_TOLERANCE = 1e-3
"""Pixels a flow may lead outside the picture: rounding of float32 coordinates."""


def temporal_flickering(frames: Tensor) -> float:
    """VBench's temporal flickering: (255 - mean absolute difference of neighbouring frames in 8-bit levels) / 255.

    1 is a still. Camera motion lowers it like flicker does, so only videos of equal camera paths compare.

    Args:
        frames: [f, h, w, 3] in 0..1, at least two frames.

    Raises:
        ShapeError, ValueError: what `check_frames` refuses, or a single frame.
    """
    _check_frame_count(check_frames("frames", frames)["f"])
    means = [float((after.double() - before.double()).abs().mean()) for before, after in pairwise(frames)]
    return (255 - 255 * sum(means) / len(means)) / 255


def warp_error(frames: Tensor, flow: Tensor, visible: Tensor) -> Tensor:
    """Mean absolute difference between each frame and the next one, followed along the exact flow.

    Frame t + 1 is sampled, bilinearly, where the flow says that each pixel of frame t has gone; what differs there is
    flicker or a place that changes, whatever the camera does. Bilinear sampling blurs detail, which leaves a floor:
    compare with the value of the ground truth's own frames.

    Args:
        frames: [f, h, w, 3] in 0..1.
        flow: [f - 1, h, w, 2] displacement from frame t to t + 1, in pixels right and down.
        visible: [f - 1, h, w] bool, the pixels of frame t that are seen in frame t + 1.

    Returns:
        [f - 1] float64 in 0..1, on the CPU; NaN where no pixel is visible.

    Raises:
        ShapeError, ValueError: what `check_frames` refuses, a single frame, a flow or mask that does not fit, or
            visible pixels that the flow leads out of the picture.
    """
    sizes = check_frames("frames", frames)
    _check_frame_count(sizes["f"])
    pairs, height, width = sizes["f"] - 1, sizes["h"], sizes["w"]
    check_shape("flow", flow, f"{pairs} {height} {width} 2")
    check_shape("visible", visible, f"{pairs} {height} {width}")
    if visible.dtype != torch.bool:
        raise ShapeError(
            f"visible must be bool, one value per pixel; got {visible.dtype}. Compare it with a threshold."
        )
    check_finite("flow at visible pixels", flow[visible])
    return torch.stack([_pair_error(frames[t : t + 2], flow[t], visible[t], t) for t in range(pairs)]).cpu()


def _pair_error(pair: Tensor, flow: Tensor, visible: Tensor, number: int) -> Tensor:
    """Mean absolute difference of two frames along the flow between them."""
    before, after = pair.double()
    height, width = visible.shape
    x = torch.arange(width, dtype=torch.float64, device=flow.device) + 0.5
    y = torch.arange(height, dtype=torch.float64, device=flow.device) + 0.5
    centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # [h, w, 2]
    places = (centres + flow.double()).where(visible[..., None], centres)
    size = places.new_tensor([width, height])
    outside = int(((places < -_EDGE_TOLERANCE) | (places > size + _EDGE_TOLERANCE)).any(-1).sum())
    if outside:
        raise ValueError(
            f"The flow leads {outside} visible pixels of frame {number} out of the picture. "
            "Clear them in `visible`: nothing can be compared there."
        )
    # From edge to edge in -1..1; the outer half of the border's pixels repeats them.
    grid = (places / size * 2 - 1)[None]
    picture = rearrange(after, "h w c -> 1 c h w")
    sampled = grid_sample(picture, grid, mode="bilinear", padding_mode="border", align_corners=False)
    difference = (rearrange(sampled, "1 c h w -> h w c") - before).abs().mean(-1)
    return difference[visible].mean()


def _check_frame_count(count: int) -> None:
    if count < 2:
        raise ShapeError(f"frames must hold at least 2 frames to compare neighbours; got {count}. Give a video.")
