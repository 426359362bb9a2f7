"""Images to tokens: a DINOv2 backbone per frame, then attention within and across frames.

Letters: b scenes, s frames of a scene, k patches of a frame, n = 5 + k tokens of a frame, c width.
"""

from collections.abc import Callable, Collection

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from .blocks import Block, Layers, cast_like, grid_rotation
from .config import VGGTConfig

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)

OnBlock = Callable[[int, int], None]
"""Told (done, total) after each pair of blocks; whatever it raises ends the run."""


class PatchEmbed(nn.Module):
    """Each patch of pixels to one token."""

    def __init__(self, patch_size: int, width: int, *, layers: Layers) -> None:
        super().__init__()
        self.compute_dtype = layers.compute_dtype
        self.proj = layers.conv(3, width, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """[b, 3, h, w] to [b, k, c], row by row, in the precision of the images."""
        return rearrange(self.proj(images.to(self.compute_dtype)), "b c h w -> b (h w) c").to(images.dtype)


class Backbone(nn.Module):
    """DINOv2 with registers: one frame's patches, each knowing its frame."""

    def __init__(self, config: VGGTConfig, *, layers: Layers) -> None:
        super().__init__()
        width, grid = config.embed_dim, config.position_grid
        self.grid = (grid, grid)
        self.num_special = 1 + config.backbone_registers
        self.patch_embed = PatchEmbed(config.patch_size, width, layers=layers)
        self.cls_token = layers.parameter(1, 1, width, std=0.02)
        self.pos_embed = layers.parameter(1, 1 + grid * grid, width, std=0.02)
        self.register_tokens = layers.parameter(1, config.backbone_registers, width, std=0.02)
        self.mask_token = layers.parameter(1, width, std=0.0)  # in the official file; used in DINOv2's training only
        self.blocks = nn.ModuleList(
            Block(width, config.num_heads, config.mlp_ratio, eps=1e-6, qk_norm=False, scale=1.0, layers=layers)
            for _ in range(config.backbone_depth)
        )
        self.norm = layers.layer_norm(width, 1e-6)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """The stored position table [1, k, c], resized to `grid` unless it has that size."""
        table = self.pos_embed[:, 1:]
        if grid == self.grid:
            return table
        table = rearrange(table, "1 (rows columns) c -> 1 c rows columns", rows=self.grid[0])
        # antialias also selects the a = -0.5 kernel when enlarging, which the weights expect.
        table = nn.functional.interpolate(table, size=grid, mode="bicubic", antialias=True, align_corners=False)
        return rearrange(table, "1 c rows columns -> 1 (rows columns) c")

    def forward(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Normalised images [b, 3, h, w] to patch tokens [b, k, c]."""
        patches = self.patch_embed(images)
        patches = patches + cast_like(self.positions(grid), patches)
        special = torch.cat([self.cls_token + self.pos_embed[:, :1], self.register_tokens], dim=1)
        x = torch.cat([repeat(cast_like(special, patches), "1 n c -> b n c", b=len(patches)), patches], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, self.num_special :]


class Aggregator(nn.Module):
    """Alternates attention within each frame and across all frames of a scene."""

    def __init__(self, config: VGGTConfig, *, layers: Layers) -> None:
        super().__init__()
        self.config = config
        self.stream_dtype = layers.stream_dtype
        self.patch_embed = Backbone(config, layers=layers)
        # Axis 1: the first frame of a scene, and every other frame.
        self.camera_token = layers.parameter(1, 2, 1, config.embed_dim, std=0.02)
        self.register_token = layers.parameter(1, 2, config.registers, config.embed_dim, std=0.02)
        self.frame_blocks, self.global_blocks = (
            nn.ModuleList(
                Block(
                    config.embed_dim,
                    config.num_heads,
                    config.mlp_ratio,
                    eps=1e-5,
                    qk_norm=True,
                    scale=0.01,
                    layers=layers,
                )
                for _ in range(config.depth)
            )
            for _ in range(2)
        )

    def tokens(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Images [b, s, 3, h, w] in 0..1 to the first stream [b, s, n, c]."""
        b, s = images.shape[:2]
        images = images.to(self.stream_dtype)
        mean, std = (images.new_tensor(values)[:, None, None] for values in (IMAGE_MEAN, IMAGE_STD))
        patches = self.patch_embed(rearrange((images - mean) / std, "b s c h w -> (b s) c h w"), grid)
        special = cast_like(torch.cat([self.camera_token, self.register_token], dim=2), patches)
        special = torch.cat([special[:, :1], special[:, 1:].expand(-1, s - 1, -1, -1)], dim=1)
        patches = rearrange(patches, "(b s) k c -> b s k c", b=b)
        return torch.cat([special.expand(b, -1, -1, -1), patches], dim=2)

    def forward(
        self, images: Tensor, grid: tuple[int, int], layers: Collection[int], on_block: OnBlock | None
    ) -> dict[int, Tensor]:
        """Run the pairs of blocks as far as needed; return the wanted layers' [b, s, n, 2c]."""
        b, s = images.shape[:2]
        rotation = grid_rotation(
            grid, self.config.token_offset, self.config.head_width, device=images.device, dtype=self.stream_dtype
        )
        scene_rotation = rotation.repeat(s)
        x = self.tokens(images, grid)
        kept: dict[int, Tensor] = {}
        total = max(layers) + 1
        for i in range(total):
            within = self.frame_blocks[i](rearrange(x, "b s n c -> (b s) n c"), rotation)
            x = self.global_blocks[i](rearrange(within, "(b s) n c -> b (s n) c", b=b), scene_rotation)
            x = rearrange(x, "b (s n) c -> b s n c", s=s)
            if i in layers:
                kept[i] = torch.cat([rearrange(within, "(b s) n c -> b s n c", b=b), x], dim=-1)
            if on_block is not None:
                on_block(i + 1, total)
        return kept
