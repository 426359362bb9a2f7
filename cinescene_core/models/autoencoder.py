"""Wan2.1's video VAE outside a host, over diffusers: frames to raw latents and back."""

import copy
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import conv2d

from ..checks import check_num_frames, check_shape, check_video_size
from ..config import LATENT_CHANNELS


class WanAutoencoder(nn.Module):
    """The VAE (a `types.Autoencoder`): causal in time, 4 x 8 x 8, 16 channels.

    Args:
        network: diffusers' AutoencoderKLWan; it is frozen here.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network.eval().requires_grad_(False)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Encode clips; the first frame of each stands alone, the others count in fours.

        Args:
            frames: [b, f, h, w, 3] in 0..1, sRGB; f is 4n + 1, h and w multiples of 16. A
                picture is a clip of one frame: pictures in one clip would mix.

        Returns:
            [b, 16, 1 + (f - 1) / 4, h/8, w/8] float32: the mean of the posterior, in raw units.

        Raises:
            ShapeError: not [b, f, h, w, 3].
            ValueError: a frame count or size that does not fit.
        """
        sizes = check_shape("frames", frames, "b f h w 3")
        check_num_frames(sizes["f"])
        check_video_size(sizes["w"], sizes["h"])
        pixels = rearrange(frames.to(self.network.device), "b f h w c -> b c f h w") * 2 - 1
        pixels = pixels.to(self.network.dtype)
        if sizes["f"] == 1:
            return self._encode_pictures(pixels)
        return self.network.encode(pixels).latent_dist.mode().float()

    def _encode_pictures(self, pixels: Tensor) -> Tensor:
        """[b, 3, 1, h, w] to [b, 16, 1, h/8, w/8] with a third of the work: see `LastTap`."""
        moments = self.network.quant_conv(for_pictures(self.network.encoder)(pixels))
        return moments[:, :LATENT_CHANNELS].float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode raw latents.

        Args:
            latents: [b, 16, t, h/8, w/8] in raw units.

        Returns:
            [b, 4t - 3, h, w, 3] float32 frames in 0..1, sRGB.

        Raises:
            ShapeError: not 16 channels.
        """
        check_shape("latents", latents, f"b {LATENT_CHANNELS} t h w")
        pixels = self.network.decode(latents.to(self.network.device, self.network.dtype)).sample
        return rearrange(pixels.float().clamp(-1, 1) / 2 + 0.5, "b c f h w -> b f h w c")


class LastTap(nn.Module):
    """A convolution that is causal in time, on clips of one frame.

    Its earlier taps meet only the zeros in front of the clip, so the last one alone is left: a convolution
    of the picture.
    """

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, 1, h, w], padded to keep its size before the stride."""
        whole = self.convolution
        _, height, width = whole.kernel_size
        picture = conv2d(
            x[:, :, 0], whole.weight[:, :, -1], whole.bias, whole.stride[1:], padding=(height // 2, width // 2)
        )
        return picture[:, :, None]


def for_pictures(encoder: nn.Module) -> nn.Module:
    """The VAE's encoder for clips of one frame, on the same weights."""
    pictures = copy.deepcopy(encoder, {id(parameter): parameter for parameter in encoder.parameters()})
    convolutions = [(name, layer) for name, layer in pictures.named_modules() if isinstance(layer, nn.Conv3d)]
    for name, layer in convolutions:
        pictures.set_submodule(name, LastTap(layer))
    return pictures


def new_autoencoder(base_dim: int, device: torch.device | str = "cpu") -> nn.Module:
    """A freshly initialised network in Wan's structure; Wan2.1's own has `base_dim` 96.

    Raises:
        ImportError: diffusers is not installed.
    """
    try:
        from diffusers import AutoencoderKLWan
    except ImportError as error:
        raise ImportError('The video VAE needs diffusers. Install it with: pip install "cinescene[cli]"') from error
    with torch.device(device):
        network: Any = AutoencoderKLWan(base_dim=base_dim, z_dim=LATENT_CHANNELS)
    return network
