"""Wan2.1's video VAE outside a host, over diffusers: frames to raw latents and back.

Files may carry the original names (Wan's own, ComfyUI's, the embedded checkpoint's) or diffusers';
the sizes come from the tensors.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..checks import CheckpointError, check_num_frames, check_shape, check_video_size
from ..config import LATENT_CHANNELS
from ..weights.files import difference, load_tensors, read_header
from ..weights.recognise import FileKind, require
from ..weights.vae_keys import has_diffusers_names, to_diffusers

NEEDED = "Use Wan2.1_VAE.pth, wan_2.1_vae.safetensors, or the vae folder of a Wan2.1 release for diffusers."


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
        posterior = self.network.encode(pixels.to(self.network.dtype)).latent_dist
        return posterior.mode().float()

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


def load_autoencoder(path: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> WanAutoencoder:
    """Load a Wan2.1 VAE from a file, or from a `vae/` folder as diffusers lays it out.

    Args:
        path: the file or the folder.
        dtype: precision of the network; float32 or bfloat16.

    Raises:
        CheckpointError: no Wan2.1 VAE; the sentence says what was found and what is needed.
        ImportError: diffusers is not installed.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            raise CheckpointError(
                f"{path} holds {len(found)} .safetensors files where a VAE folder holds one. {NEEDED}"
            )
        path = found[0]
    require(read_header(path), {FileKind.WAN_VAE}, "The video VAE")
    return autoencoder_from_state_dict(load_tensors(path), dtype=dtype, name=path.name)


def autoencoder_from_state_dict(
    state_dict: Mapping[str, Tensor], dtype: torch.dtype = torch.float32, name: str = "The VAE"
) -> WanAutoencoder:
    """Build the VAE that a state dict holds, in original or diffusers names.

    Args:
        state_dict: every tensor of the network.
        dtype: precision of the network.
        name: what to call the source in errors.

    Raises:
        CheckpointError: tensors are missing, unknown or of the wrong shape.
        ImportError: diffusers is not installed.
    """
    if not has_diffusers_names(state_dict):
        state_dict = {to_diffusers(original): value for original, value in state_dict.items()}
    if "decoder.norm_out.gamma" not in state_dict:
        raise CheckpointError(
            f"{name} is no Wan2.1 VAE: it lacks decoder.head.0.gamma, which shows its width. {NEEDED}"
        )
    network = new_autoencoder(len(state_dict["decoder.norm_out.gamma"]), device="meta")
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    fault = difference(expected, {key: tuple(value.shape) for key, value in state_dict.items()})
    if fault:
        raise CheckpointError(f"{name} is no Wan2.1 VAE that can be loaded: {fault}. {NEEDED}")
    # Copies: a file's tensors are mapped to it, and the file may go.
    network.load_state_dict({key: value.to(dtype, copy=True) for key, value in state_dict.items()}, assign=True)
    return WanAutoencoder(network)
