"""The networks beside the transformer, as the host manages them: the scene encoder, the VAE, nano's text encoder."""

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import torch
from torch import Tensor, nn

from ..cinescene_core.checks import CheckpointError
from ..cinescene_core.config import LATENT_CHANNELS
from ..cinescene_core.models.text import VocabularyEncoder
from ..cinescene_core.models.vggt import VGGT
from ..cinescene_core.types import SceneTokens
from ..cinescene_core.weights.vggt import load_vggt
from .host import HostAttention
from .sockets import show_warnings

# Live copies of one token while the scene encoder works: the stream twice, query, key and value,
# their rotated copies and the widened feed-forward, in float32.
WORKING_COPIES = 16


def managed(module: nn.Module, load_device: torch.device, offload_device: torch.device) -> Any:
    """A module the host may load, offload and cast as it sees fit."""
    # Looked up when called: the host puts another class there on cards with on-demand memory.
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return patcher(module, load_device=load_device, offload_device=offload_device)


class ManagedVGGT:
    """The scene encoder (a `types.SceneEncoder`) whose memory the host manages: what CINESCENE_VGGT carries."""

    def __init__(self, module: VGGT, input_size: tuple[int, int]) -> None:
        self.module = module
        self.input_size = input_size  # (width, height) in pixels of the pictures it was made for
        self.patch_size, self.width, self.fingerprint = module.patch_size, module.width, module.fingerprint
        device = comfy.model_management.get_torch_device()
        self.patcher = managed(module, device, comfy.model_management.unet_offload_device())

    def encode(self, images: Tensor, on_block: Callable[[int, int], None] | None = None) -> SceneTokens:
        """[b, s, 3, h, w] in 0..1 to tokens, given back where the host keeps what travels between nodes."""
        rows, columns = self.module.grid_of(images)
        tokens = images.shape[0] * images.shape[1] * (rows * columns + self.module.token_offset)
        needed = tokens * self.width // 2 * 4 * WORKING_COPIES
        comfy.model_management.load_models_gpu([self.patcher], memory_required=needed)
        found = self.module.encode(images.to(self.patcher.load_device), on_block)
        home = comfy.model_management.intermediate_device()
        return SceneTokens(found.patch.to(home), found.camera.to(home), found.grid)


def open_vggt(
    path: str, input_size: tuple[int, int], prefix: str = "", on_tensor: Callable[[int, int], None] | None = None
) -> ManagedVGGT:
    """Load a scene encoder: computed in bf16 where the card can, stored no larger than that."""
    half = comfy.model_management.should_use_bf16(comfy.model_management.get_torch_device())
    module = load_vggt(
        path,
        prefix=prefix,
        dtype=torch.bfloat16 if half else None,
        compute_dtype=torch.bfloat16 if half else torch.float32,
        operations=comfy.ops.manual_cast,
        attention=HostAttention({}),
        on_tensor=on_tensor,
    )
    return ManagedVGGT(module, input_size)


class HostVAE:
    """A VAE of the host as a `types.Autoencoder`."""

    def __init__(self, vae: Any) -> None:
        channels = getattr(vae, "latent_channels", "an unknown number")
        if channels != LATENT_CHANNELS or getattr(vae, "latent_dim", None) != 3:
            raise CheckpointError(
                f"CineScene needs the Wan2.1 VAE (a video VAE with {LATENT_CHANNELS} channels); "
                f"this is another, with {channels}. Load wan_2.1_vae.safetensors with Load VAE."
            )
        self.vae = vae

    def encode(self, frames: Tensor) -> Tensor:
        """[b, f, h, w, 3] in 0..1 to raw latents; each clip by itself, for the host takes a batch for one clip."""
        return torch.cat([self.vae.encode(clip) for clip in frames])

    def decode(self, latents: Tensor) -> Tensor:
        """Raw latents [b, 16, t, h/8, w/8] to frames [b, f, h, w, 3] in 0..1."""
        return torch.cat([self.vae.decode(clip[None]) for clip in latents])


class VocabularyTokenizer:
    """Nano's encoder reads words, not tokens: the prompt passes through."""

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **options: Any) -> dict[str, str]:
        return {"text": text}

    def state_dict(self) -> dict[str, Tensor]:
        return {}


class VocabularyStage(nn.Module):
    """Nano's text encoder with the methods the host calls on one."""

    def __init__(self, encoder: VocabularyEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def reset_clip_options(self) -> None:
        """Nano has no layers to choose from."""

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """Nano has no layers to choose from."""

    @show_warnings
    def encode_token_weights(self, tokens: dict[str, str]) -> tuple[Tensor, None, dict[str, Any]]:
        rows = self.encoder.encode(tokens["text"])
        return rows.to(comfy.model_management.intermediate_device(), torch.float32), None, {}


def as_clip(encoder: VocabularyEncoder) -> Any:
    """Nano's text encoder as the host's CLIP, so that CLIP Text Encode and hooks work with it."""
    clip = comfy.sd.CLIP(no_init=True)
    clip.cond_stage_model = VocabularyStage(encoder)
    clip.tokenizer = VocabularyTokenizer()
    devices = comfy.model_management.text_encoder_device(), comfy.model_management.text_encoder_offload_device()
    clip.patcher = managed(clip.cond_stage_model, *devices)
    clip.patcher.is_clip = True
    clip.layer_idx, clip.use_clip_schedule, clip.apply_hooks_to_conds = None, False, None
    clip.tokenizer_options = {}
    return clip


def open_vae(state_dict: dict[str, Tensor]) -> Any:
    """The host's own VAE from Wan's original names."""
    vae = comfy.sd.VAE(sd=state_dict)
    vae.throw_exception_if_invalid()
    return vae
