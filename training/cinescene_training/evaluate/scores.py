"""Everything that is measured on one video."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cinescene_core.metrics import (
    CameraErrors,
    MatchedPixels,
    average,
    camera_errors,
    detail_ratio,
    frame_similarity,
    matched_pixels,
    psnr,
    ssim,
    temporal_flickering,
    text_similarity,
    warp_error,
)
from cinescene_core.trajectory.presets import PRESETS
from cinescene_core.types import Trajectory

from ..data.footage import ClipItem
from .instruments import Instruments
from .truth import Truth


@dataclass(frozen=True, kw_only=True)
class VideoScores:
    """One video: means over its frames. None where a number does not exist; the table says why."""

    variant: str
    """What made it: the model, the model under an intervention, or the VAE alone."""
    clip: str
    """Name of the clip whose true frames it is compared with."""
    place: str
    move: str = ""
    """What the camera does, where it is one of the presets."""
    has_subject: bool
    seed: int | None = None
    """Of the noise it was sampled from."""
    matched: MatchedPixels | None = None
    clip_v: float | None = None
    psnr: float | None = None
    """dB."""
    ssim: float | None = None
    lpips: float | None = None
    clip_t: float | None = None
    psnr_decoded: float | None = None
    """dB against the truth encoded and decoded: without what the VAE itself costs, so a weak one hides nothing."""
    psnr_background: float | None = None
    """dB over the pixels without the subject."""
    psnr_subject: float | None = None
    """dB over the pixels of the subject."""
    detail: float | None = None
    """Fine detail as a share of the truth's; what blur raises PSNR by, it takes from here."""
    camera: CameraErrors | None = None
    flickering: float | None = None
    warp: float | None = None
    """Mean absolute difference along the exact flow, on the place alone."""
    problem: str = ""
    """Why there is no video to measure; then every number is None."""


def score_video(
    frames: Tensor,
    truth: Truth,
    tools: Instruments,
    *,
    variant: str,
    seed: int | None = None,
    decoded: Tensor | None = None,
) -> VideoScores:
    """Measure a video against its clip.

    Args:
        frames: [f, h, w, 3] in 0..1.
        truth: the clip.
        tools: instruments; what is missing gives None.
        variant, seed: for the record.
        decoded: the truth as the VAE gives it back; None for the VAE's own video.

    Raises:
        ShapeError: the frames are not as many or as large as the truth's, or too small for an instrument.
    """
    wanted = truth.frames
    seen = None if tools.clip is None else tools.clip.encode_images(frames)
    return VideoScores(
        variant=variant,
        clip=truth.item.name,
        place=truth.item.place,
        move=move_of(truth.path),
        has_subject=truth.item.has_subject,
        seed=seed,
        matched=None if tools.matcher is None else matched_pixels(frames, wanted, tools.matcher),
        clip_v=_clip_v(seen, wanted, tools),
        psnr=_mean(psnr(frames, wanted)),
        ssim=_mean(ssim(frames, wanted)),
        lpips=None if tools.lpips is None else _mean(tools.lpips.distance(frames, wanted)),
        clip_t=_clip_t(seen, truth.item.caption, tools),
        psnr_decoded=None if decoded is None else _mean(psnr(frames, decoded)),
        psnr_background=None if truth.subject is None else _mean(psnr(frames, wanted, ~truth.subject)),
        psnr_subject=None if truth.subject is None else _mean(psnr(frames, wanted, truth.subject)),
        detail=_mean(detail_ratio(frames, wanted)),
        camera=_camera(frames, truth.path, tools),
        flickering=temporal_flickering(frames) if len(frames) > 1 else None,
        warp=_warp(frames, truth),
    )


def failed_video(item: ClipItem, problem: str, *, variant: str, seed: int | None) -> VideoScores:
    """The record of a video that does not exist: counted, never dropped."""
    return VideoScores(
        variant=variant, clip=item.name, place=item.place, has_subject=item.has_subject, seed=seed, problem=problem
    )


def move_of(path: Trajectory) -> str:
    """The preset that a path's provenance names, or nothing."""
    word = path.provenance.partition(" ")[0]
    return word if word in PRESETS else ""


def _mean(values: Tensor) -> float | None:
    """Mean over the frames that have a value."""
    return average([values]).value


def _clip_v(seen: Tensor | None, wanted: Tensor, tools: Instruments) -> float | None:
    if seen is None or tools.clip is None:
        return None
    return _mean(frame_similarity(seen, tools.clip.encode_images(wanted)))


def _clip_t(seen: Tensor | None, caption: str, tools: Instruments) -> float | None:
    """None for a clip without a caption, such as a panorama's."""
    if seen is None or tools.clip is None or not caption.strip():
        return None
    return _mean(text_similarity(seen, tools.clip.encode_text(caption)))


def _camera(frames: Tensor, path: Trajectory, tools: Instruments) -> CameraErrors | None:
    """Errors of the measured path; an estimator that finds none makes a failure."""
    if tools.estimator is None:
        return None
    name, stride = tools.estimator.name, tools.stride
    try:
        with torch.no_grad():
            found = tools.estimator.poses(frames[::stride])
        return camera_errors(path, found, estimator=name, stride=stride)
    except ValueError as error:
        return CameraErrors.failure(path, estimator=name, reason=str(error), stride=stride)


def _warp(frames: Tensor, truth: Truth) -> float | None:
    if truth.flow is None or truth.followed is None or len(frames) < 2:
        return None
    return _mean(warp_error(frames, truth.flow, truth.followed))
