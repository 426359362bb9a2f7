"""Rigid motions, lenses and rays. Knows no panorama and no network.

Axes are OpenCV's: x right, y down, z forward, right-handed. A pose is camera-to-world and is
named `world_from_camera`; its columns are the camera's right, down and forward axes and its
centre, in metres. See CONVENTIONS.md.
"""

import math

import torch
from torch import Tensor

from .checks import PoseError, check_finite, check_shape

# How far imported rotations may be from orthonormal before they are refused: files with six
# decimals stay below 1e-5, a matrix with scale or shear in it is far above.
ORTHONORMAL_TOLERANCE = 1e-3


def rotation_from_angles(yaw: Tensor | float, pitch: Tensor | float = 0.0, roll: Tensor | float = 0.0) -> Tensor:
    """Build `Ry(yaw) @ Rx(pitch) @ Rz(roll)`.

    Args:
        yaw: degrees, positive turns right; a number or a tensor of any shape.
        pitch: degrees, positive looks up; broadcast against the others.
        roll: degrees, positive turns the camera clockwise as seen from behind it.

    Returns:
        [..., 3, 3] float64 rotations, camera to world.
    """
    angles = (torch.as_tensor(angle, dtype=torch.float64) for angle in (yaw, pitch, roll))
    y, p, r = torch.broadcast_tensors(*(torch.deg2rad(angle) for angle in angles))
    zero, one = torch.zeros_like(y), torch.ones_like(y)

    def matrix(*entries: Tensor) -> Tensor:
        return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))

    about_y = matrix(y.cos(), zero, y.sin(), zero, one, zero, -y.sin(), zero, y.cos())
    about_x = matrix(one, zero, zero, zero, p.cos(), -p.sin(), zero, p.sin(), p.cos())
    about_z = matrix(r.cos(), -r.sin(), zero, r.sin(), r.cos(), zero, zero, zero, one)
    return about_y @ about_x @ about_z


def pose_from(rotation: Tensor, centre: Tensor) -> Tensor:
    """Join [..., 3, 3] rotations and [..., 3] centres, broadcast, to [..., 4, 4] float64 poses."""
    check_shape("rotation", rotation, "... 3 3")
    check_shape("centre", centre, "... 3")
    leading = torch.broadcast_shapes(rotation.shape[:-2], centre.shape[:-1])
    pose = torch.eye(4, dtype=torch.float64, device=rotation.device).repeat(*leading, 1, 1)
    pose[..., :3, :3] = rotation
    pose[..., :3, 3] = centre
    return pose


def inverse_pose(pose: Tensor) -> Tensor:
    """Invert [..., 4, 4] rigid motions exactly: `[R | t]` becomes `[R.T | -R.T t]`."""
    rotation = pose[..., :3, :3].transpose(-1, -2)
    inverse = torch.zeros_like(pose)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3:] = -rotation @ pose[..., :3, 3:]
    inverse[..., 3, 3] = 1.0
    return inverse


def relative_poses(world_from_camera: Tensor) -> Tensor:
    """Express [f, 4, 4] poses in the frame of the first: `inv(c2w_0) @ c2w_i`."""
    check_shape("world_from_camera", world_from_camera, "f 4 4")
    return inverse_pose(world_from_camera[:1]) @ world_from_camera


def check_poses(name: str, poses: Tensor) -> None:
    """Require [..., 4, 4] rigid motions of right-handed axes.

    Raises:
        ShapeError: not [..., 4, 4].
        ValueError: not finite.
        PoseError: the bottom row is not 0 0 0 1, a rotation is not orthonormal, or a
            determinant is -1. The first frame at fault is named.
    """
    check_shape(name, poses, "... 4 4")
    check_finite(name, poses)
    flat = poses.reshape(-1, 4, 4).to(torch.float64)
    rotation = flat[:, :3, :3]
    bottom = (flat[:, 3] - flat.new_tensor([0, 0, 0, 1])).abs().amax(-1)
    skew = (
        (rotation.transpose(-1, -2) @ rotation - torch.eye(3, dtype=torch.float64, device=flat.device))
        .abs()
        .amax((-1, -2))
    )
    determinant = torch.linalg.det(rotation)
    for fault, text in (
        (
            bottom > ORTHONORMAL_TOLERANCE,
            "the bottom row is not 0 0 0 1; is the matrix transposed? "
            "Camera-to-world poses keep the centre in the last column",
        ),
        (
            skew > ORTHONORMAL_TOLERANCE,
            "the rotation is not orthonormal (it scales or shears); remove scale before exporting",
        ),
        (
            determinant < 0,
            "the determinant is -1 (left-handed axes, as Unreal writes them); "
            "convert to OpenCV axes: x right, y down, z forward",
        ),
    ):
        if fault.any():
            frame = int(fault.nonzero()[0])
            raise PoseError(f"{name}: frame {frame} is not a rigid camera-to-world pose: {text}.")


def focal_length(fov_degrees: Tensor | float, size: int) -> Tensor:
    """Focal length in pixels of a lens that sees `fov_degrees` across `size` pixels.

    Horizontal field of view goes with the width; 90 degrees across 672 pixels is 336 pixels.
    """
    half = torch.deg2rad(torch.as_tensor(fov_degrees, dtype=torch.float64)) / 2
    return size / (2 * half.tan())


def vertical_fov_degrees(fov_degrees: float, width: int, height: int) -> float:
    """Vertical field of view of square pixels, in degrees; 90 at 672 x 384 gives 59.4898."""
    focal = float(focal_length(fov_degrees, width))
    return math.degrees(2 * math.atan(height / (2 * focal)))


def pixel_rays(fov_degrees: Tensor | float, width: int, height: int, device: torch.device | None = None) -> Tensor:
    """Rays through the pixel centres of a pinhole camera with square pixels.

    Args:
        fov_degrees: horizontal field of view, a number or a [...] tensor of lenses.
        width, height: picture size in pixels; pixel (0, 0) has its centre at (0.5, 0.5).
        device: where to build them.

    Returns:
        [..., height, width, 3] float64 directions in camera axes with z = 1 (not unit length).
    """
    focal = focal_length(fov_degrees, width).to(device)[..., None, None]
    u = torch.arange(width, dtype=torch.float64, device=device) + 0.5 - width / 2
    v = torch.arange(height, dtype=torch.float64, device=device) + 0.5 - height / 2
    x, y = u.expand(height, width) / focal, v[:, None].expand(height, width) / focal
    return torch.stack([x, y, torch.ones_like(x)], dim=-1)
