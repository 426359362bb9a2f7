"""What stays in float32 while the rest of the network trains in bfloat16."""

from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from cinescene_core.models.precision import parameter_dtype


def keep_in_float32(network: nn.Module) -> None:
    """Take the layers that inference keeps in float32 out of autocast, in place.

    Timesteps, modulation, norms and the camera lose what they say in bfloat16; training and
    sampling keep the same ones (`models.precision`).
    """
    for name, module in network.named_modules():
        kept = parameter_dtype(f"{name}.weight", torch.bfloat16) == torch.float32
        if isinstance(module, (nn.Linear, nn.LayerNorm)) and kept:
            module.forward = _without_autocast(module.forward)  # type: ignore[method-assign]


def _without_autocast(forward: Any) -> Any:
    @wraps(forward)
    def precise(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return forward(x.float())

    return precise
