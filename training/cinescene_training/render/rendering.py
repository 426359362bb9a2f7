"""Pictures, depth, world points and masks of places, from any camera, at any time."""

import math
from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from torch import Tensor

from cinescene_core.cameras import check_poses, pixel_rays
from cinescene_core.checks import check_positive, check_shape
from cinescene_core.panorama import check_equirectangular, pixels_to_directions

from .places import FIRST_PART, Places
from .subjects import floor_shadow, subject_poses
from .tracing import SKY, ViewTensors, trace, trace_views

MAX_SAMPLES = 8
"""Most samples along a pixel's side."""


@dataclass(frozen=True, eq=False)
class Rendering:
    """Pictures with their exact geometry. Depth, points and masks are those of the rays through pixel centres."""

    rgb: Tensor
    """[b, n, h, w, 3] float32 sRGB in 0..1, the mean of samples x samples rays per pixel."""
    depth: Tensor
    """[b, n, h, w] float32 metres along the camera's axis; along the ray in a panorama. The sky is
    `SKY_DISTANCE` metres along the ray, so that its points are finite and as good as at infinity."""
    points: Tensor
    """[b, n, h, w, 3] float32 world points."""
    subject: Tensor
    """[b, n, h, w] bool: the subject is seen."""
    sky: Tensor
    """[b, n, h, w] bool: the open sky is seen."""


def render(
    places: Places,
    world_from_camera: Tensor,
    fov_degrees: float,
    width: int,
    height: int,
    *,
    time: Tensor | None = None,
    samples: int = 1,
    compiled: bool = False,
) -> Rendering:
    """Take n pictures in each of b places.

    Args:
        places: b of them; their device is where the work is done.
        world_from_camera: [b, n, 4, 4] poses.
        fov_degrees: horizontal field of view.
        width, height: picture size in pixels.
        time: [b, n] seconds into the subject's action; None films the place without its subject.
        samples: rays along a pixel's side; 2 or more keep small pictures from aliasing.
        compiled: compile the tracer once per process; several times as fast from then on.

    Raises:
        ShapeError, PoseError: poses or times of the wrong shape, or not rigid.
        ValueError: an impossible lens, size or number of samples.
        RuntimeError: compiled, and there is no compiler.
    """
    views = views_of(places, world_from_camera, time)
    check_picture(fov_degrees, width, height, samples)
    pixel = 2 * math.tan(math.radians(fov_degrees) / 2) / width
    rays = flat_rays(pixel_rays(fov_degrees, width, height), places)
    fine = flat_rays(pixel_rays(fov_degrees, width * samples, height * samples), places)
    return _render(places, world_from_camera, views, (rays, fine), pixel, (height, width, samples), compiled)


def render_panorama(
    places: Places, world_from_camera: Tensor, width: int, height: int, samples: int = 1, *, compiled: bool = False
) -> Rendering:
    """Take one equirectangular panorama in each of b places, without the subject.

    Args:
        places: b of them.
        world_from_camera: [b, 4, 4] poses; the panorama's centre looks along their z axes.
        width, height: picture size in pixels, 2:1.
        samples: rays along a pixel's side.
        compiled: as for `render`.

    Returns:
        A rendering with n = 1 whose depth is the distance along each ray.

    Raises:
        ShapeError, PoseError: poses of the wrong shape or not rigid, or a panorama that is not 2:1.
        ValueError: an impossible number of samples.
        RuntimeError: compiled, and there is no compiler.
    """
    check_shape("world_from_camera", world_from_camera, f"{len(places)} 4 4")
    check_equirectangular(height, width)
    _check_samples(samples)
    poses = world_from_camera[:, None]
    views = views_of(places, poses, None)
    pixel = math.tau / width
    rays, fine = (flat_rays(sphere_rays(width * k, height * k), places) for k in (1, samples))
    return _render(places, poses, views, (rays, fine), pixel, (height, width, samples), compiled)


def sphere_rays(width: int, height: int) -> Tensor:
    """[height, width, 3] float64 unit rays through the pixel centres of a panorama."""
    x, y = torch.arange(width, dtype=torch.float64) + 0.5, torch.arange(height, dtype=torch.float64) + 0.5
    pixels = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)
    return pixels_to_directions(pixels, height, width)


def photographs(
    places: Places,
    world_from_camera: Tensor,
    fov_degrees: float,
    width: int,
    height: int,
    *,
    time: Tensor | None = None,
    samples: int = 1,
    compiled: bool = False,
) -> Tensor:
    """The pictures of `render` alone, [b, n, h, w, 3], without the work for their geometry."""
    views = views_of(places, world_from_camera, time)
    check_picture(fov_degrees, width, height, samples)
    pixel = 2 * math.tan(math.radians(fov_degrees) / 2) / width
    fine = flat_rays(pixel_rays(fov_degrees, width * samples, height * samples), places)
    return _pictures(fine, with_pixel(views, pixel / samples), len(places), (height, width, samples), compiled)


def check_picture(fov_degrees: float, width: int, height: int, samples: int) -> None:
    """Refuse a lens, size or number of samples that no picture has.

    Raises:
        ValueError: the first of them that is wrong.
    """
    if not 0 < fov_degrees < 180:
        raise ValueError(
            f"fov_degrees must lie between 0 and 180; got {fov_degrees}. Give the lens across, in degrees."
        )
    for name, value in (("width", width), ("height", height)):
        check_positive(name, value)
    _check_samples(samples)


