"""Where in a panorama a picture was taken: heading, pitch and field of view, by correlation.

A coarse search over all headings finds candidates; each is then refined by damped Gauss-Newton steps on the normalised
difference, from blurred to sharp. The measure is zero-mean normalised cross-correlation of the luminance, which a
change of exposure or contrast leaves alone.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from cinescene_core.cameras import pixel_rays, rotation_from_angles
from cinescene_core.checks import check_shape
from cinescene_core.panorama import Texture, check_panorama, directions_to_sphere

COARSE_WIDTH = 24
"""Pixels across the picture in the first search: about 3 degrees each."""
HEADING_STEP, PITCH_STEP, LENS_STEP = 4.0, 4.0, 1.12
"""Steps of the search, in degrees, degrees and ratios of tan(fov / 2): about a coarse pixel."""
LARGEST_PITCH = 45.0
NARROWEST, WIDEST = 30.0, 115.0
"""Fields of view that are searched, in degrees."""
CANDIDATES, KEPT = 8, 2
"""Places of the panorama that are looked at more closely, and how many of them pass each level of refinement."""
LEVELS = (48, 96)
"""Widths of the picture, in pixels, before the last."""
SHARPEST = 192
"""Largest width that is compared: 0.4 degrees a pixel, of which a fit finds small fractions."""
DISTINCT_DEGREES = 6.0
"""Candidates closer than this are one."""
LEAST_CONTRAST = 0.01
"""Standard deviation of luminance below which a picture shows nothing."""
LEAST_CORRELATION = 0.75
"""Below this the picture is not in the panorama."""
AMBIGUITY, LEAST_MARGIN = 1.25, 0.01
"""The runner-up must fall short of 1 by this many times as much as the best, and by this much more."""
_LUMINANCE = (0.2126, 0.7152, 0.0722)
_MAX_STEPS = 15


class NotFoundError(ValueError):
    """A picture could not be placed in a panorama; the sentence says why."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a picture was taken."""

    heading_degrees: float
    """Longitude of its middle, 0 at the panorama's centre, positive to the right."""
    pitch_degrees: float
    """Latitude of its middle."""
    fov_degrees: float
    """Horizontal field of view."""
    correlation: float
    """Of picture and panorama there, 1 at best."""


@dataclass(frozen=True, eq=False)
class _Level:
    """Picture and panorama at one sharpness."""

    picture: Tensor
    """[h w] float32, zero mean, unit length."""
    texture: Texture
    plane: Tensor
    """[3, k h, k w] rays of a 90-degree lens, float32, k x k to a pixel."""
    samples: int
    """k."""
    pixel_degrees: float
    """About what a pixel covers."""

    def crops(self, parameters: Tensor) -> Tensor:
        """Normalised crops [n, h w] at [n, 3] headings, pitches and fields of view, in degrees."""
        half_turns, latitude = self.sphere(parameters[:, 1], parameters[:, 2])
        return self.sample(half_turns + parameters[:, 0, None, None] / 180, latitude)

    def sphere(self, pitch: Tensor, fov: Tensor) -> tuple[Tensor, Tensor]:
        """Longitudes (half turns) and latitudes [n, k h, k w] that [n] cameras of heading 0 see."""
        stretch = torch.tan(torch.deg2rad(fov.double()) / 2)
        lens = torch.diag_embed(torch.stack([stretch, stretch, torch.ones_like(stretch)], dim=-1))
        cameras = (rotation_from_angles(torch.zeros_like(stretch), pitch.double()) @ lens).float()
        return directions_to_sphere(torch.einsum("n i j, j h w -> n h w i", cameras, self.plane))

    def sample(self, half_turns: Tensor, latitude: Tensor) -> Tensor:
        """Normalised crops [n, h w] at [n, k h, k w] points of the sphere."""
        colours = F.avg_pool2d(self.texture.sample(half_turns, latitude), self.samples)
        return _normalised(rearrange(colours, "n 1 h w -> n (h w)"))


