"""The networks of a shot, loaded together: from one bundle, or from files of full size."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from .checks import CheckpointError
from .config import CineSceneConfig, ViewConfig
from .models.autoencoder import WanAutoencoder
from .models.text import UMT5Encoder, VocabularyEncoder
from .models.vggt import VGGT
from .models.wan import CineSceneTransformer
from .weights import load_transformer, nano_path, read_bundle_part
from .weights.autoencoder import autoencoder_from_state_dict, load_autoencoder
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


def load_nano(path: str | os.PathLike[str] | None = None) -> Models:
    """Load every network from one bundle; by default the embedded one.

    Raises:
        CheckpointError: the file is damaged, lacks a part or needs a later version.
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
        CheckpointError: a file is another model, damaged or missing, needs a later version, or the
            VGGT is not the one the checkpoint was trained with.
    """
    tell = on_progress or silent
    tell("load", 0, 4)
    network, config = load_transformer(transformer, dtype=dtype)
    tell("load", 1, 4)
    scene_encoder = load_vggt(vggt, dtype=dtype)
    if config.vggt_id and scene_encoder.fingerprint != config.vggt_id:
        raise CheckpointError(
            f"{Path(vggt).name} is VGGT {scene_encoder.fingerprint}, but {Path(transformer).name} was trained with "
            f"{config.vggt_id}. Use the VGGT file the checkpoint was trained with."
        )
    tell("load", 2, 4)
    autoencoder = load_autoencoder(Path(wan) / "vae", dtype=torch.float32)
    tell("load", 3, 4)
    text = UMT5Encoder.from_folder(wan, dtype=dtype)
    tell("load", 4, 4)
    return Models(network, config, autoencoder, scene_encoder, text)


def silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody asked for."""
