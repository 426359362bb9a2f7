"""How a fresh transformer starts: as Wan's public configuration says, from a seed of its own."""

import torch
from torch import nn

from cinescene_core.models.conditioning import start_conditioning
from cinescene_core.models.wan import CineSceneTransformer

from .seeds import generator_for


@torch.no_grad()
def initialise(model: CineSceneTransformer, seed: int) -> None:
    """Give a transformer fresh weights, in place.

    Matrices are Xavier uniform, biases zero, norms one; embeddings of text and time have deviation
    0.02; modulation starts at random of deviation 1 / sqrt(d); the head at zero, so the first prediction
    is nothing. Camera and projector start as everywhere (`start_conditioning`).
    """
    generator = generator_for(seed, "initialise")
    for name, parameter in model.named_parameters():
        if name.endswith("modulation"):
            parameter.normal_(std=parameter.shape[-1] ** -0.5, generator=generator)
        elif name.startswith("head.head"):
            parameter.zero_()
        elif parameter.ndim == 1:
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        elif name.startswith(("text_embedding", "time_embedding", "time_projection")):
            parameter.normal_(std=0.02, generator=generator)
        else:
            bound = (6 / (parameter.shape[0] + parameter[0].numel())) ** 0.5
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
    start_conditioning(model, seed)
