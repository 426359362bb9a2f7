"""VGGT's nine numbers per camera, and the matrices they stand for.

The numbers are translation (3), quaternion x y z w (4), vertical and horizontal field of view in
radians. Axes are OpenCV's; an extrinsic is world-to-camera, and the world is the first camera.
"""

import torch
from torch import Tensor

from ...checks import check_shape


def decode_poses(encoding: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Turn pose encodings into matrices.

    Args:
        encoding: [..., 9]; the quaternion may have any length but zero.
        size: (width, height) of the pictures the network saw, in pixels.

    Returns:
        Extrinsics [R | t] [..., 3, 4], world-to-camera, and intrinsics [..., 3, 3] in pixels.
    """
    check_shape("encoding", encoding, "... 9")
    width, height = size
    rotation = _matrix_from_quaternion(encoding[..., 3:7])
    intrinsic = torch.zeros_like(rotation)
    intrinsic[..., 0, 0] = width / 2 / (encoding[..., 8] / 2).tan()
    intrinsic[..., 1, 1] = height / 2 / (encoding[..., 7] / 2).tan()
    intrinsic[..., 0, 2] = width / 2
    intrinsic[..., 1, 2] = height / 2
    intrinsic[..., 2, 2] = 1.0
    return torch.cat([rotation, encoding[..., :3, None]], dim=-1), intrinsic


def encode_poses(extrinsic: Tensor, intrinsic: Tensor, size: tuple[int, int]) -> Tensor:
    """Turn matrices into pose encodings; the principal point is not part of them.

    Args:
        extrinsic: [..., 3, 4] world-to-camera rotation and translation.
        intrinsic: [..., 3, 3] in pixels.
        size: (width, height) of the picture, in pixels.

    Returns:
        [..., 9] with a unit quaternion whose w is not negative.
    """
    check_shape("extrinsic", extrinsic, "... 3 4")
    check_shape("intrinsic", intrinsic, "... 3 3")
    width, height = size
    vertical = 2 * torch.atan(height / 2 / intrinsic[..., 1, 1])
    horizontal = 2 * torch.atan(width / 2 / intrinsic[..., 0, 0])
    quaternion = _quaternion_from_matrix(extrinsic[..., :3])
    return torch.cat([extrinsic[..., 3], quaternion, torch.stack([vertical, horizontal], dim=-1)], dim=-1)


def _matrix_from_quaternion(quaternion: Tensor) -> Tensor:
    """[..., 4] x y z w of any length to [..., 3, 3]."""
    x, y, z, w = quaternion.unbind(-1)
    double = 2 / quaternion.square().sum(-1)
    entries = [
        1 - double * (y * y + z * z), double * (x * y - z * w), double * (x * z + y * w),
        double * (x * y + z * w), 1 - double * (x * x + z * z), double * (y * z - x * w),
        double * (x * z - y * w), double * (y * z + x * w), 1 - double * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))


def _quaternion_from_matrix(rotation: Tensor) -> Tensor:
    """[..., 3, 3] to unit quaternions [..., 4] x y z w with w >= 0.

    The matrix gives every product of two components; the row of the largest component, which
    is at least 1/2 long, is divided by that component.
    """
    xx, yy, zz = rotation.diagonal(dim1=-2, dim2=-1).unbind(-1)
    (_, r01, r02), (r10, _, r12), (r20, r21, _) = (row.unbind(-1) for row in rotation.unbind(-2))
    products = torch.stack(
        [
            1 + xx - yy - zz, r01 + r10, r02 + r20, r21 - r12,
            r01 + r10, 1 - xx + yy - zz, r12 + r21, r02 - r20,
            r02 + r20, r12 + r21, 1 - xx - yy + zz, r10 - r01,
            r21 - r12, r02 - r20, r10 - r01, 1 + xx + yy + zz,
        ],
        dim=-1,
    ).unflatten(-1, (4, 4))  # fmt: skip
    largest = products.diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = products.take_along_dim(largest[..., None, None], dim=-2).squeeze(-2)
    quaternion = torch.nn.functional.normalize(row, dim=-1)
    return torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)
