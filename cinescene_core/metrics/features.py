"""Frames as feature vectors: cosines between them (CLIP-V, CLIP-F, CLIP-T) and distances between sets of them.

Any function from [f, h, w, 3] to [f, c] can make the features; `ClipEncoder` is the paper's.
"""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ..checks import ShapeError, check_finite, check_shape

SYMMETRY_TOLERANCE = 1e-6
"""How far a covariance may be from symmetric and positive, as a share of its largest entry."""


def frame_similarity(result: Tensor, truth: Tensor) -> Tensor:
    """Cosine of each result frame's features with those of the ground truth at the same time.

    With CLIP's image features this is CLIP-V (ReCamMaster; the paper's "frame-wise CLIP similarity").

    Args:
        result, truth: [f, c] features.

    Returns:
        [f] float64 in -1..1.

    Raises:
        ShapeError: the shapes differ, or there is no frame.
        ValueError: not finite, or a frame's features are all zero.
    """
    sizes = _check_features("result", result)
    check_shape("truth", truth, f"{sizes['f']} {sizes['c']}")
    _check_features("truth", truth)
    return _cosine(result, truth)


def adjacent_similarity(features: Tensor) -> Tensor:
    """Cosine of each frame's [f, c] features with the next frame's: [f - 1] float64. CLIP-F with CLIP's features.

    Raises:
        ShapeError: fewer than two frames.
        ValueError: not finite, or a frame's features are all zero.
    """
    if _check_features("features", features)["f"] < 2:
        raise ShapeError("features must hold at least 2 frames to compare neighbours; got 1. Give a video.")
    return _cosine(features[1:], features[:-1])


def text_similarity(frames: Tensor, text: Tensor) -> Tensor:
    """Cosine of each frame's [f, c] features with those of the prompt, [c]: [f] float64. CLIP-T with CLIP's features.

    Values are plain cosines; some papers multiply them by 100.

    Raises:
        ShapeError: the widths differ.
        ValueError: not finite, or features that are all zero.
    """
    width = _check_features("frames", frames)["c"]
    check_shape("text", text, f"{width}")
    _check_features("text", text[None])
    return _cosine(frames, text[None])


def frechet_distance(mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor) -> float:
    """Squared Frechet distance of two normal distributions, the formula of FID and FVD.

    |mean_a - mean_b|^2 + trace(A + B - 2 (A B)^(1/2)), with the root taken as that of A^(1/2) B A^(1/2), which is
    symmetric: its eigenvalues are the same, real and not negative.

    Args:
        mean_a, mean_b: [c].
        covariance_a, covariance_b: [c, c], symmetric and without negative eigenvalues.

    Raises:
        ShapeError: the sizes differ.
        ValueError: not finite, or a matrix that is no covariance.
    """
    width = check_shape("mean_a", mean_a, "c")["c"]
    check_shape("mean_b", mean_b, f"{width}")
    for name, mean in (("mean_a", mean_a), ("mean_b", mean_b)):
        check_finite(name, mean)
    root = _square_root("covariance_a", covariance_a, width)
    _square_root("covariance_b", covariance_b, width)
    a, b = covariance_a.double(), covariance_b.double()
    middle = root @ b @ root
    shared = torch.linalg.eigvalsh((middle + middle.T) / 2).clamp(min=0).sqrt().sum()
    return float((mean_a.double() - mean_b.double()).square().sum() + a.trace() + b.trace() - 2 * shared)


def _square_root(name: str, covariance: Tensor, width: int) -> Tensor:
    """The symmetric root of a covariance."""
    check_shape(name, covariance, f"{width} {width}")
    check_finite(name, covariance)
    matrix = covariance.double()
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    slack = SYMMETRY_TOLERANCE * float(matrix.abs().max())
    if float((matrix - matrix.T).abs().max()) > slack or float(values.min()) < -slack * width:
        raise ValueError(
            f"{name} is not a covariance: it must be symmetric without negative eigenvalues. "
            "Compute it with torch.cov from [c, n] features."
        )
    return vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T


def _check_features(name: str, features: Tensor) -> dict[str, int]:
    sizes = check_shape(name, features, "f c")
    if not features.numel():
        raise ShapeError(f"{name} is empty: {list(features.shape)}. Give the features of at least one frame.")
    check_finite(name, features)
    empty = (features == 0).all(-1)
    if empty.any():
        raise ValueError(
            f"{name}: the features of frame {int(empty.nonzero()[0])} are all zero, which has no direction. "
            "Check the encoder's weights."
        )
    return sizes


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return cosine_similarity(a.double(), b.double(), dim=-1, eps=0.0)
