"""How well a video follows its camera path: RotErr, TransErr and CamMC as CamI2V's evaluation code defines them.

Numbers of different papers compare only with the same estimator of poses, the same number of frames and the same
definition; every record here carries the first two. CameraCtrl squares the translation error and scales by the first
step; others report means or degrees.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ..cameras import check_poses, relative_poses
from ..checks import ShapeError, check_shape
from ..config import TEMPORAL_STRIDE
from ..types import Trajectory
from .alignment import alignment_scale

EPSILON = 1e-9
"""What CamI2V adds to a path's largest distance before it divides by it."""
STATIC_SHARE = 1e-3
"""A path that travels less than this share of the subject distance counts as not travelling."""
STATIC_REASON = "static ground truth"


@dataclass(frozen=True, kw_only=True)
class CameraErrors:
    """Errors of one video's camera path. A number that does not exist is None, and `reason` says why."""

    num_frames: int
    """Frames compared, N: the sums grow with it."""
    stride: int
    """Every how manieth frame of the video was compared."""
    estimator: str
    """What measured the poses of the video."""
    rot_err: float | None
    """RotErr: angles between the rotations, radians, summed over frames."""
    rot_err_mean_degrees: float | None
    """The same in degrees, divided by N (the first frame counts, with 0)."""
    trans_err: float | None
    """TransErr: distances between the centres, each path scaled to a largest distance of 1, summed over frames."""
    trans_err_least_squares: float | None
    """The same with the estimate scaled to fit the ground truth in the least-squares sense."""
    cam_mc: float | None
    """CamMC: Frobenius norms of the difference of the [R | t], scaled as for TransErr, summed over frames."""
    failed: bool = False
    """Whether no poses could be measured."""
    reason: str = ""
    """Why numbers are None."""

    @classmethod
    def failure(cls, truth: Trajectory, *, estimator: str, reason: str, stride: int = TEMPORAL_STRIDE) -> Self:
        """Record of a video whose poses could not be measured: counted, never dropped."""
        return cls(
            num_frames=compared_frames(len(truth), stride), stride=stride, estimator=estimator, failed=True,
            reason=reason, rot_err=None, rot_err_mean_degrees=None, trans_err=None, trans_err_least_squares=None,
            cam_mc=None,
        )  # fmt: skip

    @property
    def protocol(self) -> str:
        """What a table must state beside these numbers."""
        return f"N = {self.num_frames} frames, stride {self.stride}, poses by {self.estimator}"


def compared_frames(num_frames: int, stride: int = TEMPORAL_STRIDE) -> int:
    """How many frames 0, stride, 2 stride, ... a video has; 20 of 77 at stride 4.

    Raises:
        ValueError: a count or stride below 1.
    """
    if num_frames < 1 or stride < 1:
        raise ValueError(f"A path needs a frame and a stride of at least 1; got {num_frames} frames, stride {stride}.")
    return 1 + (num_frames - 1) // stride


def rotation_errors(truth: Tensor, estimate: Tensor) -> Tensor:
    """Angles between [f, 4, 4] poses, frame by frame, in radians: arccos of (trace(R_truth.T @ R_estimate) - 1) / 2."""
    count = check_shape("truth", truth, "f 4 4")["f"]
    check_shape("estimate", estimate, f"{count} 4 4")
    product = truth[:, :3, :3].transpose(-1, -2) @ estimate[:, :3, :3]
    trace = product.diagonal(dim1=-2, dim2=-1).sum(-1)
    return ((trace - 1) / 2).clamp(-1, 1).arccos()


def camera_errors(
    truth: Trajectory,
    estimate: Tensor,
    *,
    estimator: str,
    stride: int = TEMPORAL_STRIDE,
    published: bool = False,
) -> CameraErrors:
    """Compare the camera path that was asked for with the one measured in the video.

    Both paths are taken relative to their first frame, so neither the world's axes nor its scale matter. The first
    frame contributes 0. Everything is computed in float64.

    The published definition scales each path by its own largest distance. Where the camera does not travel (pan,
    tilt), that blows the estimator's noise up to full size: TransErr and CamMC are then None, with a reason.

    Args:
        truth: the path asked for, all frames.
        estimate: [n, 4, 4] camera-to-world poses of the video's frames 0, stride, 2 stride, ..., in any world and unit.
        estimator: what measured `estimate`, for the record.
        stride: 4 takes 20 of 77 frames; the paper does not state its number, but its values fit 20.
        published: report TransErr and CamMC of paths that do not travel as the published code does.

    Raises:
        ShapeError: not one pose for each compared frame.
        ValueError, PoseError: a pose is not finite or not rigid.
    """
    check_shape("estimate", estimate, "n 4 4")
    needed = compared_frames(len(truth), stride)
    if len(estimate) != needed:
        raise ShapeError(
            f"A path of {len(truth)} frames at stride {stride} is compared in {needed} frames; got {len(estimate)} "
            f"estimated poses. Estimate frames 0, {stride}, {2 * stride}, ... or change the stride."
        )
    check_poses("estimate", estimate)
    true = relative_poses(truth.world_from_camera[::stride].cpu())
    found = relative_poses(estimate.detach().to("cpu", torch.float64))
    angles = rotation_errors(true, found)
    travels = float(true[:, :3, 3].norm(dim=-1).max()) >= STATIC_SHARE * truth.subject_distance
    scored = travels or published
    trans_err, cam_mc = _scaled_errors(true, found) if scored else (None, None)
    return CameraErrors(
        num_frames=needed,
        stride=stride,
        estimator=estimator,
        rot_err=float(angles.sum()),
        rot_err_mean_degrees=math.degrees(float(angles.mean())),
        trans_err=trans_err,
        trans_err_least_squares=_least_squares_error(true[:, :3, 3], found[:, :3, 3]) if travels else None,
        cam_mc=cam_mc,
        reason="" if travels else STATIC_REASON,
    )


def _scaled_errors(true: Tensor, found: Tensor) -> tuple[float, float]:
    """TransErr and CamMC of relative poses, each path divided by its own largest distance."""
    matrices = []
    for poses in (true, found):
        centres = poses[:, :3, 3:]
        scaled = centres / (centres.norm(dim=1).max() + EPSILON)
        matrices.append(torch.cat([poses[:, :3, :3], scaled], dim=-1))  # [n, 3, 4]
    difference = matrices[1] - matrices[0]
    return float(difference[..., 3].norm(dim=-1).sum()), float(torch.linalg.matrix_norm(difference).sum())


def _least_squares_error(true: Tensor, found: Tensor) -> float:
    """Summed distances after the best positive scale, in units of the true path's largest distance."""
    scale = alignment_scale(true, found, "least_squares")
    return float((true - scale * found).norm(dim=-1).sum() / true.norm(dim=-1).max())
