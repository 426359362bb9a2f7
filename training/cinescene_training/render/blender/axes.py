"""Between CineScene's axes (OpenCV) and Blender's, exactly, in both directions. Needs no Blender.

CineScene: x right, y down, z forward, for the world and for every camera; metres. Blender's world: x right, y forward,
z up. Blender's camera: x right, y up, and it looks along its own -z. The two worlds are one place seen by one person:
what is 3 metres ahead is (0, 0, 3) here and (0, 3, 0) there. Both are right-handed, so no picture is mirrored.
"""

import torch
from torch import Tensor

from cinescene_core.cameras import pose_from
from cinescene_core.checks import PoseError, check_shape

BLENDER_FROM_OPENCV = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]], dtype=torch.float64)
"""Rotation of the world's axes: (x, y, z) here is (x, z, -y) in Blender."""
FLIP = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
"""Signs of a camera's own axes: y and z point the other way. Its own inverse."""
STEEPEST_COSINE = 1e-4
"""Horizontal part of a camera's axis below which it has no heading: 0.006 degrees off the vertical."""


def points_to_blender(points: Tensor, metres_per_unit: float = 1.0) -> Tensor:
    """Points [..., 3] in metres to Blender's world, in its units."""
    check_shape("points", points, "... 3")
    return points.double() @ BLENDER_FROM_OPENCV.T / metres_per_unit


def points_from_blender(points: Tensor, metres_per_unit: float = 1.0) -> Tensor:
    """Points [..., 3] of Blender's world to metres: the inverse of `points_to_blender`."""
    check_shape("points", points, "... 3")
    return points.double() @ BLENDER_FROM_OPENCV * metres_per_unit


def pose_to_blender(world_from_camera: Tensor, metres_per_unit: float = 1.0) -> Tensor:
    """Poses [..., 4, 4] to what Blender calls a camera's `matrix_world`: [..., 4, 4] float64."""
    check_shape("world_from_camera", world_from_camera, "... 4 4")
    pose = world_from_camera.double()
    rotation = BLENDER_FROM_OPENCV @ pose[..., :3, :3] * FLIP
    return pose_from(rotation, points_to_blender(pose[..., :3, 3], metres_per_unit))


def pose_from_blender(matrix_world: Tensor, metres_per_unit: float = 1.0) -> Tensor:
    """A camera's `matrix_world` [..., 4, 4] to a pose [..., 4, 4] float64, in metres.

    Blender lets a camera be scaled, which changes nothing that it sees: the scale is taken out.

    Raises:
        PoseError: the matrix mirrors, shears or flattens space (parents with uneven scale do that).
    """
    check_shape("matrix_world", matrix_world, "... 4 4")
    matrix = matrix_world.double()
    axes = matrix[..., :3, :3]
    lengths = axes.norm(dim=-2, keepdim=True)
    rotation = axes / lengths
    skew = (rotation.transpose(-1, -2) @ rotation - torch.eye(3, dtype=torch.float64)).abs().amax()
    if not skew < 1e-5 or not (torch.linalg.det(rotation) > 0).all():
        raise PoseError(
            "The camera's matrix mirrors, shears or flattens space, so it is no pose; a parent with uneven or negative "
            "scale does that. Apply the scale of its parents in Blender, or clear the parent and keep the transform."
        )
    return pose_from(BLENDER_FROM_OPENCV.T @ rotation * FLIP, points_from_blender(matrix[..., :3, 3], metres_per_unit))


def level_pose(world_from_camera: Tensor) -> Tensor:
    """The upright pose [4, 4] at the same centre and with the same heading: no pitch and no roll.

    Raises:
        PoseError: the camera looks straight up or down, where there is no heading.
    """
    check_shape("world_from_camera", world_from_camera, "4 4")
    pose = world_from_camera.double()
    x, _, z = pose[:3, 2].tolist()
    length = (x * x + z * z) ** 0.5
    if length < STEEPEST_COSINE:
        raise PoseError(
            "The start camera looks straight up or down, so the panorama has no heading. Tilt it towards the place."
        )
    sine, cosine = x / length, z / length
    rotation = torch.tensor([[cosine, 0.0, sine], [0.0, 1.0, 0.0], [-sine, 0.0, cosine]], dtype=torch.float64)
    return pose_from(rotation, pose[:3, 3])
