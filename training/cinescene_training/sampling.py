"""Samples a `SceneNetwork`: the core's own solver and guidance, for every ablation."""

import torch
from torch import Tensor

from cinescene_core.config import SamplingConfig
from cinescene_core.latents import denormalise_latents
from cinescene_core.sampler import denoise, guided_velocity

from .network import SceneNetwork
from .samples import ClipBatch


@torch.no_grad()
def sample_clip(network: SceneNetwork, clip: ClipBatch, empty_text: Tensor, config: SamplingConfig) -> Tensor:
    """Film clips from their noise, under their prompts, cameras and places.

    Args:
        network: where it is and in its precision.
        clip: [b, ...] on the network's device; its `noise` is where sampling starts, so the seed of
            `config` is not used.
        empty_text: [l, width] rows of the empty prompt, the negative branch of guidance.
        config: steps, guidance, shift and solver.

    Returns:
        [b, 16, t, h, w] float32 raw VAE latents.
    """
    negative = empty_text.to(clip.text).expand_as(clip.text)

    def velocity(latents: Tensor, sigma: float) -> Tensor:
        level = torch.full((len(latents),), sigma, device=latents.device)

        def predict(text: Tensor) -> Tensor:
            return network(latents, level, text, clip.poses, clip.scene).float()

        return guided_velocity(predict, clip.text, negative, config.guidance)

    return denormalise_latents(denoise(velocity, clip.noise, config))