def _check_samples(samples: int) -> None:
    if not 1 <= samples <= MAX_SAMPLES:
        raise ValueError(f"samples must be 1 to {MAX_SAMPLES} along a pixel's side; got {samples}. Use 2.")


def flat_rays(rays: Tensor, places: Places) -> Tensor:
    """[h, w, 3] rays to [3, h w] float32, on the places' device."""
    return rearrange(rays, "h w c -> c (h w)").to(places.size.device, torch.float32).contiguous()


def views_of(places: Places, world_from_camera: Tensor, time: Tensor | None) -> ViewTensors:
    """Everything the tracer needs of b x n views; poses are joined in float64."""
    sizes = check_shape("world_from_camera", world_from_camera, f"{len(places)} n 4 4")
    check_poses("world_from_camera", world_from_camera)
    count = sizes["n"]
    device = places.size.device
    room_from_camera = places.room_from_world[:, None] @ world_from_camera.to(device, torch.float64)

    def repeated(values: Tensor) -> Tensor:
        return values.repeat_interleave(count, dim=0)

    still = places.size.new_zeros(len(places) * count, 4)
    still[:, 2] = 1.0  # a shadow of no strength
    unit, half, shadow = repeated(places.unit_from_room), repeated(places.half), still
    if time is not None:
        check_shape("time", time, f"{len(places)} {count}")
        unit_parts, half_parts, shadow = _cast_at(places, time.to(device))
        unit, half = torch.cat([unit, unit_parts], dim=1), torch.cat([half, half_parts], dim=1)
    poses = rearrange(room_from_camera, "b n i j -> (b n) i j").float()
    return ViewTensors(
        origin=poses[:, :3, 3], rotation=poses[:, :3, :3], pixel=still[:, 0], size=repeated(places.size),
        panels=repeated(places.panels),
        materials=repeated(places.materials), lights=repeated(places.lights), ambient=repeated(places.ambient),
        sky=repeated(places.sky), unit_from_room=unit, half=half, shadow=shadow,
    )  # fmt: skip


def _cast_at(places: Places, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The subject at [b, n] seconds as the tracer reads it: unit_from_room, half sizes and shadow."""
    subjects = places.subjects
    room_from_part = places.room_from_world[:, None, None] @ subject_poses(subjects, time)
    rotation, centre = room_from_part[..., :3, :3], room_from_part[..., :3, 3:]
    half = subjects.half[:, None].expand(-1, time.shape[1], -1, -1)
    part_from_room = torch.cat([rotation.mT, -rotation.mT @ centre], dim=-1)
    unit = part_from_room / half[..., None]
    shadow = floor_shadow(subjects, time)
    level = torch.stack([shadow[..., 0], torch.zeros_like(shadow[..., 0]), shadow[..., 1]], dim=-1)
    turn, shift = places.room_from_world[:, None, :3, :3], places.room_from_world[:, None, :3, 3]
    there = (turn @ level[..., None])[..., 0] + shift
    blob = torch.stack([there[..., 0], there[..., 2], shadow[..., 2], shadow[..., 3]], dim=-1)
    return unit.flatten(0, 1).float(), half.flatten(0, 1).float(), blob.flatten(0, 1).float()


def with_pixel(views: ViewTensors, pixel: float) -> ViewTensors:
    """The views with pixels of that size at distance 1."""
    return views._replace(pixel=torch.full_like(views.pixel, pixel))


def _render(
    places: Places, poses: Tensor, views: ViewTensors, rays: tuple[Tensor, Tensor], pixel: float,
    size: tuple[int, int, int], compiled: bool,
) -> Rendering:  # fmt: skip
    """Trace centre rays for geometry, and sample rays for colour where there is more than one a pixel."""
    height, _, samples = size
    centre = trace(rays[0], with_pixel(views, pixel), compiled=compiled)
    if samples > 1:
        rgb = _pictures(rays[1], with_pixel(views, pixel / samples), len(places), size, compiled)
    else:
        rgb = rearrange(centre.colour, "(b n) c (h w) -> b n h w c", b=len(places), h=height)

    def grid(values: Tensor) -> Tensor:
        return rearrange(values, "(b n) (h w) -> b n h w", b=len(places), h=height)

    world_from_camera = poses.to(rays[0].device, torch.float64)
    directions = torch.einsum("bnij,jr->bnri", world_from_camera[..., :3, :3], rays[0].double())
    distance = rearrange(centre.distance, "(b n) r -> b n r 1", b=len(places)).double()
    points = world_from_camera[..., None, :3, 3] + distance * directions
    return Rendering(
        rgb=rgb,
        depth=grid(centre.distance),
        points=rearrange(points, "b n (h w) c -> b n h w c", h=height).float(),
        subject=grid((centre.surface >= FIRST_PART) & (centre.surface < SKY)),
        sky=grid(centre.surface == SKY),
    )


def _pictures(
    rays: Tensor, views: ViewTensors, count: int, size: tuple[int, int, int], compiled: bool
) -> Tensor:  # fmt: skip
    """The mean colour of each pixel's samples, [b, n, h, w, 3]; samples are kept for a few views at a time only."""
    height, width, samples = size
    sizes = {"h": height, "w": width, "k": samples, "l": samples}
    found = [
        reduce(hits.colour, "v c (h k w l) -> v h w c", "mean", **sizes)
        for hits in trace_views(rays, views, compiled=compiled)
    ]
    return rearrange(torch.cat(found), "(b n) h w c -> b n h w c", b=count)
