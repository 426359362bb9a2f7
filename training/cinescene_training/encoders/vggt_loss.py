"""VGGT's published training loss, and what its answers are measured against: pure functions.

The facts are those of the trainer that VGGT's authors released (VGGT, CVPR 2025, section 3.4): L1 on the camera
numbers of every refinement, confidence-weighted depth with a gradient term. Letters: i refinements, b scenes,
s frames, h w pixels.
"""

from dataclasses import dataclass

import torch
from einops import einsum, reduce, repeat
from torch import Tensor

from cinescene_core.cameras import check_poses, inverse_pose
from cinescene_core.checks import check_finite, check_shape
from cinescene_core.models.vggt import decode_poses, encode_poses

CAMERA_WEIGHT = 5.0
"""Of the camera loss beside the depth loss."""
REFINEMENT_DECAY = 0.6
"""Each refinement counts this much less than the next one."""
LENS_WEIGHT = 0.5
"""Of the fields of view inside the camera loss; translation and rotation count 1."""
CONFIDENCE_REWARD = 0.2
"""Weight of log confidence: what being sure is worth."""
GRADIENT_SCALES = 4
"""The gradient term sees every, every second, fourth and eighth pixel."""


@dataclass(frozen=True, eq=False)
class SceneTruth:
    """Exact geometry of a batch, in the axes and the unit in which the network answers.

    The world is the first camera; a unit of length is the mean distance of a scene's valid points from that
    camera's centre.
    """

    encoding: Tensor
    """[b, s, 9] cameras: translation, quaternion x y z w, vertical and horizontal field of view."""
    depth: Tensor
    """[b, s, h, w] along each camera's axis, in scene units."""
    valid: Tensor
    """[b, s, h, w] bool: something is there; the sky is not."""
    unit: Tensor
    """[b] metres per scene unit."""


def scene_truth(world_from_camera: Tensor, depth: Tensor, valid: Tensor, focal: Tensor) -> SceneTruth:
    """Bring exact cameras and depth into the network's axes and unit.

    Args:
        world_from_camera: [b, s, 4, 4] poses in any world, metres.
        depth: [b, s, h, w] metres along each camera's axis.
        valid: [b, s, h, w] bool.
        focal: [b, 2] focal lengths across and down of each scene's pictures, in pixels of the depth map.

    Raises:
        ShapeError, PoseError: tensors that do not fit, or poses that are not rigid.
        ValueError: a valid depth is not finite or not in front of the camera, or a scene shows nothing.
    """
    sizes = check_shape("depth", depth, "b s h w")
    b, s, width, height = (sizes[axis] for axis in ("b", "s", "w", "h"))
    check_shape("valid", valid, f"{b} {s} {height} {width}")
    check_shape("world_from_camera", world_from_camera, f"{b} {s} 4 4")
    check_shape("focal", focal, f"{b} 2")
    check_poses("world_from_camera", world_from_camera)
    depth = torch.where(valid, depth, 0.0).double()
    check_finite("depth", depth)
    if (valid & (depth <= 0)).any():
        raise ValueError("A valid pixel's depth must be above zero. Mark what is missing or behind the camera invalid.")
    seen = reduce(valid, "b s h w -> b", "sum")
    if not seen.all():
        raise ValueError(f"Scene {int((seen == 0).nonzero()[0])} of the batch has no valid pixel. Leave it out.")
    first_from_camera = inverse_pose(world_from_camera[:, :1].double()) @ world_from_camera.double()
    rays = _rays(focal, width, height)
    points = einsum(first_from_camera[..., :3, :3], rays, "b s i j, b h w j -> b s h w i") * depth[..., None]
    distance = (points + first_from_camera[:, :, None, None, :3, 3]).norm(dim=-1)
    unit = reduce(distance * valid, "b s h w -> b", "sum") / seen
    extrinsic = inverse_pose(first_from_camera)[..., :3, :].clone()
    extrinsic[..., 3] /= unit[:, None, None]
    encoding = encode_poses(extrinsic, _intrinsics(focal, s, width, height), (width, height))
    return SceneTruth(encoding.float(), (depth / unit[:, None, None, None]).float(), valid, unit.float())


def _rays(focal: Tensor, width: int, height: int) -> Tensor:
    """[b, h, w, 3] float64 rays through the pixel centres with z = 1."""
    u = torch.arange(width, dtype=torch.float64, device=focal.device) + 0.5 - width / 2
    v = torch.arange(height, dtype=torch.float64, device=focal.device) + 0.5 - height / 2
    x, y = u / focal[:, :1].double(), v / focal[:, 1:].double()
    x, y = repeat(x, "b w -> b h w", h=height), repeat(y, "b h -> b h w", w=width)
    return torch.stack([x, y, torch.ones_like(x)], dim=-1)


