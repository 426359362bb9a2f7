"""Scale and similarity between two camera paths: what an estimator of poses leaves open."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ..checks import ShapeError, check_choice, check_finite, check_shape

ScaleMethod = Literal["max_norm", "least_squares", "first_pair"]
MIN_SPREAD = 1e-3
"""Least extent of the camera centres across their main direction, as a share of the extent along it: an arc of one
degree has 2e-3."""


def alignment_scale(truth: Tensor, estimate: Tensor, method: ScaleMethod) -> float:
    """Number that estimated camera centres are multiplied by to fit the true ones.

    - `max_norm`: ratio of the largest distances from the start (CamI2V, which scales each path by its own).
    - `least_squares`: sum of <truth, estimate> over sum of <estimate, estimate>, never below 0: no scale turns a path
      around.
    - `first_pair`: ratio of the first steps (CameraCtrl); one step decides, so its error is everyone's.

    Args:
        truth, estimate: [f, 3] camera centres relative to the first frame, which is at the origin.
        method: one of the three.

    Returns:
        The scale; 0 where the estimate does not move, and so has none.

    Raises:
        ShapeError, ValueError: not two [f, 3] paths of one length, fewer than two frames, not finite, or an unknown
            method.
    """
    check_choice("The method of alignment", method, get_args(ScaleMethod))
    truth, estimate = _check_paths(truth, estimate, "truth", "estimate", 2)
    if method == "least_squares":
        upper, lower = (truth * estimate).sum().clamp(min=0), estimate.square().sum()
    elif method == "max_norm":
        upper, lower = truth.norm(dim=-1).max(), estimate.norm(dim=-1).max()
    else:
        upper, lower = (truth[1] - truth[0]).norm(), (estimate[1] - estimate[0]).norm()
    return float(upper / lower) if lower > 0 else 0.0


@dataclass(frozen=True, eq=False)
class Similarity:
    """target = scale * rotation @ source + translation."""

    scale: float
    rotation: Tensor
    """[3, 3] float64, determinant +1."""
    translation: Tensor
    """[3] float64."""
    rmse: float
    """Root mean square distance that remains, in units of the target."""


def umeyama(source: Tensor, target: Tensor) -> Similarity:
    """Least-squares similarity that takes points to points (Umeyama 1991).

    Args:
        source, target: [n, 3] corresponding points, at least three.

    Raises:
        ShapeError: other shapes or fewer than three points.
        ValueError: not finite, or the points lie on a line or in one place, which leaves the rotation open: a pan has
            all camera centres in one place, a dolly has them on a line.
    """
    source, target = _check_paths(source, target, "source", "target", 3)
    for name, points in (("source", source), ("target", target)):
        spread = torch.linalg.svdvals(points - points.mean(0))
        if spread[1] <= MIN_SPREAD * spread[0]:
            raise ValueError(
                f"{name} points lie on a line or in one place, so no rotation can be fitted. "
                "Use the relative poses and alignment_scale instead."
            )
    source_mean, target_mean = source.mean(0), target.mean(0)
    a, b = source - source_mean, target - target_mean
    u, singular, vt = torch.linalg.svd(b.T @ a / len(source))
    signs = torch.ones(3, dtype=torch.float64, device=source.device)
    signs[2] = torch.linalg.det(u @ vt).sign()  # a rotation, never a mirror
    rotation = u @ torch.diag(signs) @ vt
    scale = (singular * signs).sum() / a.square().sum(-1).mean()
    translation = target_mean - scale * rotation @ source_mean
    rest = target - (scale * source @ rotation.T + translation)
    return Similarity(float(scale), rotation, translation, float(rest.square().sum(-1).mean().sqrt()))


def _check_paths(a: Tensor, b: Tensor, name_a: str, name_b: str, least: int) -> tuple[Tensor, Tensor]:
    count = check_shape(name_a, a, "n 3")["n"]
    check_shape(name_b, b, f"{count} 3")
    if count < least:
        raise ShapeError(f"{name_a} and {name_b} need at least {least} points; got {count}. Give more of the path.")
    for name, points in ((name_a, a), (name_b, b)):
        check_finite(name, points)
    return a.to(torch.float64), b.to(torch.float64)
