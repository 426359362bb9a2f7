"""Exact optical flow: where each point that a frame sees is in the next frame, and whether it is seen there."""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from cinescene_core.cameras import focal_length, inverse_pose, pixel_rays
from cinescene_core.checks import ShapeError

from .places import FIRST_PART, Places
from .rendering import check_picture, flat_rays, views_of, with_pixel
from .subjects import NUM_PARTS, subject_poses
from .tracing import SKY, ViewTensors, trace, view_tensors_at

SEEN_TOLERANCE = 2e-3
"""A point counts as seen if the ray towards it ends no nearer than this share of its distance before it:
above float32's error at a few metres, below the size of anything in a place."""


@dataclass(frozen=True, eq=False)
class Flow:
    """Motion from each frame to the next."""

    flow: Tensor
    """[b, n - 1, h, w, 2] float32 pixels, x to the right and y down. Behind the next camera it is infinite."""
    visible: Tensor
    """[b, n - 1, h, w] bool: the point is inside the next frame and nothing hides it there."""


def optical_flow(
    places: Places,
    world_from_camera: Tensor,
    fov_degrees: float,
    width: int,
    height: int,
    *,
    time: Tensor | None = None,
    compiled: bool = False,
) -> Flow:
    """Follow the point behind every pixel centre into the next frame.

    Points of the place stand still, and points of the subject move with their part, which is rigid.
    Visibility is decided by the ray from the next camera to the very point, not by looking up a pixel.

    Args:
        places: b of them.
        world_from_camera: [b, n, 4, 4] poses, n of 2 or more.
        fov_degrees, width, height: the lens and size of all frames.
        time: [b, n] seconds into the subject's action; None leaves the subject out.
        compiled: as for `render`.

    Raises:
        ShapeError: fewer than two frames, or poses and times of the wrong shape.
        PoseError, ValueError, RuntimeError: as for `render`.
    """
    views = views_of(places, world_from_camera, time)
    check_picture(fov_degrees, width, height, 1)
    count = world_from_camera.shape[1]
    if count < 2:
        raise ShapeError(f"Optical flow needs at least two frames; got {count}. Give [b, n, 4, 4] poses with n >= 2.")
    views = with_pixel(views, 2 * math.tan(math.radians(fov_degrees) / 2) / width)
    rays = flat_rays(pixel_rays(fov_degrees, width, height), places)
    hits = trace(rays, views, compiled=compiled)

    poses = world_from_camera.to(rays.device, torch.float64)
    distance, surface = (rearrange(part, "(b n) r -> b n r", n=count)[:, :-1] for part in (hits.distance, hits.surface))
    in_camera = distance.double()[..., None] * rays.double().T  # [b, n - 1, r, 3]
    next_from_this = (inverse_pose(poses[:, 1:]) @ poses[:, :-1])[:, :, None]  # of all that stands still
    if time is not None:
        next_from_this = _with_parts(places, poses, time.to(rays.device), surface, next_from_this)
    moved = (next_from_this[..., :3, :3] @ in_camera[..., None])[..., 0] + next_from_this[..., :3, 3]

    focal = float(focal_length(fov_degrees, width))
    ahead = moved[..., 2] > 1e-6
    pixels = focal * moved[..., :2] / torch.where(ahead, moved[..., 2], 1.0)[..., None]
    middle = pixels.new_tensor([width / 2, height / 2])
    inside = ahead & ((pixels.abs() < middle).all(dim=-1))
    start = focal * rays[:2].double().T
    flow = torch.where(ahead[..., None], pixels - start, math.inf)
    seen = _seen(views, moved, inside, count, compiled)
    return Flow(
        rearrange(flow, "b n (h w) c -> b n h w c", h=height).float(),
        rearrange(inside & seen, "b n (h w) -> b n h w", h=height),
    )


def _with_parts(places: Places, poses: Tensor, time: Tensor, surface: Tensor, static: Tensor) -> Tensor:
    """Motion [b, n - 1, r, 4, 4] of each pixel's point in camera axes: that of its part, or of the camera alone."""
    parts = subject_poses(places.subjects, time)  # world_from_part [b, n, m, 4, 4]
    world_motion = parts[:, 1:] @ inverse_pose(parts[:, :-1])
    motion = inverse_pose(poses[:, 1:])[:, :, None] @ world_motion @ poses[:, :-1, None]
    table = torch.cat([static, motion], dim=2)  # [b, n - 1, 1 + m, 4, 4]
    on_subject = (surface >= FIRST_PART) & (surface < SKY)
    row = torch.where(on_subject, surface - FIRST_PART + 1, 0).clamp(0, NUM_PARTS)
    flat = torch.gather(table.flatten(3), 2, row[..., None].expand(-1, -1, -1, 16))
    return flat.unflatten(-1, (4, 4))


def _seen(views: ViewTensors, moved: Tensor, inside: Tensor, count: int, compiled: bool) -> Tensor:
    """Whether the ray from each next camera to each point [b, n - 1, r, 3] (camera axes) gets there."""
    ahead = torch.where(inside[..., None], moved, moved.new_tensor([0.0, 0.0, 1.0])).float()
    reached = []
    for index, points in enumerate(rearrange(ahead, "b n r c -> (b n) c r")):
        batch, frame = divmod(index, count - 1)
        view = batch * count + frame + 1
        hits = trace(points.contiguous(), view_tensors_at(views, slice(view, view + 1)), compiled=compiled)
        # Directions are the points themselves, so arriving is a distance of 1; the sky ends at its own distance.
        reached.append((hits.distance[0] > 1 - SEEN_TOLERANCE) | (hits.surface[0] == SKY))
    return rearrange(torch.stack(reached), "(b n) r -> b n r", n=count - 1)
