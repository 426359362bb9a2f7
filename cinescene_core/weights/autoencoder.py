"""The video VAE's files.

They may carry the original names (Wan's own, ComfyUI's, the embedded checkpoint's) or diffusers';
the sizes come from the tensors.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..checks import CheckpointError
from ..models.autoencoder import WanAutoencoder, new_autoencoder
from .files import difference, load_tensors, read_header
from .recognise import FileKind, require
from .vae_keys import has_diffusers_names, to_diffusers

NEEDED = "Use Wan2.1_VAE.pth, wan_2.1_vae.safetensors, or the vae folder of a Wan2.1 release for diffusers."


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
