"""The stages as one function: a place, a prompt and a camera path in; a video out.

panorama ─► views ─► scene ─► context ─┐
trajectory ────────────────────────────┼─► sampler ─► latents ─► video
prompt ─► text embedding ──────────────┘
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .config import CineSceneConfig, SamplingConfig, ViewConfig
from .context import build_context, shuffled_order
from .costs import CostMeter, StageCost
from .latents import latent_frames
from .models.autoencoder import WanAutoencoder, autoencoder_from_state_dict, load_autoencoder
from .models.text import UMT5Encoder, VocabularyEncoder, check_prompt
from .models.vggt import VGGT
from .models.wan import CineSceneTransformer
from .sampler import sample_latents
from .scene import encode_scene
from .types import Scene, Trajectory, Views
from .video import decode_video
from .views import slice_panorama
from .weights import load_transformer, nano_path, read_bundle_part
from .weights.vggt import load_vggt

OnProgress = Callable[[str, int, int], None]
"""Told (stage, done, total) as the work goes on; may raise to interrupt it."""


@dataclass(frozen=True)
class Models:
    """Every network one shot needs, loaded, on the CPU."""

    transformer: CineSceneTransformer
    config: CineSceneConfig
    """What the transformer was trained with; also the default size, length and lens of a shot."""
    vae: WanAutoencoder
    vggt: VGGT
    text: UMT5Encoder | VocabularyEncoder

    def view_config(self, **changes: float) -> ViewConfig:
        """How a panorama is cut for this checkpoint, with some settings changed."""
        config = self.config
        defaults = {
            "num_views": config.num_views,
            "width": config.width,
            "height": config.height,
            "fov_degrees": config.fov_degrees,
        }
        return ViewConfig(**(defaults | changes))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Shot:
    """One finished video and what it cost."""

    frames: Tensor
    """[f, h, w, 3] float32 in 0..1, sRGB."""
    fps: float
    latents: Tensor
    """[1, 16, t, h/8, w/8] raw VAE latents."""
    scene: Scene
    """The encoded place; pass it on to film it again without encoding."""
    costs: tuple[StageCost, ...]


def load_nano(path: str | os.PathLike[str] | None = None) -> Models:
    """Load every network from one bundle; by default the embedded one.

    Raises:
        CheckpointError: the file is damaged or lacks a part.
    """
    path = nano_path() if path is None else Path(path)
    transformer, config = load_transformer(path, prefix="transformer.", dtype=torch.float32)
    vae_state, _ = read_bundle_part(path, "vae")
    text_state, text_record = read_bundle_part(path, "text")
    return Models(
        transformer=transformer,
        config=config,
        vae=autoencoder_from_state_dict(vae_state, dtype=torch.float32),
        vggt=load_vggt(path, prefix="vggt.", dtype=torch.float32),
        text=VocabularyEncoder.from_state_dict(text_state, text_record),
    )


def load_models(
    transformer: str | os.PathLike[str],
    vggt: str | os.PathLike[str],
    wan: str | os.PathLike[str],
    dtype: torch.dtype = torch.bfloat16,
    on_progress: OnProgress | None = None,
) -> Models:
    """Load full-size networks from local files; nothing is downloaded.

    Args:
        transformer: a CineScene checkpoint (safetensors).
        vggt: `facebook/VGGT-1B` or its conversion by `cinescene convert-vggt`.
        wan: a folder with Wan2.1's `vae/`, `text_encoder/` and `tokenizer/`, as diffusers lays it out.
        dtype: precision of the networks; the VAE stays in float32.
        on_progress: told ("load", networks done, 4).

    Raises:
        CheckpointError: a file is another model, damaged or missing.
    """
    tell = on_progress or (lambda stage, done, total: None)
    network, config = load_transformer(transformer, dtype=dtype)
    tell("load", 1, 4)
    scene_encoder = load_vggt(vggt, dtype=dtype)
    tell("load", 2, 4)
    autoencoder = load_autoencoder(Path(wan) / "vae", dtype=torch.float32)
    tell("load", 3, 4)
    text = UMT5Encoder.from_folder(wan, dtype=dtype)
    tell("load", 4, 4)
    return Models(network, config, autoencoder, scene_encoder, text)


@torch.inference_mode()
def generate(
    models: Models,
    place: Tensor | Views | Scene,
    prompt: str,
    trajectory: Trajectory,
    *,
    negative_prompt: str = "",
    sampling: SamplingConfig | None = None,
    view_config: ViewConfig | None = None,
    shuffle_seed: int | None = None,
    device: torch.device | str = "cpu",
    on_progress: OnProgress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Shot:
    """Film a place.

    Args:
        models: from `load_nano` or `load_models`.
        place: a [h, w, 3] panorama, views of the place, or a scene encoded before.
        prompt: what moves in the place, in words.
        trajectory: the camera path; its length is the video's.
        negative_prompt: what to keep out of the video.
        sampling: steps, guidance, shift, solver and seed.
        view_config: how a panorama is cut; by default as the checkpoint was trained.
        shuffle_seed: shuffles the views behind the first (section 4.3); None keeps their order.
        device: where the networks run; each is there only for its own stage.
        on_progress: told (stage, done, total).
        should_stop: asked between steps; True raises `Interrupted`.

    Returns:
        The video, its latents, the scene for further shots, and the cost of each stage.

    Raises:
        ValueError: an input that the message names.
    """
    check_prompt(prompt)
    num_latent_frames = latent_frames(len(trajectory))
    sampling = sampling or SamplingConfig()
    tell = on_progress or (lambda stage, done, total: None)
    meter = CostMeter(torch.device(device))

    with meter.stage("text"), on_device(models.text, device):
        text, negative = models.text.encode(prompt), models.text.encode(negative_prompt)
    if isinstance(place, Tensor):
        with meter.stage("views"):
            place = slice_panorama(
                place, view_config or models.view_config(), on_view=lambda done, total: tell("views", done, total)
            )
    if isinstance(place, Views):
        with meter.stage("scene"), on_device(models.vggt, device), on_device(models.vae, device):
            config = models.config
            place = encode_scene(
                place,
                models.vggt,
                models.vae,
                vggt_size=(config.vggt_width, config.vggt_height),
                device=device,
                on_progress=lambda done, total: tell("scene", done, total),
            )
    order = None if shuffle_seed is None else shuffled_order(len(place.views), shuffle_seed)
    with meter.stage("sampling"), on_device(models.transformer, device):
        latents = sample_latents(
            models.transformer,
            text,
            negative,
            trajectory,
            build_context(place, num_latent_frames, models.config, order),
            sampling,
            context_timestep=models.config.context_timestep,
            on_step=lambda done, total, _: tell("sampling", done, total),
            should_stop=should_stop,
        )
    with meter.stage("video"), on_device(models.vae, device):
        tell("video", 0, 1)  # the decoder is one call: the bar shows that it runs
        frames = decode_video(latents, models.vae)
        tell("video", 1, 1)
    return Shot(frames, trajectory.fps, latents.cpu(), place, tuple(meter.costs))


@contextmanager
def on_device(module: nn.Module, device: torch.device | str) -> Iterator[None]:
    """Hold a network on `device` while its stage runs, then give the memory back."""
    home = next(module.parameters()).device
    module.to(device)
    try:
        yield
    finally:
        module.to(home)