def _intrinsics(focal: Tensor, frames: int, width: int, height: int) -> Tensor:
    """[b, s, 3, 3] in pixels, float64."""
    matrix = torch.eye(3, dtype=torch.float64, device=focal.device).repeat(len(focal), frames, 1, 1)
    matrix[..., 0, 0], matrix[..., 1, 1] = focal[:, :1], focal[:, 1:]
    matrix[..., 0, 2], matrix[..., 1, 2] = width / 2, height / 2
    return matrix


def camera_loss(predictions: Tensor, truth: Tensor) -> Tensor:
    """L1 on translation, quaternion and fields of view; the last refinement counts most.

    The paper names Huber, the released trainer L1. One departure: a quaternion and its negative are one
    rotation, and the nearer of the two counts, because rings of views hold cameras that look straight back,
    where the two meet.

    Args:
        predictions: [i, b, s, 9] pose encodings, in the order of refinement.
        truth: [b, s, 9].

    Returns:
        The loss, a scalar in float32; without `CAMERA_WEIGHT`.
    """
    sizes = check_shape("predictions", predictions, "i b s 9")
    check_shape("truth", truth, f"{sizes['b']} {sizes['s']} 9")
    error = (predictions.float() - truth).abs()
    opposite = (predictions.float() + truth).abs()
    translation = reduce(error[..., :3], "i b s c -> i", "mean")
    rotation = torch.minimum(error[..., 3:7].mean(-1), opposite[..., 3:7].mean(-1)).mean((1, 2))
    lens = reduce(error[..., 7:], "i b s c -> i", "mean")
    decays = torch.arange(sizes["i"] - 1, -1, -1, device=error.device)
    return (REFINEMENT_DECAY**decays * (translation + rotation + LENS_WEIGHT * lens)).mean()


def depth_loss(depth: Tensor, confidence: Tensor, truth: SceneTruth) -> Tensor:
    """Confidence-weighted error, the plain error, and the error of gradients at four scales.

    The confidence term is `error * confidence - 0.2 log confidence` per pixel: to be sure pays where the error is
    below 0.2 / confidence. Without it the other two terms would do; all three count 1.

    Args:
        depth: [b, s, h, w] predicted, in scene units.
        confidence: [b, s, h, w], 1 and up.
        truth: of the same scenes.

    Returns:
        The loss, a scalar in float32.
    """
    shape = " ".join(str(size) for size in truth.depth.shape)
    check_shape("depth", depth, shape)
    check_shape("confidence", confidence, shape)
    difference, confidence = depth.float() - truth.depth, confidence.float()
    error, sure = difference.abs()[truth.valid], confidence[truth.valid]
    weighted = (error * sure - CONFIDENCE_REWARD * sure.log()).mean()
    return weighted + error.mean() + _gradient_error(difference, truth.valid)


def _gradient_error(difference: Tensor, valid: Tensor) -> Tensor:
    """Steps of the error between neighbours that are both valid, per valid pixel, averaged over the scales."""
    total = difference.new_zeros(())
    for scale in range(GRADIENT_SCALES):
        step = 2**scale
        error, seen = difference[..., ::step, ::step], valid[..., ::step, ::step]
        across = (error[..., 1:] - error[..., :-1]).abs() * (seen[..., 1:] & seen[..., :-1])
        down = (error[..., 1:, :] - error[..., :-1, :]).abs() * (seen[..., 1:, :] & seen[..., :-1, :])
        total = total + (across.sum() + down.sum()) / seen.sum().clamp(min=1)
    return total / GRADIENT_SCALES


def rotation_errors(encoding: Tensor, truth: Tensor) -> Tensor:
    """Angle between predicted and true orientation relative to the first frame.

    Args:
        encoding: [b, s, 9] predicted.
        truth: [b, s, 9].

    Returns:
        [b, s - 1] degrees, of the frames behind the first.
    """
    relative = []
    for cameras in (encoding, truth):
        rotation = decode_poses(cameras.double(), (2, 2))[0][..., :3]
        relative.append(rotation[:, 1:] @ rotation[:, :1].transpose(-1, -2))
    # The chord between two rotations is 2 sqrt(2) sin(angle / 2), exact where the arc cosine of a trace is not.
    chord = (relative[0] - relative[1]).flatten(-2).norm(dim=-1)
    return 2 * torch.rad2deg(torch.asin((chord / 8**0.5).clamp(max=1)))


def relative_depth_error(depth: Tensor, truth: SceneTruth) -> Tensor:
    """Mean of |depth - truth| / truth over the valid pixels of each scene: [b]."""
    error = ((depth - truth.depth).abs() / truth.depth.clamp(min=1e-6)).where(truth.valid, 0.0)
    return reduce(error, "b s h w -> b", "sum") / reduce(truth.valid, "b s h w -> b", "sum")
