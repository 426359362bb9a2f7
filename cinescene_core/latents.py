"""Latent arithmetic: sizes, and the normalisation between the VAE and the transformer."""

import torch
from torch import Tensor

from .checks import check_num_frames, check_video_size
from .config import LATENT_CHANNELS, LATENT_MEAN, LATENT_STD, SPATIAL_STRIDE, TEMPORAL_STRIDE


def latent_frames(num_frames: int) -> int:
    """Latent frames of `num_frames` pixel frames: the first alone, then groups of four; 77 gives 20."""
    check_num_frames(num_frames, TEMPORAL_STRIDE)
    return 1 + (num_frames - 1) // TEMPORAL_STRIDE


def latent_shape(num_frames: int, width: int, height: int) -> tuple[int, int, int, int]:
    """(channels, frames, height, width) of the latents of one video."""
    check_video_size(width, height)
    return LATENT_CHANNELS, latent_frames(num_frames), height // SPATIAL_STRIDE, width // SPATIAL_STRIDE


def _statistics(latents: Tensor, channel_axis: int) -> tuple[Tensor, Tensor]:
    shape = [1] * latents.ndim
    shape[channel_axis] = LATENT_CHANNELS
    mean, std = (torch.tensor(row, device=latents.device).view(shape) for row in (LATENT_MEAN, LATENT_STD))
    return mean, std


def normalise_latents(raw: Tensor, channel_axis: int = 1) -> Tensor:
    """Raw VAE latents to what the transformer reads: (raw - mean) / std per channel, in float32."""
    mean, std = _statistics(raw, channel_axis)
    return (raw.float() - mean) / std


def denormalise_latents(latents: Tensor, channel_axis: int = 1) -> Tensor:
    """The transformer's latents back to raw VAE units: latents * std + mean, in float32."""
    mean, std = _statistics(latents, channel_axis)
    return latents.float() * std + mean
