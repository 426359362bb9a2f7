"""One shot of a tiny transformer with random weights, for the tests of how shots are computed."""

import torch
from weight_files import TWO_HEADS, filled_model

from cinescene_core.config import SamplingConfig
from cinescene_core.models.wan import CineSceneTransformer
from cinescene_core.sampler import sample_latents
from cinescene_core.trajectory import preset_trajectory
from cinescene_core.types import Context

FRAMES, VIEWS, SIZE = 3, 4, (6, 10)
"""Latent frames, views, and latent rows and columns: 45 video and 120 scene tokens."""


def random_values(*shape: int, seed: int = 2) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tiny_model() -> CineSceneTransformer:
    return filled_model(TWO_HEADS, seed=1)


def tiny_context(slots=tuple(range(VIEWS))) -> Context:
    """The scene, or some of its views in their slots."""
    slots = list(slots)
    return Context(
        order=tuple(range(len(slots))),
        latents=random_values(VIEWS, 16, *SIZE)[slots],
        features=random_values(VIEWS, TWO_HEADS.feature_width, 3, 5, seed=3)[slots],
        view_positions=torch.arange(FRAMES, FRAMES + VIEWS)[slots],
        feature_positions=torch.arange(FRAMES + VIEWS, FRAMES + 2 * VIEWS)[slots],
    )


def film(
    model: CineSceneTransformer,
    mode: str = "joint",
    steps: int = 2,
    guidance: float = 5.0,
    guidance_low: float = 0.0,
    **options: object,
) -> torch.Tensor:
    """Latents of the shot."""
    prompts = (random_values(1, 7, TWO_HEADS.text_width, seed=seed) for seed in (4, 5))
    path = preset_trajectory("arc_right", num_frames=4 * FRAMES - 3)
    config = SamplingConfig(steps=steps, guidance=guidance, guidance_low=guidance_low)
    return sample_latents(model, *prompts, path, tiny_context(), config, context_attention=mode, **options)
