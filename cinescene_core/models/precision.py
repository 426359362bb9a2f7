"""What stays in float32 when the transformer runs in half precision, as diffusers keeps Wan's.

Timesteps, modulation and norms lose what they say in bfloat16, and a camera at 8 m would be off by
centimetres. The layers are small; precision is chosen when a model is made or loaded, not by
`.to(dtype)`.
"""

from typing import Any

import torch
from torch import Tensor

FLOAT32_LAYERS = ("time_embedding", "modulation", "norm3", "cam_encoder", "scene_embed.norm")
"""Names of those layers in a state dict."""


def precise_dtype(dtype: torch.dtype | None) -> torch.dtype:
    """The type such a layer has in a model of precision `dtype`: float32, or float64 if that is it."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def parameter_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """How the parameter `name` is stored in a model of precision `dtype`."""
    kept = any(f".{layer}." in f".{name}." for layer in FLOAT32_LAYERS)
    return precise_dtype(dtype) if kept else dtype


def precise(placement: dict[str, Any]) -> dict[str, Any]:
    """Device and type of such a layer in a model with `placement`."""
    return placement | {"dtype": precise_dtype(placement["dtype"])}


def in_float32(x: Tensor) -> Tensor:
    """`x` in float32, or as it is in float64."""
    return x.to(precise_dtype(x.dtype))