def place_picture(panorama: Tensor, picture: Tensor) -> Placement:
    """Find the heading, pitch and field of view of a pinhole picture without roll, taken at a panorama's centre.

    Args:
        panorama: what `check_panorama` accepts.
        picture: [h, w, 3] floating point in 0..1.

    Raises:
        NotFoundError: the picture or the panorama is featureless, the picture is nowhere in it, or fits several
            places alike.
        ShapeError, ValueError: what `check_panorama` refuses.
    """
    check_shape("picture", picture, "h w 3")
    sphere, flat = _grey(check_panorama(panorama)), _grey(picture)
    for name, image in (("start view", flat), ("panorama", sphere)):
        if image.std() < LEAST_CONTRAST:
            raise NotFoundError(f"The {name} is nearly of one brightness, so there is nothing to match. Leave it out.")
    candidates = _search(sphere, flat)
    sharpest = _sharpest(sphere, flat)
    for width in [*(width for width in LEVELS if width < sharpest), sharpest]:
        level = _level(sphere, flat, width, float(candidates[0][2]))
        found = _distinct([_refine(level, candidate) for candidate in candidates])
        candidates = [parameters for _, parameters in found[:KEPT]]
    correlation, best = found[0]
    _check_found(correlation, best, found[1:])
    heading, pitch, fov = best.tolist()
    return Placement(
        heading_degrees=(heading + 180) % 360 - 180, pitch_degrees=pitch, fov_degrees=fov, correlation=correlation
    )


def _check_found(correlation: float, best: Tensor, others: list[tuple[float, Tensor]]) -> None:
    """Refuse a placement that is wrong, or not the only one: a flat optimum shows as others beside it."""
    if correlation < LEAST_CORRELATION:
        raise NotFoundError(
            f"The start view is not found in the panorama: the best place correlates by {correlation:.2f}, and "
            f"{LEAST_CORRELATION:g} is needed. Check that both show the same place without its subject."
        )
    for other, parameters in others[:1]:
        if 1 - other < AMBIGUITY * (1 - correlation) + LEAST_MARGIN:
            places = " and at ".join("heading {:.1f}, pitch {:.1f}, lens {:.1f}".format(*p) for p in (best, parameters))
            raise NotFoundError(
                f"The start view fits the panorama alike at {places} degrees (correlations {correlation:.3f} and "
                f"{other:.3f}): it repeats itself or is too even. Leave the place out."
            )


def _search(sphere: Tensor, flat: Tensor) -> list[Tensor]:
    """The best places of a search over every heading: [3] parameters each."""
    level = _level(sphere, flat, COARSE_WIDTH, 75.0, samples=1)
    headings = torch.arange(-180, 180, HEADING_STEP)
    pitches = torch.arange(-LARGEST_PITCH, LARGEST_PITCH + PITCH_STEP / 2, PITCH_STEP)
    narrow, wide = (math.tan(math.radians(fov) / 2) for fov in (NARROWEST, WIDEST))
    steps = math.ceil(math.log(wide / narrow) / math.log(LENS_STEP))
    lenses = torch.rad2deg(2 * torch.atan(narrow * LENS_STEP ** torch.arange(steps + 1)))
    turns = headings[:, None, None] / 180
    scores, places = [], []
    for parameters in torch.cartesian_prod(torch.zeros(1), pitches, lenses):
        half_turns, latitude = level.sphere(parameters[1:2], parameters[2:3])
        scores.append(level.sample(half_turns + turns, latitude.expand(len(turns), -1, -1)) @ level.picture)
        around = parameters.repeat(len(headings), 1)
        around[:, 0] = headings
        places.append(around)
    correlations, best = torch.cat(scores).topk(80 * CANDIDATES)
    ranked = list(zip(correlations.tolist(), torch.cat(places)[best], strict=True))
    return [parameters for _, parameters in _distinct(ranked)]


