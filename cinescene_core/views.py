"""Panorama -> perspective views with their cameras; or photos, whose cameras are not known."""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .cameras import focal_length, pixel_rays, pose_from, rotation_from_angles
from .checks import ShapeError, check_finite, check_shape, check_video_size
from .config import MAX_VIEWS, ViewConfig
from .panorama import Texture, check_colours, check_panorama, directions_to_sphere, read_picture, warn_if_small
from .types import Views

MAX_SUPERSAMPLING = 8
"""Most samples along a pixel's side; 8 serves panoramas of up to eight texels per pixel."""
SAMPLES_AT_ONCE = 2**19
"""Samples taken in one call; measured: fewer cost calls, more leave the processor's cache."""


def supersampling(panorama_width: int, fov_degrees: float, width: int) -> int:
    """Samples along a pixel's side that keep a picture free of aliasing.

    At the picture's centre a pixel covers `panorama_width / (2 pi f)` texels; that many samples leave
    no texel out.
    """
    texels_per_pixel = panorama_width / (math.tau * float(focal_length(fov_degrees, width)))
    return min(max(math.ceil(texels_per_pixel), 1), MAX_SUPERSAMPLING)


def photograph(
    panorama: Tensor,
    rotations: Tensor,
    fov_degrees: Tensor,
    width: int,
    height: int,
    *,
    on_picture: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Take pictures from the panorama's centre with turned pinhole cameras, anti-aliased.

    Each pixel is the mean of k x k bilinear samples, k from `supersampling`. Cameras that differ
    only by a turn about the vertical share one map of the sphere, so a ring of views or a pan costs
    little more than its lookups. Memory beyond the result is the map of one picture and the band of
    the panorama that the cameras can see.

    Args:
        panorama: what `check_panorama` accepts.
        rotations: [n, 3, 3] float64, camera to world.
        fov_degrees: [n] float64 horizontal fields of view.
        width, height: picture size in pixels.
        on_picture: called with (pictures done, pictures in all) after each.

    Returns:
        [n, height, width, 3] on the panorama's device; float64 for a float64 panorama, else float32.
    """
    panorama = check_panorama(panorama)
    lenses: list[float] = fov_degrees.tolist()
    warn_if_small(panorama.shape[1], min(lenses), width)
    elevation = torch.asin((-rotations[:, 1, 2]).clamp(-1, 1))
    reach = torch.atan(math.hypot(width, height) / 2 / focal_length(fov_degrees, width))
    texture = Texture.from_rows(panorama, float((elevation - reach).amin()), float((elevation + reach).amax()))
    pictures = texture.pixels.new_empty(len(lenses), height, width, 3)

    yaws = torch.atan2(rotations[:, 0, 2], rotations[:, 2, 2])
    # A lens stretches the 90-degree picture plane. Without their turn about the vertical, equal cameras share a map.
    stretch = torch.tan(torch.deg2rad(fov_degrees) / 2)
    lens = torch.diag_embed(torch.stack([stretch, stretch, torch.ones_like(stretch)], dim=-1))
    cameras = rotation_from_angles(-torch.rad2deg(yaws)) @ rotations @ lens
    samples = 0
    for index, camera in enumerate(cameras):
        known_samples, samples = samples, supersampling(panorama.shape[1], lenses[index], width)
        if samples != known_samples:
            planes = _plane_blocks(width, height, samples, like=pictures)
        if samples != known_samples or not torch.allclose(camera, cameras[index - 1], rtol=0, atol=1e-12):
            turned = (torch.tensordot(camera.to(plane), plane, 1) for plane in planes)
            blocks = [directions_to_sphere(rays.movedim(0, -1)) for rays in turned]
        turn = float(yaws[index]) / math.pi
        top = 0
        for half_turns, latitude in blocks:
            colours = F.avg_pool2d(texture.sample(half_turns + turn, latitude), samples)
            pictures[index, top : top + len(colours)] = rearrange(colours, "h c 1 w -> h w c")
            top += len(colours)
        if on_picture is not None:
            on_picture(index + 1, len(lenses))
    return pictures


def _plane_blocks(width: int, height: int, samples: int, like: Tensor) -> tuple[Tensor, ...]:
    """The 90-degree picture plane, samples x samples points per pixel, in blocks [3, rows, samples, width x samples].

    The sampler works on the entries of a batch in parallel; each row of the picture will be one.
    """
    plane = pixel_rays(90.0, width * samples, height * samples).to(like)
    rows = max(1, SAMPLES_AT_ONCE // (samples * samples * width))
    return rearrange(plane, "(h k) w c -> c h k w", k=samples).contiguous().split(rows, dim=1)


def slice_panorama(panorama: Tensor, config: ViewConfig, *, on_view: Callable[[int, int], None] | None = None) -> Views:
    """Cut a panorama into views around the horizon (section 4.1), anti-aliased.

    The first view looks along the yaw offset, each next one `360 / num_views` degrees further
    right; all look `pitch_degrees` above the horizon.

    Args:
        panorama: [h, w, 1 | 3 | 4], w = 2h, uint8 or floating point; see `check_panorama`.
        config: how many views, which lens, which size.
        on_view: called with (views done, views in all) after each view.

    Returns:
        Views on the panorama's device, their poses at the panorama's centre: `Ry(yaw) Rx(pitch)`.

    Raises:
        ShapeError, ValueError: what `check_panorama` refuses.

    Warns:
        CineSceneWarning: the panorama is too small for the size of the views.
    """
    steps = torch.arange(config.num_views, dtype=torch.float64) * (360 / config.num_views)
    rotations = rotation_from_angles(config.yaw_offset_degrees + steps, config.pitch_degrees)
    lenses = torch.full((config.num_views,), config.fov_degrees, dtype=torch.float64)
    images = photograph(panorama, rotations, lenses, config.width, config.height, on_picture=on_view)
    poses = pose_from(rotations, torch.zeros(config.num_views, 3, dtype=torch.float64))
    return Views(images.float(), poses, config.fov_degrees)


def views_from_images(images: Tensor | Sequence[Tensor], width: int | None = None, height: int | None = None) -> Views:
    """Take photos of a place as its views; the first is the start view. Cameras stay unknown.

    Args:
        images: [v, h, w, 3], or a list of [h, w, 3] pictures; uint8, or floating point in 0..1.
        width, height: the size the views shall have. Each picture is then resized (bicubic,
            anti-aliased, kept within its own range) until it covers that size, and cut equally on
            both sides. Without them nothing is resized.

    Returns:
        Views without poses and field of view.

    Raises:
        ShapeError: no picture, more than 40, not [h, w, 3], or different sizes and no size asked for.
        ValueError: only one of width and height, a size that is not a multiple of 16, NaN.
    """
    pictures = list(images)
    if not pictures:
        raise ShapeError("views_from_images got no picture; give 1 to 40 pictures of one place.")
    for index, picture in enumerate(pictures):
        check_shape(f"picture {index}", picture, "h w 3")
    if (width is None) != (height is None):
        raise ValueError(f"Give both width and height, or neither; got width {width} and height {height}.")
    sizes = {(picture.shape[1], picture.shape[0]) for picture in pictures}
    if width is None or height is None:
        if len(sizes) > 1:
            found = ", ".join(f"{w} x {h}" for w, h in sorted(sizes))
            raise ShapeError(
                f"The pictures have different sizes ({found}). Pass the width and height they shall all have."
            )
        width, height = sizes.pop()
    check_video_size(width, height)
    return Views(torch.stack([_fit(picture, index, width, height) for index, picture in enumerate(pictures)]))


def load_photos(paths: Sequence[str | os.PathLike[str]], width: int, height: int) -> Views:
    """Read photos of a place as its views, as `views_from_images` takes them; the first is the start view.

    Args:
        paths: 1 to 40 files of the kinds that `panorama.load_panorama` reads.
        width, height: the size the views shall have, in pixels.

    Raises:
        FileNotFoundError: a file is not there.
        FileFormatError: a file cannot be read as a picture.
        ShapeError: no photo, or more than 40.
        ValueError: transparent pixels, NaN, or a size that is not a multiple of 16.
    """
    if not 1 <= len(paths) <= MAX_VIEWS:
        raise ShapeError(f"A place is shown by 1 to {MAX_VIEWS} photos; got {len(paths)}.")
    check_video_size(width, height)
    # One at a time: forty photos of a good camera would be several gigabytes.
    return views_from_images(
        [
            _fit(check_colours(f"photo {Path(path).name}", read_picture(path, "photo")), index, width, height)
            for index, path in enumerate(paths)
        ]
    )


def _fit(picture: Tensor, index: int, width: int, height: int) -> Tensor:
    """Scale a [h, w, 3] picture to cover width x height, cut the rest off equally; float32."""
    if picture.is_floating_point():
        check_finite(f"picture {index}", picture)
    elif picture.dtype != torch.uint8:
        raise ValueError(f"picture {index} must be uint8, or floating point in 0..1; got {picture.dtype}.")
    image = picture.float() if picture.is_floating_point() else picture.float() / 255
    if image.shape[:2] == (height, width):
        return image
    scale = max(width / image.shape[1], height / image.shape[0])
    covering = max(round(image.shape[0] * scale), height), max(round(image.shape[1] * scale), width)
    channels = rearrange(image, "h w c -> 1 c h w")
    resized = F.interpolate(channels, covering, mode="bicubic", align_corners=False, antialias=True)
    resized = resized.clamp(image.amin(), image.amax())
    top, left = (covering[0] - height) // 2, (covering[1] - width) // 2
    return rearrange(resized, "1 c h w -> h w c")[top : top + height, left : left + width]
