"""What CineScene adds to Wan: the implicit 3D tokens, and how the new layers start."""

from types import ModuleType
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .precision import in_float32, precise


class SceneEmbed(nn.Module):
    """Scene features to implicit 3D tokens F_t (paper section 4.2): resize, patchify, normalise."""

    def __init__(self, feature_width: int, width: int, operations: ModuleType | Any, **placement: Any) -> None:
        super().__init__()
        self.conv = operations.Conv2d(feature_width, width, kernel_size=2, stride=2, **placement)
        self.norm = operations.LayerNorm(width, **precise(placement))

    def forward(self, features: Tensor, latent_size: tuple[int, int]) -> Tensor:
        """Embed [b, v, c, rows, columns] features for latents of (h, w); return [b, v h/2 w/2, d].

        One view at a time: resized to the latent grid the features of 20 views are 20 times
        larger than their tokens.
        """
        tokens = [self.embed_view(view, latent_size) for view in features.unbind(1)]
        return torch.cat(tokens, dim=1)

    def embed_view(self, view: Tensor, latent_size: tuple[int, int]) -> Tensor:
        """[b, c, rows, columns] features of one view to [b, h/2 w/2, d] tokens."""
        aligned = interpolate(in_float32(view), size=latent_size, mode="bilinear", align_corners=False)
        return self.norm(in_float32(rearrange(self.conv(aligned.to(view.dtype)), "b d r s -> b (r s) d")))


def start_conditioning(model: nn.Module, seed: int = 0) -> None:
    """Give the layers that no Wan file holds their initial values, in place.

    `cam_encoder` starts at zero and `projector` at identity, so the model begins as the one it
    was loaded from (ReCamMaster's initialisation); `scene_embed` starts at random from `seed`.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".cam_encoder." in name:
                parameter.zero_()
            elif ".projector." in name:
                parameter.copy_(torch.eye(len(parameter)) if parameter.ndim == 2 else torch.zeros(len(parameter)))
            elif name == "scene_embed.conv.weight":
                bound = parameter[0].numel() ** -0.5
                parameter.copy_((torch.rand(parameter.shape, generator=generator) * 2 - 1) * bound)
            elif name.startswith("scene_embed."):
                parameter.fill_(1.0 if name == "scene_embed.norm.weight" else 0.0)
