"""Which pixel of the sphere a ray meets, and which ray a pixel sees.

A panorama is equirectangular: width = 2 x height, its centre looks along +z (yaw 0), its right
half has positive yaw, its top row looks up. Pixel centres are half-integers. Axes are OpenCV's.
"""

import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .checks import CineSceneWarning, FileFormatError, ShapeError, check_finite, check_shape

PADDING = 2
"""Texels added around the picture, so that bilinear sampling crosses the seam and the poles exactly."""
MIN_TEXELS_PER_PIXEL = 0.75
"""Below this average across a view, a picture looks soft; 2048 texels give 0.76 at 672 pixels and 90 degrees."""


def example_panorama_path() -> Path:
    """The bundled panorama, 2048 x 1024: a courtyard, rendered by `scripts/render_example_panorama.py`."""
    return Path(__file__).parent / "assets" / "courtyard.jpg"


def check_equirectangular(height: int, width: int) -> None:
    """Require a panorama that is not empty and twice as wide as high.

    Raises:
        ShapeError: it is not; the message says the ratio and the sizes to crop or pad to.
    """
    if height < 1 or width < 1:
        raise ShapeError(f"panorama is empty ({width} x {height} pixels); give a picture of a place.")
    if width != 2 * height:
        inside, outside = min(width // 2, height), max(math.ceil(width / 2), height)
        crop = f"crop it to {2 * inside} x {inside} or " if inside else ""
        raise ShapeError(
            f"panorama must be equirectangular, twice as wide as high; got {width} x {height} "
            f"(ratio {width / height:.2f}). If it is a full 360 x 180 degree picture, {crop}"
            f"pad it to {2 * outside} x {outside} first."
        )


def directions_to_pixels(directions: Tensor, height: int, width: int) -> Tensor:
    """Find the panorama pixel each ray meets.

    Args:
        directions: [..., 3] rays in the panorama's axes, of any length but zero.
        height: panorama height in pixels.
        width: panorama width in pixels, twice the height.

    Returns:
        [..., 2] coordinates (x, y) in pixels, x in [0, width], y in [0, height]: texel i covers
        [i, i + 1), so +z lands on (width / 2, height / 2).

    Raises:
        ShapeError: `directions` does not end in 3, or the panorama is not 2:1.
    """
    check_shape("directions", directions, "... 3")
    check_equirectangular(height, width)
    half_turns, latitude = directions_to_sphere(directions)
    x, y = (half_turns / 2 + 0.5) * width, (0.5 - latitude / math.pi) * height
    return torch.stack([x % width, y], dim=-1)


def pixels_to_directions(pixels: Tensor, height: int, width: int) -> Tensor:
    """Find the ray each panorama pixel sees: the inverse of `directions_to_pixels`.

    Args:
        pixels: [..., 2] coordinates (x, y); the centre of the first texel is (0.5, 0.5).
        height: panorama height in pixels.
        width: panorama width in pixels, twice the height.

    Returns:
        [..., 3] unit directions.

    Raises:
        ShapeError: `pixels` does not end in 2, or the panorama is not 2:1.
    """
    check_shape("pixels", pixels, "... 2")
    check_equirectangular(height, width)
    longitude, latitude = (pixels[..., 0] / width - 0.5) * math.tau, (0.5 - pixels[..., 1] / height) * math.pi
    return torch.stack([longitude.sin() * latitude.cos(), -latitude.sin(), longitude.cos() * latitude.cos()], dim=-1)


def directions_to_sphere(directions: Tensor) -> tuple[Tensor, Tensor]:
    """Longitude in half turns (-1..1, grows to the right) and latitude in radians (grows upwards) of [..., 3] rays."""
    x, y, z = directions.unbind(-1)
    return torch.atan2(x, z) / math.pi, torch.atan2(-y, torch.hypot(x, z))


def check_panorama(image: Tensor) -> Tensor:
    """Require a picture that can serve as a panorama; return its three colour channels.

    Grey is repeated into three channels and an opaque alpha channel is dropped: both lose
    nothing. Nothing else is changed; the result shares the input's memory.

    Args:
        image: [h, w, 1], [h, w, 3] or [h, w, 4]; uint8, or floating point in 0..1 (more for HDR).

    Returns:
        [h, w, 3] of the same type.

    Raises:
        ShapeError: not [h, w, 1 | 3 | 4], empty, or not 2:1.
        ValueError: another data type, NaN or infinite values, or transparent pixels.
    """
    sizes = check_shape("panorama", image, "h w c")
    check_equirectangular(sizes["h"], sizes["w"])
    return check_colours("panorama", image)


def check_colours(name: str, image: Tensor) -> Tensor:
    """Require a picture whose colours can be used; return them as three channels, as `check_panorama` does.

    Args:
        name: what to call the picture in the error.
        image: [h, w, 1], [h, w, 3] or [h, w, 4]; uint8, or floating point in 0..1 (more for HDR).

    Raises:
        ShapeError: not [h, w, 1 | 3 | 4].
        ValueError: another data type, NaN or infinite values, or transparent pixels.
    """
    channels = check_shape(name, image, "h w c")["c"]
    if channels not in (1, 3, 4):
        raise ShapeError(f"{name} must have 1 (grey), 3 (RGB) or 4 (RGBA) channels; got {channels}.")
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise ValueError(
            f"{name} must be uint8, or floating point in 0..1; got {image.dtype}. "
            "Divide it by its largest possible value."
        )
    if image.is_floating_point() and not torch.stack(torch.aminmax(image)).isfinite().all():
        check_finite(name, image)
    if channels == 4:
        opaque = 255 if image.dtype == torch.uint8 else 1 - 0.5 / 255
        share = (image[..., 3] < opaque).double().mean().item()
        if share > 0:
            raise ValueError(
                f"{name} has an alpha channel, and {share:.1%} of its pixels are transparent. What is behind them is "
                "part of the place: flatten it onto a background and save it without alpha."
            )
    return image[..., :3] if channels == 4 else image.expand(-1, -1, 3)


def load_panorama(path: str | os.PathLike[str]) -> Tensor:
    """Read a panorama from a picture, or from a `.npy` array for high dynamic range.

    Args:
        path: any picture pillow reads: 8-bit, or 16-bit grey (pillow gives 16-bit colour as 8-bit);
            or a `.npy` array [h, w, 1 | 3 | 4], uint8 or floating point.

    Returns:
        [h, w, 3] float32, 0..1 (an HDR array keeps its values).

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: it cannot be read as a picture.
        ShapeError, ValueError: what `check_panorama` refuses.
    """
    image = check_panorama(read_picture(path, "panorama"))
    return image.float() / 255 if image.dtype == torch.uint8 else image.float()


def read_picture(path: str | os.PathLike[str], what: str) -> Tensor:
    """Read a file of one of the kinds that `load_panorama` lists, its values unchanged.

    Args:
        path: the file.
        what: what the picture is to be, in words for the error ("panorama", "photo").

    Returns:
        [h, w, 1 | 3 | 4] uint8 or floating point; photos stand upright.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: it cannot be read as a picture.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No {what} at {path}. Check the path; it must be a file.")
    return torch.from_numpy(_read_array(path, what) if path.suffix == ".npy" else _read_pixels(path, what))


def _read_array(path: Path, what: str) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FileFormatError(f"{path} is not a .npy array of numbers ({error}). Save it with numpy.save.") from error
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise FileFormatError(
            f"{path} holds {array.dtype}; a {what} must be uint8, or floating point in 0..1. "
            "Divide it by its largest possible value."
        )
    return array if array.dtype == np.uint8 else array.astype(np.float32)


def _read_pixels(path: Path, what: str) -> np.ndarray:
    modes = {"LA": "RGBA", "PA": "RGBA", "La": "RGBA", "1": "L"}
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            mode = "RGBA" if picture.has_transparency_data else modes.get(picture.mode, picture.mode)
            mode = "RGB" if mode == "P" else mode
            array = np.array(picture.convert(mode))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FileFormatError(
            f"{path} cannot be read as a picture ({error}). Save it again as PNG, JPEG or TIFF."
        ) from error
    if mode.startswith("I;16"):
        array = array.astype(np.float32) / 65535
    elif mode not in ("L", "RGB", "RGBA"):
        raise FileFormatError(f"{path} is a {mode} picture; a {what} must be grey or RGB. Convert it first.")
    return array[..., None] if array.ndim == 2 else array


def warn_if_small(panorama_width: int, fov_degrees: float, width: int) -> None:
    """Warn when a view of `width` pixels has too few texels of the panorama to look sharp."""
    texels = panorama_width * fov_degrees / 360
    if texels < MIN_TEXELS_PER_PIXEL * width:
        needed = math.ceil(MIN_TEXELS_PER_PIXEL * width * 360 / fov_degrees / 2) * 2
        warnings.warn(
            f"The panorama is {panorama_width} pixels wide, so {fov_degrees:g} degrees of it are {texels:.0f} pixels, "
            f"and the picture asks for {width}: it will look soft. Use a panorama at least {needed} pixels wide, "
            "or smaller pictures.",
            CineSceneWarning,
            stacklevel=4,
        )


@dataclass(frozen=True, eq=False)
class Texture:
    """Rows of a panorama, padded so that bilinear sampling crosses the seam and the poles."""

    pixels: Tensor
    """[1, c, rows, w + 2 PADDING], channels last in memory: neighbours share a cache line."""
    first_row: int
    """Panorama row of row 0; negative above the north pole."""
    height: int
    """Rows of the whole panorama."""

    @classmethod
    def from_rows(cls, panorama: Tensor, lowest: float, highest: float) -> "Texture":
        """Cut what latitudes `lowest` to `highest` (radians) need from a panorama [h, w, c]."""
        height, width, channels = panorama.shape
        first = max(math.floor((0.5 - highest / math.pi) * height), 0) - PADDING
        last = min(math.ceil((0.5 - lowest / math.pi) * height), height) + PADDING
        dtype = torch.float64 if panorama.dtype == torch.float64 else torch.float32
        pixels = torch.empty(last - first, width + 2 * PADDING, channels, dtype=dtype, device=panorama.device)
        inner = pixels[:, PADDING:-PADDING]
        top, bottom = max(first, 0), min(last, height)
        inner[top - first : bottom - first] = panorama[top:bottom]
        for row in [*range(first, top), *range(bottom, last)]:
            # Walking over a pole comes back down on the other side of the globe.
            mirrored = -1 - row if row < 0 else 2 * height - 1 - row
            inner[row - first] = panorama[min(max(mirrored, 0), height - 1)].roll(width // 2, 0)
        pixels[:, :PADDING] = pixels[:, width : width + PADDING].clone()
        pixels[:, -PADDING:] = pixels[:, PADDING : 2 * PADDING].clone()
        if panorama.dtype == torch.uint8:
            pixels /= 255
        return cls(rearrange(pixels, "h w c -> 1 c h w"), first, height)

    def sample(self, half_turns: Tensor, latitude: Tensor) -> Tensor:
        """Colours [n, c, h, w] at longitudes [n, h, w] (in half turns, any winding) and latitudes."""
        rows, columns = self.pixels.shape[2:]
        wrapped = half_turns.sub((half_turns * 0.5).round_(), alpha=2)
        equator = (0.5 * self.height - self.first_row) * 2 / rows - 1
        grid_x = wrapped * ((columns - 2 * PADDING) / columns)
        grid_y = latitude * (-2 * self.height / (math.pi * rows)) + equator
        # Coordinates in half precision would be off by texels; the texture is never half.
        grid = torch.stack([grid_x, grid_y], dim=-1).to(self.pixels.dtype)
        pixels = self.pixels.expand(len(grid), -1, -1, -1)
        return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)


def sample_panorama(panorama: Tensor, directions: Tensor) -> Tensor:
    """Look up the colour each ray meets, bilinearly, across the seam and over the poles.

    Bilinear never overshoots, so a sun of 5e4 stays a sun. Nothing is clamped or pre-filtered: rays
    spaced wider than the texels alias (`views.photograph` takes care of that).

    Args:
        panorama: [h, w, c] of any number of channels; uint8 is read as 0..1.
        directions: [..., 3] rays of any length but zero, on the panorama's device.

    Returns:
        [..., c]; float64 for a float64 panorama, else float32.

    Raises:
        ShapeError: the panorama is not 2:1, or `directions` does not end in 3.
    """
    sizes = check_shape("panorama", panorama, "h w c")
    check_equirectangular(sizes["h"], sizes["w"])
    check_shape("directions", directions, "... 3")
    half_turns, latitude = directions_to_sphere(directions.double().reshape(1, 1, -1, 3))
    texture = Texture.from_rows(panorama, float(latitude.amin()), float(latitude.amax()))
    colours = texture.sample(half_turns, latitude)
    return rearrange(colours, "1 c 1 n -> n c").reshape(*directions.shape[:-1], sizes["c"])
