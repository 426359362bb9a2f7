"""How a move gathers and loses speed. Every curve goes from 0 to 1 and never turns back."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor

from ..checks import check_choice


def linear(progress: Tensor) -> Tensor:
    """Constant speed: what the model was trained on (supplement A)."""
    return progress


def smoothstep(progress: Tensor) -> Tensor:
    """Start and stop at rest: `3s^2 - 2s^3`."""
    return progress**2 * (3 - 2 * progress)


def cosine(progress: Tensor) -> Tensor:
    """Start and stop at rest along half a cosine wave."""
    return (1 - (math.pi * progress).cos()) / 2


def smootherstep(progress: Tensor) -> Tensor:
    """Start and stop without a jerk: `6s^5 - 15s^4 + 10s^3`, flat in speed and acceleration at both ends."""
    return progress**3 * (10 + progress * (6 * progress - 15))


EASINGS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"linear": linear, "smoothstep": smoothstep, "cosine": cosine, "smootherstep": smootherstep}
)
"""Name to curve; each takes progress in 0..1, of any shape, and returns the same shape."""


def ease(name: str, progress: Tensor) -> Tensor:
    """Apply the curve called `name` to `progress`.

    Raises:
        ValueError: no curve has that name; the message lists them.
    """
    check_choice("easing", name, EASINGS)
    return EASINGS[name](progress)
