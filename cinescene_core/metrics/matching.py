"""Matched pixels between a result and its ground truth: "matpix-v1".

The paper counts GIM matches "with confidence greater than the threshold" and states neither the threshold nor the
size; published counts differ by a factor of a hundred. The definition here is fixed by name: frame t of the result
against frame t of the ground truth, both resized to 672 x 384, pixels whose match has a certainty above the matcher's
threshold, summed over frames. A table must also name the matcher.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import interpolate

from ..checks import ShapeError, check_finite, check_shape
from .frames import check_pair

MATPIX_VERSION = "matpix-v1"
WIDTH, HEIGHT = 672, 384
"""Pixels of the pictures that are matched."""
DENSE_THRESHOLD = 0.5
"""Certainty above which a dense matcher's pixel counts."""


class Matcher(Protocol):
    """Finds, for each place of one picture, how certain it is of having found it in another."""

    @property
    def name(self) -> str:
        """What to call it in a table."""
        ...

    @property
    def threshold(self) -> float:
        """Certainty above which a match counts."""
        ...

    def certainty(self, result: Tensor, truth: Tensor) -> Tensor:
        """Two [384, 672, 3] pictures in 0..1 to [rows, columns] certainties in 0..1, 0 where nothing matches.

        Rows and columns divide the picture evenly: 384 x 672 for a dense matcher, fewer for cells.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class MatchedPixels:
    """How much of a ground truth is found again in a result."""

    matcher: str
    threshold: float
    pixels: tuple[int, ...]
    """Matched pixels of each frame, of 672 x 384; a matched cell counts with all its pixels."""
    version: str = MATPIX_VERSION

    @property
    def thousands(self) -> float:
        """Mat. Pix. (K): the sum over frames, in thousands."""
        return sum(self.pixels) / 1000

    @property
    def share(self) -> float:
        """The same as a share of all pixels, 0..1, which does not grow with the number of frames."""
        return sum(self.pixels) / (len(self.pixels) * WIDTH * HEIGHT)


def matched_pixels(result: Tensor, truth: Tensor, matcher: Matcher) -> MatchedPixels:
    """Count the pixels of the result that the matcher finds in the ground truth, frame by frame.

    Args:
        result, truth: [f, h, w, 3] in 0..1.
        matcher: see `Matcher`.

    Raises:
        ShapeError, ValueError: what `check_pair` refuses, or certainties that are no map of 0..1.
    """
    check_pair(result, truth)
    pixels = tuple(
        _count(matcher.certainty(_resized(a), _resized(b)), matcher) for a, b in zip(result, truth, strict=True)
    )
    return MatchedPixels(matcher=matcher.name, threshold=matcher.threshold, pixels=pixels)


class ShiftMatcher:
    """An exact matcher for pictures that differ by a known shift: for tests of what is built on matches.

    A pixel of the result is certain (1) when the ground truth holds the same colour, within half an 8-bit level,
    `right` and `down` pixels further on; it is 0 where the colours differ or the place lies outside.
    """

    threshold = DENSE_THRESHOLD

    def __init__(self, right: int = 0, down: int = 0) -> None:
        self.right, self.down = right, down
        self.name = f"known shift ({right}, {down})"

    def certainty(self, result: Tensor, truth: Tensor) -> Tensor:
        height, width = result.shape[:2]
        rows = torch.arange(height, device=result.device)[:, None] + self.down
        columns = torch.arange(width, device=result.device)[None, :] + self.right
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        partner = truth[rows.clamp(0, height - 1), columns.clamp(0, width - 1)]
        return (inside & ((result - partner).abs().amax(-1) < 0.5 / 255)).float()


def _resized(frame: Tensor) -> Tensor:
    if frame.shape[:2] == (HEIGHT, WIDTH):
        return frame.float()
    picture = rearrange(frame.float(), "h w c -> 1 c h w")
    resized = interpolate(picture, (HEIGHT, WIDTH), mode="bilinear", antialias=True, align_corners=False)
    return rearrange(resized, "1 c h w -> h w c")


def _count(certainty: Tensor, matcher: Matcher) -> int:
    sizes = check_shape("certainty", certainty, "rows columns")
    if not certainty.numel() or HEIGHT % sizes["rows"] or WIDTH % sizes["columns"]:
        raise ShapeError(
            f"{matcher.name}: a certainty map must divide {HEIGHT} x {WIDTH} evenly; got {list(certainty.shape)}. "
            "Resize it, or pad the matcher's input."
        )
    check_finite("certainty", certainty)
    low, high = (float(edge) for edge in torch.aminmax(certainty))
    if low < 0 or high > 1:
        raise ValueError(
            f"{matcher.name}: certainties must lie in 0..1; got {low:g} to {high:g}. Apply a sigmoid or softmax first."
        )
    cell = (HEIGHT // sizes["rows"]) * (WIDTH // sizes["columns"])
    return int((certainty > matcher.threshold).sum()) * cell
