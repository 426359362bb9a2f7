"""LPIPS: distance of two pictures as a network sees it (Zhang et al. 2018, version 0.1, AlexNet)."""

import os
from typing import Self

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from ..checks import ShapeError
from .frames import check_pair
from .weight_files import load_exactly, read_published

CHANNELS = (64, 192, 384, 256, 256)
"""Channels of AlexNet's five feature maps."""
_AFTER_RELU = (1, 4, 7, 9, 11)
"""Places in `features` where the maps are read."""
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
"""ImageNet's colour statistics for pictures in -1..1, as LPIPS rounds them."""
_EPSILON = 1e-10
_LEAST_SIZE = 31
"""Pixels that AlexNet's strides need on a side."""


class Lpips(nn.Module):
    """Five convolutions of AlexNet and one weight per channel; made by `from_files`.

    The parameters have torchvision's names (`features.0.weight`, ...) and LPIPS's (`lin0.model.1.weight`, ...).
    """

    name = "LPIPS 0.1, AlexNet"
    """For tables: papers also use VGG, whose numbers differ."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.heads = nn.ModuleDict({f"lin{k}": _Head(channels) for k, channels in enumerate(CHANNELS)})
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", torch.tensor(_SHIFT).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).view(3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    @classmethod
    def from_files(cls, alexnet: str | os.PathLike[str], heads: str | os.PathLike[str]) -> Self:
        """Load from two local files; nothing is downloaded.

        Args:
            alexnet: torchvision's AlexNet (alexnet-owt-7be5be79.pth, BSD-3); its classifier is not needed.
            heads: the weights per channel, weights/v0.1/alex.pth of the lpips package (BSD-2).

        Raises:
            CheckpointError: a file is missing, damaged, or of another network.
        """
        network = cls()
        backbone = read_published(alexnet)
        features = {
            name.removeprefix("features."): value for name, value in backbone.items() if name.startswith("features.")
        }
        load_exactly(network.features, features, alexnet, "torchvision's AlexNet (alexnet-owt-7be5be79.pth)")
        load_exactly(network.heads, read_published(heads), heads, "LPIPS's heads for AlexNet (v0.1/alex.pth)")
        return network

    @torch.no_grad()
    def distance(self, result: Tensor, truth: Tensor) -> Tensor:
        """LPIPS of each frame: 0 for equal frames, larger is further.

        Args:
            result, truth: [f, h, w, 3] in 0..1 (read as -1..1), at least 31 x 31 pixels.

        Returns:
            [f] float64 on the CPU.

        Raises:
            ShapeError, ValueError: what `check_pair` refuses, or smaller pictures.
        """
        sizes = check_pair(result, truth)
        if min(sizes["h"], sizes["w"]) < _LEAST_SIZE:
            raise ShapeError(
                f"LPIPS needs pictures of at least {_LEAST_SIZE} x {_LEAST_SIZE} pixels; "
                f"got {sizes['w']} x {sizes['h']}. Score larger frames."
            )
        values = [self(torch.stack(pair))[0] for pair in zip(result, truth, strict=True)]
        return torch.stack(values).double().cpu()

    def forward(self, pairs: Tensor) -> Tensor:
        """Distances [n] of [2n, h, w, 3] pictures: the first n against the last n."""
        x = 2 * rearrange(pairs.to(self.shift.device, self.shift.dtype), "b h w c -> b c h w") - 1
        x = (x - self.shift) / self.scale
        total = x.new_zeros(len(pairs) // 2)
        heads = iter(self.heads.values())
        for place, layer in enumerate(self.features):
            x = layer(x)
            if place in _AFTER_RELU:
                unit = x / (x.norm(dim=1, keepdim=True) + _EPSILON)
                first, second = unit.chunk(2)
                total = total + reduce(next(heads)((first - second).square()), "n 1 h w -> n", "mean")
        return total


class _Head(nn.Module):
    """A weight per channel, no bias; the published names put a dropout, which does nothing here, in front."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)
