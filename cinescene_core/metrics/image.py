"""Pictures against pictures: PSNR, SSIM and how much detail is left. One value per frame; `average` makes the means."""

import math

import torch
from einops import rearrange, reduce
from torch import Tensor
from torch.nn.functional import pad

from ..checks import ShapeError, check_shape
from .frames import check_pair

SSIM_WINDOW = 11
"""Pixels on a side of SSIM's Gaussian window (Wang et al. 2004)."""
SSIM_SIGMA = 1.5
"""Pixels."""
SSIM_CONSTANTS = (0.01**2, 0.03**2)
"""(K1 L)^2 and (K2 L)^2 for pictures in 0..1."""
DETAIL_SIGMA = 1.0
"""Pixels: detail is what a Gaussian blur of this width takes away."""
_DETAIL_RADIUS = 4
"""Pixels on either side of the blur's kernel: four sigmas, 6e-5 of its weight lies outside."""
_LEAST_DETAIL = 1e-4
"""Detail of a ground truth below which a ratio says nothing: a fortieth of an 8-bit level."""


def psnr(result: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio of each frame, in dB: 10 log10(1 / mean squared error), for a peak of 1.

    A blurred picture scores well here; read it beside `detail_ratio`.

    Args:
        result, truth: [f, h, w, 3] in 0..1.
        mask: [f, h, w] bool, the pixels that count (background, subject); None counts all.

    Returns:
        [f] float64 on the CPU; infinite for equal frames, NaN for frames without a pixel in the mask.

    Raises:
        ShapeError, ValueError: what `check_pair` refuses, or a mask of another shape or type.
    """
    sizes = check_pair(result, truth)
    squared = torch.stack([(a.double() - b.double()).square().mean(-1) for a, b in zip(result, truth, strict=True)])
    if mask is None:
        return -10 * reduce(squared, "f h w -> f", "mean").log10().cpu()
    check_shape("mask", mask, f"{sizes['f']} {sizes['h']} {sizes['w']}")
    if mask.dtype != torch.bool:
        raise ShapeError(f"mask must be bool, one value per pixel; got {mask.dtype}. Compare it with a threshold.")
    total = reduce(squared.where(mask, 0.0), "f h w -> f", "sum")
    return -10 * (total / reduce(mask.double(), "f h w -> f", "sum")).log10().cpu()


def ssim(result: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each frame (Wang et al. 2004).

    Gaussian window of 11 pixels and sigma 1.5, variances of the population, windows inside the picture only, each
    colour alone, then the mean. torchmetrics also counts windows over a mirrored border (7e-4 apart on 30 x 24 pixels),
    and scikit-image's default is a flat window of 7.

    Args:
        result, truth: [f, h, w, 3] in 0..1, at least 11 x 11 pixels.

    Returns:
        [f] float64 on the CPU, 1 for equal frames.

    Raises:
        ShapeError, ValueError: what `check_pair` refuses, or pictures smaller than the window.
    """
    sizes = check_pair(result, truth)
    if min(sizes["h"], sizes["w"]) < SSIM_WINDOW:
        raise ShapeError(
            f"SSIM needs pictures of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels; got {sizes['w']} x {sizes['h']}. "
            "Score larger frames."
        )
    return torch.stack([_frame_ssim(a, b) for a, b in zip(result, truth, strict=True)]).cpu()


def detail_ratio(result: Tensor, truth: Tensor) -> Tensor:
    """Fine detail of each result frame as a share of its ground truth's: 1 when alike, below 1 when blurred.

    Detail is the root mean square of what a Gaussian blur of sigma 1 pixel takes away, over pixels and colours. The
    ratio does not ask whether the detail is right, and noise counts as detail: it tells a soft result from a wrong
    one, beside PSNR, which rewards softness.

    Args:
        result, truth: [f, h, w, 3] in 0..1, at least 5 x 5 pixels.

    Returns:
        [f] float64 on the CPU; NaN where the ground truth is flat.

    Raises:
        ShapeError, ValueError: what `check_pair` refuses, or pictures smaller than the blur.
    """
    sizes = check_pair(result, truth)
    if min(sizes["h"], sizes["w"]) <= _DETAIL_RADIUS:
        raise ShapeError(
            f"The detail ratio needs pictures of at least {_DETAIL_RADIUS + 1} pixels on a side; "
            f"got {sizes['w']} x {sizes['h']}. Score larger frames."
        )
    found, wanted = (torch.stack([_detail(frame) for frame in frames]) for frames in (result, truth))
    return (found / wanted).where(wanted > _LEAST_DETAIL, torch.nan).cpu()


def _frame_ssim(result: Tensor, truth: Tensor) -> Tensor:
    x, y = (rearrange(frame.double(), "h w c -> c h w") for frame in (result, truth))
    maps = torch.cat([x, y, x * x, y * y, x * y])
    means = _blur(maps, SSIM_SIGMA, SSIM_WINDOW // 2)
    mean_x, mean_y, square_x, square_y, product = rearrange(means, "(m c) h w -> m c h w", m=5)
    c1, c2 = SSIM_CONSTANTS
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    variances = square_x - mean_x**2 + square_y - mean_y**2
    return (luminance * (2 * (product - mean_x * mean_y) + c2) / (variances + c2)).mean()


def _detail(frame: Tensor) -> Tensor:
    picture = rearrange(frame.double(), "h w c -> c h w")
    blurred = _blur(pad(picture, (_DETAIL_RADIUS,) * 4, mode="reflect"), DETAIL_SIGMA, _DETAIL_RADIUS)
    return (picture - blurred).square().mean().sqrt()


def _blur(pictures: Tensor, sigma: float, radius: int) -> Tensor:
    """Gaussian blur of [..., h, w] where the kernel fits: each side loses `radius` pixels."""
    weights = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in range(-radius, radius + 1)]
    for axis in (-2, -1):
        length = pictures.shape[axis] - 2 * radius
        total = torch.zeros_like(pictures.narrow(axis, 0, length))
        for start, weight in enumerate(weights):  # seven times faster in float64 than torch's convolution
            total.add_(pictures.narrow(axis, start, length), alpha=weight / sum(weights))
        pictures = total
    return pictures
