"""Pictures to the size and layout the scene encoder reads."""

import torch
from einops import rearrange
from torch import Tensor

from ...checks import ShapeError, check_shape

PATCH = 14
TRAINED_WIDTH = 518
"""Pixels of the longer side of the pictures VGGT was trained on."""


def vggt_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) in which the scene encoder sees a picture of `width` x `height` pixels.

    518 pixels wide, the height to scale and rounded to whole patches: 672 x 384, 1280 x 720 and
    1920 x 1080 all become 518 x 294.

    Raises:
        ShapeError: the picture is higher than wide, or too flat for a single row of patches.
    """
    if width < 1 or height < 1:
        raise ShapeError(f"A picture needs a width and a height; got {width} x {height}.")
    scaled = round(height * TRAINED_WIDTH / width / PATCH) * PATCH
    if scaled > TRAINED_WIDTH:
        raise ShapeError(
            f"VGGT was trained on pictures at most as high as wide; got {width} x {height}. "
            f"Crop to {width} x {width} or wider first."
        )
    if scaled < PATCH:
        raise ShapeError(f"A picture of {width} x {height} is too flat for one row of patches. Crop its width first.")
    return TRAINED_WIDTH, scaled


def resize_for_vggt(images: Tensor, size: tuple[int, int] = (518, 294), patch_size: int = PATCH) -> Tensor:
    """Resize pictures, anti-aliased bicubic, and put the channels first.

    Args:
        images: [v, h, w, 3] floating point in 0..1; brighter than 1 is cut to 1.
        size: (width, height) in pixels, both multiples of `patch_size`; `vggt_size` keeps the aspect.
        patch_size: of the scene encoder, in pixels.

    Returns:
        [v, 3, height, width] float32 (float64 stays) in 0..1.

    Raises:
        ShapeError: the images are not [v, h, w, 3], not floating point, or the size does not
            divide into patches.
    """
    check_shape("images", images, "v h w 3")
    if not images.is_floating_point():
        raise ShapeError(f"images must be floating point in 0..1; got {images.dtype}. Convert and divide by 255.")
    width, height = size
    if width < patch_size or height < patch_size or width % patch_size or height % patch_size:
        near = (max(patch_size, round(side / patch_size) * patch_size) for side in size)
        raise ShapeError(
            f"The size for VGGT must be multiples of {patch_size}; got {width} x {height}. "
            f"Use {' x '.join(str(side) for side in near)}."
        )
    pixels = rearrange(images.to(torch.promote_types(images.dtype, torch.float32)), "v h w c -> v c h w")
    if tuple(pixels.shape[-2:]) != (height, width):
        pixels = torch.nn.functional.interpolate(
            pixels, size=(height, width), mode="bicubic", antialias=True, align_corners=False
        )
    return pixels.clamp(0.0, 1.0)
