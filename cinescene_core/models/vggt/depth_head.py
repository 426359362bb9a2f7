"""Patch tokens of four layers to depth per pixel (a dense prediction transformer head).

Letters: b frames, c channels, h w rows and columns of whatever grid is at hand.
"""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from .blocks import Layers
from .config import VGGTConfig

FRAMES_AT_ONCE = 8
"""Frames decoded together; bounds the memory and changes nothing else."""
LAST_CHANNELS = 32
POSITION_BASE = 100.0
POSITION_WEIGHT = 0.1


def positional_map(channels: int, height: int, width: int, aspect: float) -> Tensor:
    """Sines and cosines of where each cell looks: [channels, height, width] float64.

    Cell centres span a rectangle of the picture's `aspect` (width / height) whose half
    diagonal is 1. Channels are sin x, cos x, sin y, cos y, a quarter each.
    """
    frequencies = POSITION_BASE ** (-torch.arange(channels // 4, dtype=torch.float64) / (channels // 4))

    def waves(size: int, half_extent: float) -> Tensor:
        reach = half_extent / math.hypot(aspect, 1.0) * (size - 1) / size
        angles = frequencies[:, None] * torch.linspace(-reach, reach, size, dtype=torch.float64)
        return torch.cat([angles.sin(), angles.cos()])  # [channels / 2, size]

    x = waves(width, aspect)[:, None, :].expand(-1, height, -1)
    y = waves(height, 1.0)[:, :, None].expand(-1, -1, width)
    return torch.cat([x, y])


def add_positions(x: Tensor, aspect: float) -> Tensor:
    """Add the positional map to x [b, c, h, w]."""
    positions = positional_map(x.shape[1], x.shape[2], x.shape[3], aspect)
    return x + POSITION_WEIGHT * positions.to(device=x.device, dtype=x.dtype)


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, corners on corners."""
    return nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=True)


class ResidualUnit(nn.Module):
    """Two convolutions around a skip."""

    def __init__(self, channels: int, *, layers: Layers) -> None:
        super().__init__()
        self.conv1, self.conv2 = (layers.conv(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()  # the skip carries the rectified input: the official unit rectifies in place
        return x + self.conv2(self.conv1(x).relu())


class Fusion(nn.Module):
    """Joins one level of the pyramid to the coarser levels below it."""

    def __init__(self, channels: int, *, has_skip: bool, layers: Layers) -> None:
        super().__init__()
        if has_skip:
            self.resConfUnit1 = ResidualUnit(channels, layers=layers)
        self.resConfUnit2 = ResidualUnit(channels, layers=layers)
        self.out_conv = layers.conv(channels, channels, 1)

    def forward(self, x: Tensor, skip: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Add `skip` to x [b, c, h, w], refine, resize to `size`."""
        if skip is not None:
            x = x + self.resConfUnit1(skip)
        return self.out_conv(resize(self.resConfUnit2(x), size))


class Scratch(nn.Module):
    """The fusion pyramid and the output convolutions, under the official name."""

    def __init__(self, config: VGGTConfig, *, layers: Layers) -> None:
        super().__init__()
        features = config.depth_features
        for level, channels in enumerate(config.depth_channels, start=1):
            self.add_module(f"layer{level}_rn", layers.conv(channels, features, 3, padding=1, bias=False))
            self.add_module(f"refinenet{level}", Fusion(features, has_skip=level < 4, layers=layers))
        self.output_conv1 = layers.conv(features, features // 2, 3, padding=1)
        self.output_conv2 = nn.Sequential(
            layers.conv(features // 2, LAST_CHANNELS, 3, padding=1), nn.ReLU(), layers.conv(LAST_CHANNELS, 2, 1)
        )

    def fuse(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Four maps, fine to coarse, to one map of twice the finest size."""
        maps = [self.get_submodule(f"layer{level}_rn")(x) for level, x in enumerate(pyramid, start=1)]
        height, width = maps[0].shape[-2:]
        sizes = [(2 * height, 2 * width), *(tuple(x.shape[-2:]) for x in maps[:-1])]
        x = self.get_submodule("refinenet4")(maps[3], None, sizes[3])
        for level in (3, 2, 1):
            x = self.get_submodule(f"refinenet{level}")(x, maps[level - 1], sizes[level - 1])
        return self.output_conv1(x)


class DepthHead(nn.Module):
    """Depth and its confidence for every pixel; runs in full precision."""

    def __init__(self, config: VGGTConfig, *, layers: Layers) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        first, second, _, last = config.depth_channels
        self.norm = layers.layer_norm(config.width, 1e-5)
        self.projects = nn.ModuleList(layers.conv(config.width, channels, 1) for channels in config.depth_channels)
        self.resize_layers = nn.ModuleList(
            [
                layers.conv_transpose(first, first, 4, stride=4),
                layers.conv_transpose(second, second, 2, stride=2),
                nn.Identity(),
                layers.conv(last, last, 3, stride=2, padding=1),
            ]
        )
        self.scratch = Scratch(config, layers=layers)

    def forward(self, patches: Sequence[Tensor], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Patch tokens of four layers, [b, k, 2c] each, to depth and confidence [b, h, w]."""
        parts = [
            self._decode([layer[i : i + FRAMES_AT_ONCE] for layer in patches], grid)
            for i in range(0, len(patches[0]), FRAMES_AT_ONCE)
        ]
        depth, confidence = torch.cat(parts).unbind(dim=1)
        return depth.exp(), 1 + confidence.exp()

    def _decode(self, patches: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """[b, 2, h, w]: the logarithms of depth and of confidence minus one."""
        height, width = (self.patch_size * size for size in grid)
        aspect = width / height
        pyramid = []
        for tokens, project, resample in zip(patches, self.projects, self.resize_layers, strict=True):
            x = rearrange(self.norm(tokens), "b (rows columns) c -> b c rows columns", rows=grid[0])
            pyramid.append(resample(add_positions(project(x), aspect)))
        x = resize(self.scratch.fuse(pyramid), (height, width))
        return self.scratch.output_conv2(add_positions(x, aspect))
