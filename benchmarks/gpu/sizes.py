"""What is measured: the full-size shot, and a tiny one that rehearses the same work on a processor."""

from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from cinescene_core.config import CineSceneConfig, WanConfig
from cinescene_core.context import temporal_positions
from cinescene_core.latents import latent_shape
from cinescene_core.memory.predict import FULL_VGGT
from cinescene_core.models.autoencoder import WanAutoencoder, new_autoencoder
from cinescene_core.models.precision import precise_dtype
from cinescene_core.models.text import MAX_TOKENS
from cinescene_core.models.vggt import VGGT, VGGTConfig
from cinescene_core.models.wan import CineSceneTransformer
from cinescene_core.sampler import make_noise
from cinescene_core.trajectory import preset_trajectory
from cinescene_core.types import Context, Trajectory

SIGMA = 0.5
"""Noise level of the measured step; all cost the same."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Networks, shot and ceilings; the defaults are Wan2.1 1.3B as the paper films with it."""

    shot: CineSceneConfig = field(default_factory=CineSceneConfig)
    wan: WanConfig = field(default_factory=WanConfig)
    vggt: VGGTConfig = FULL_VGGT
    vae_width: int = 96
    text_rows: int = MAX_TOKENS
    runs: int = 3
    """Timed runs behind the first one."""
    matmul: int = 8192
    """Side of the square matrices."""
    matmul_repeats: int = 50
    """Products in one timed run: enough for the clock to settle."""
    copied_bytes: int = 4 * 2**30

    @property
    def latents(self) -> tuple[int, int, int, int]:
        """(channels, frames, height, width) of the video's latents."""
        return latent_shape(self.shot.num_frames, self.shot.width, self.shot.height)

    @property
    def frame_tokens(self) -> int:
        """Tokens of one latent frame."""
        return self.latents[2] * self.latents[3] // 4

    @property
    def video_tokens(self) -> int:
        return self.latents[1] * self.frame_tokens

    @property
    def context_tokens(self) -> int:
        return 2 * self.shot.num_views * self.frame_tokens


FULL = Sizes()
TINY = Sizes(
    shot=CineSceneConfig(num_frames=5, num_views=3, width=64, height=32, vggt_width=42, vggt_height=28),
    wan=WanConfig(
        width=48, num_layers=2, num_heads=2, ffn_width=64, text_width=16, frequency_width=16, feature_width=64
    ),
    vggt=VGGTConfig(
        embed_dim=32, num_heads=2, position_grid=3, backbone_depth=1, depth=2, camera_head=False, depth_head=False
    ),
    vae_width=4,
    text_rows=7,
    runs=2,
    matmul=64,
    matmul_repeats=2,
    copied_bytes=2**16,
)


@dataclass(frozen=True, eq=False)
class Inputs:
    """What one step reads, drawn with fixed seeds."""

    noisy: Tensor
    timestep: Tensor
    prompt: Tensor
    camera: Tensor
    context: Context
    """On the CPU, as a shot gives it to the sampler."""

    @classmethod
    def of(cls, sizes: Sizes, device: torch.device | str, dtype: torch.dtype = torch.bfloat16) -> Self:
        shot = sizes.shot
        channels, frames, height, width = sizes.latents
        grid = shot.vggt_height // sizes.vggt.patch_size, shot.vggt_width // sizes.vggt.patch_size
        context = Context(
            tuple(range(shot.num_views)),
            make_noise((shot.num_views, channels, height, width), seed=1),
            make_noise((shot.num_views, sizes.wan.feature_width, *grid), seed=2),
            *temporal_positions(shot.positions, frames, shot.num_views),
        )
        return cls(
            noisy=make_noise((1, *sizes.latents), seed=3).to(device, dtype),
            timestep=torch.full((1,), 1000 * SIGMA).to(device),
            prompt=make_noise((1, sizes.text_rows, sizes.wan.text_width), seed=4).to(device, dtype),
            camera=camera_path(sizes).latent_poses()[None].to(device, precise_dtype(dtype)),
            context=context,
        )


def camera_path(sizes: Sizes) -> Trajectory:
    shot = sizes.shot
    return preset_trajectory("pan_right", num_frames=shot.num_frames, fps=shot.fps, fov_degrees=shot.fov_degrees)


def transformer(sizes: Sizes, device: torch.device | str, dtype: torch.dtype = torch.bfloat16) -> CineSceneTransformer:
    return with_weights(CineSceneTransformer(sizes.wan, projector=False, device=device, dtype=dtype))


def scene_encoder(sizes: Sizes, device: torch.device | str) -> VGGT:
    return with_weights(VGGT(sizes.vggt, device=device, dtype=torch.bfloat16))


def autoencoder(sizes: Sizes, device: torch.device | str, dtype: torch.dtype = torch.float32) -> WanAutoencoder:
    """The VAE, in float32 as shots load it.

    Raises:
        ImportError: diffusers is not installed.
    """
    return WanAutoencoder(nn.Module.to(with_weights(new_autoencoder(sizes.vae_width, device)), dtype))


def with_weights(network: Any) -> Any:
    """Fill a network in place with random weights under which no layer grows or dies; a meta network stays as it is.

    What is multiplied decides how much power a card takes and so how fast it runs: zeros would be too fast.
    """
    network.eval().requires_grad_(False)
    device = next(network.parameters()).device
    if device.type == "meta":
        return network
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
        elif name.endswith("weight"):
            parameter.fill_(1)
        else:
            parameter.normal_(std=0.02, generator=generator)
    return network
