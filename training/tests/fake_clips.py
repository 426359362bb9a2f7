"""Clips, networks and files in small: what the tests of the network and its ablations need, without a cache."""

import torch
from safetensors.torch import save_file

from cinescene_core.config import CineSceneConfig, WanConfig
from cinescene_core.models.wan import CineSceneTransformer
from cinescene_training.config import ModelConfig
from cinescene_training.samples import ClipBatch, SceneBatch

SMALL = WanConfig(
    width=48, num_layers=3, num_heads=2, ffn_width=64, text_width=20, feature_width=12, frequency_width=32
)
ONE_HEAD = WanConfig(
    width=128, num_layers=2, num_heads=1, ffn_width=32, text_width=16, frequency_width=16, feature_width=2048
)
"""Head and feature width of the real files, so that a base file needs no metadata."""
FRAMES, HEIGHT, WIDTH = 3, 4, 6
"""Latent frames and sides: 2 x 3 tokens a frame."""


def fake_batch(config: WanConfig = SMALL, *, views: int = FRAMES, frames: int = FRAMES, seed: int = 0) -> ClipBatch:
    """Two clips of random values."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    scene = SceneBatch(
        latents=randn(2, views, 16, HEIGHT, WIDTH),
        patch=randn(2, views, config.feature_width, 3, 5),
        camera=randn(2, views, config.feature_width),
    )
    return ClipBatch(
        names=("one", "two"),
        video=randn(2, 16, frames, HEIGHT, WIDTH),
        noise=randn(2, 16, frames, HEIGHT, WIDTH),
        sigma=torch.tensor([0.9, 0.4]),
        text=randn(2, 7, config.text_width),
        poses=randn(2, frames, 3, 4),
        scene=scene,
        clip_features=randn(2, frames, config.feature_width, 3, 5),
    )


def model_config(**changes: object) -> ModelConfig:
    """A fresh small network; `changes` are fields."""
    return ModelConfig(**({"sizes": SMALL, "gradient_checkpointing": False} | changes))


def filled(network: torch.nn.Module, seed: int = 1) -> torch.nn.Module:
    """The same network with every parameter random and large enough that no term is negligible, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            scale = 0.15 if parameter.ndim > 1 else 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return network


def predict(network: torch.nn.Module, batch: ClipBatch) -> torch.Tensor:
    """The velocity of a batch, without gradients."""
    with torch.no_grad():
        return network(batch.noisy(), batch.sigma, batch.text, batch.poses, batch.scene)


def write_file(path, kind: str, record: CineSceneConfig | None = None):
    """A base ("wan"), ReCamMaster ("recammaster") or CineScene ("cinescene") file of one-headed random weights.

    Returns the state dict that it holds.
    """
    added = {"wan": ("cam_encoder", "projector", "scene_embed"), "recammaster": ("scene_embed",), "cinescene": ()}
    model = filled(CineSceneTransformer(ONE_HEAD))
    state = {n: v for n, v in model.state_dict().items() if not any(name in n.split(".") for name in added[kind])}
    save_file(state, path, metadata=None if record is None else {"cinescene": record.to_json()})
    return state
