"""Checks at the public doors, and the errors they raise.

Every message says what came, what is needed and what to do next.
"""

import difflib
import math
from collections.abc import Iterable

import torch
from torch import Tensor


class ShapeError(ValueError):
    """A tensor or picture has the wrong shape."""


class PoseError(ValueError):
    """A camera pose is not a rigid motion of right-handed axes."""


class CheckpointError(ValueError):
    """A model file is not what the caller needs, or is damaged."""


class FileFormatError(ValueError):
    """A scene or trajectory file cannot be read."""


class Interrupted(Exception):  # noqa: N818
    """The user stopped the work between two steps. Not a ValueError: nothing was wrong."""


class CineSceneWarning(UserWarning):
    """Something works, but not as well as it could; the text says what to change."""


def check_shape(name: str, tensor: Tensor, pattern: str) -> dict[str, int]:
    """Require `tensor` to match `pattern`; return the size of each letter.

    Args:
        name: what to call the tensor in the error.
        tensor: any tensor.
        pattern: space-separated dimensions: a number is required as it is, a word binds a
            size (the same word twice must be the same size), a leading `...` allows any
            number of dimensions in front.

    Returns:
        The size bound to each word.

    Raises:
        ShapeError: the shape does not match.
    """
    wanted = pattern.split()
    open_front = wanted[0] == "..."
    wanted = wanted[1:] if open_front else wanted
    shape = tuple(tensor.shape)
    tail = shape[len(shape) - len(wanted) :] if open_front else shape
    sizes: dict[str, int] = {}
    matches = len(tail) == len(wanted) and all(
        size == (int(word) if word.isdigit() else sizes.setdefault(word, size))
        for word, size in zip(wanted, tail, strict=True)
    )
    if not matches:
        raise ShapeError(f"{name} must have shape [{', '.join(pattern.split())}]; got {list(shape)}.")
    return sizes


def check_finite(name: str, tensor: Tensor) -> None:
    """Refuse NaN and infinity in `tensor`, saying how many values are affected.

    Raises:
        ValueError: some values are not finite.
    """
    finite = torch.isfinite(tensor)
    if not finite.all():
        bad = int((~finite).sum())
        raise ValueError(
            f"{name} holds {bad} NaN or infinite values of {tensor.numel()}. Repair or re-export the source."
        )


def check_positive(name: str, value: float) -> None:
    """Require a finite number above zero.

    Raises:
        ValueError: zero, negative, NaN or infinite.
    """
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number; got {value}. Use one above zero.")


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Require `value` to be one of `choices`.

    Raises:
        ValueError: it is not; the message lists the choices and the one that is spelt most alike.
    """
    known = list(choices)
    if value not in known:
        near = difflib.get_close_matches(str(value).lower(), known, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        wanted = f"one of {', '.join(known)}" if len(known) > 1 else known[0]
        raise ValueError(f"{name} must be {wanted}; got '{value}'.{hint}")


def check_num_frames(num_frames: int, stride: int = 4) -> None:
    """Require a frame count of the form 4n + 1, which the causal video VAE needs.

    Raises:
        ValueError: the count is not 4n + 1; the message names the nearest counts that are.
    """
    if num_frames < 1 or (num_frames - 1) % stride:
        below = max(1, (num_frames - 1) // stride * stride + 1)
        raise ValueError(
            f"num_frames must be {stride}n + 1 (the video VAE keeps the first frame and groups the rest by {stride}); "
            f"got {num_frames}. Use {below} or {below + stride}."
        )


def check_video_size(width: int, height: int, multiple: int = 16) -> None:
    """Require a video size that divides into latent patches.

    Raises:
        ValueError: a side is not a positive multiple; the message names the nearest size.
    """
    if width < multiple or height < multiple or width % multiple or height % multiple:
        near_width, near_height = (max(multiple, round(side / multiple) * multiple) for side in (width, height))
        raise ValueError(
            f"width and height must be multiples of {multiple} (8 by the VAE, 2 by the patches); "
            f"got {width} x {height}. Use {near_width} x {near_height}."
        )