def _refine(level: _Level, parameters: Tensor) -> tuple[float, Tensor]:
    """Correlation and parameters of the best fit near `parameters`: Levenberg-Marquardt, slopes by differences."""
    damping = 1e-2
    residual, slopes = level.crops(parameters[None])[0] - level.picture, _slopes(level, parameters)
    for _ in range(_MAX_STEPS):
        hessian, gradient = slopes.T @ slopes, slopes.T @ residual
        step = torch.linalg.solve(hessian + torch.diag(hessian.diagonal() * damping + 1e-9), -gradient)
        moved = parameters + step.clamp(-4, 4)
        moved[1:] = torch.stack([moved[1].clamp(-80, 80), moved[2].clamp(20, 140)])
        trial = level.crops(moved[None])[0] - level.picture
        if trial @ trial >= residual @ residual:
            damping *= 8
            continue
        parameters, residual, damping = moved, trial, damping / 4
        if step.abs().max() < 2e-3 * level.pixel_degrees:
            break
        slopes = _slopes(level, parameters)
    return 1 - float(residual @ residual) / 2, parameters


def _slopes(level: _Level, parameters: Tensor) -> Tensor:
    """Change of the normalised crop per degree of heading, pitch and field of view: [h w, 3]."""
    width = 0.25 * level.pixel_degrees
    offsets = width * torch.eye(3)
    crops = level.crops(torch.cat([parameters + offsets, parameters - offsets]))
    return ((crops[:3] - crops[3:]) / (2 * width)).T


def _level(sphere: Tensor, flat: Tensor, width: int, fov_degrees: float, samples: int = 2) -> _Level:
    """Picture and panorama reduced until the picture is `width` pixels wide, and a texel is about one of its pixels."""
    height = max(4, round(width * flat.shape[0] / flat.shape[1]))
    small = F.interpolate(flat[None, None], (height, width), mode="bilinear", align_corners=False, antialias=True)
    rows, columns = sphere.shape
    texels_per_pixel = columns * fov_degrees / 360 / width
    shrink = max(k for k in range(1, max(int(texels_per_pixel), 1) + 1) if rows % k == 0)
    reduced = F.avg_pool2d(sphere[None, None], shrink)[0, 0]
    plane = pixel_rays(90.0, samples * width, samples * height).float()
    plane[..., 1] *= flat.shape[0] / flat.shape[1] * width / height  # the reduced pixels are not quite square
    return _Level(
        picture=_normalised(small.reshape(1, -1))[0],
        texture=Texture.from_rows(reduced[..., None], -math.pi / 2, math.pi / 2),
        plane=rearrange(plane, "h w i -> i h w"),
        samples=samples,
        pixel_degrees=fov_degrees / width,
    )


def _sharpest(sphere: Tensor, flat: Tensor) -> int:
    """Widest picture that is worth comparing: neither beyond itself, nor beyond what the panorama resolves."""
    texels = int(sphere.shape[1] * 75 / 360)
    return max(min(flat.shape[1], texels, SHARPEST), COARSE_WIDTH)


def _distinct(found: list[tuple[float, Tensor]], most: int = CANDIDATES) -> list[tuple[float, Tensor]]:
    """The best `most` places, without those that repeat a better one."""
    kept: list[tuple[float, Tensor]] = []
    for score, parameters in sorted(found, key=lambda item: -item[0]):
        if len(kept) < most and all(_apart(parameters, other) > DISTINCT_DEGREES for _, other in kept):
            kept.append((score, parameters))
    return kept


def _apart(first: Tensor, second: Tensor) -> float:
    """Degrees between two places: the larger of their turn and tilt, or a third of the difference of the lenses."""
    turn = abs((float(first[0] - second[0]) + 180) % 360 - 180)
    return max(turn, abs(float(first[1] - second[1])), abs(float(first[2] - second[2])) / 3)


def _grey(image: Tensor) -> Tensor:
    """Luminance [h, w] float32 of a [h, w, 3] picture, uint8 or floating point; brighter than white is white."""
    scale = 255.0 if image.dtype == torch.uint8 else 1.0
    return (image.float() / scale).clamp(0, 1) @ torch.tensor(_LUMINANCE)


def _normalised(images: Tensor) -> Tensor:
    """[n, p] pictures less their mean, at unit length; an even picture becomes zero."""
    centred = images - images.mean(dim=-1, keepdim=True)
    return centred / centred.norm(dim=-1, keepdim=True).clamp(min=1e-6)
