"""Sizes of the scene encoder, and how to read them from a checkpoint."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from ...checks import CheckpointError

OFFICIAL_DEPTH = 24
OFFICIAL_DEPTH_LAYERS = (4, 11, 17, 23)
"""Which of the 24 layers the official depth head reads."""

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class VGGTConfig:
    """Sizes of VGGT; the defaults are the official 1B network with its camera and depth heads."""

    embed_dim: int = 1024
    """Channels of one token inside the network; its output is twice as wide."""
    num_heads: int = 16
    """Attention heads, the same number in the backbone, the aggregator and the camera head."""
    mlp_ratio: int = 4
    """Hidden width of every feed-forward, in token widths."""
    patch_size: int = 14
    """Pixels on a side of one patch."""
    position_grid: int = 37
    """Rows and columns of the stored table of positions."""
    backbone_depth: int = 24
    """Blocks of the image backbone."""
    backbone_registers: int = 4
    """Register tokens inside the image backbone."""
    depth: int = 24
    """Pairs of frame and global blocks."""
    registers: int = 4
    """Register tokens per frame in the aggregator, behind the camera token."""
    camera_head: bool = True
    camera_depth: int = 4
    """Blocks of the camera head."""
    camera_iterations: int = 4
    """Refinements of the predicted cameras."""
    depth_head: bool = True
    depth_features: int = 256
    """Channels of the depth head's fusion pyramid."""
    depth_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    """Channels of the depth head's four inputs, fine to coarse."""

    def __post_init__(self) -> None:
        if self.num_heads < 1 or self.embed_dim % self.num_heads or self.head_width % 4:
            raise ValueError(
                f"VGGTConfig.embed_dim {self.embed_dim} must divide into {self.num_heads} heads whose width is a "
                "multiple of 4 (row and column rotations, in pairs)."
            )

    @property
    def head_width(self) -> int:
        return self.embed_dim // self.num_heads

    @property
    def width(self) -> int:
        """Channels of an output token: the frame half, then the global half."""
        return 2 * self.embed_dim

    @property
    def token_offset(self) -> int:
        """Tokens of a frame in front of its patches: the camera token and the registers."""
        return 1 + self.registers

    @property
    def depth_layers(self) -> tuple[int, ...]:
        """Layers the depth head reads: 4, 11, 17 and 23 of 24, in proportion for other depths."""
        shares = ((layer + 1) / OFFICIAL_DEPTH for layer in OFFICIAL_DEPTH_LAYERS)
        return tuple(max(0, math.floor(share * self.depth + 0.5) - 1) for share in shares)

    @classmethod
    def tiny(cls) -> Self:
        """A network of 1.2 million parameters with every part of the full one, for tests."""
        return cls(
            embed_dim=64,
            num_heads=4,
            position_grid=4,
            backbone_depth=2,
            depth=5,
            camera_depth=2,
            depth_features=16,
            depth_channels=(8, 16, 24, 32),
        )

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor] | Shapes, num_heads: int | None = None) -> Self:
        """Read the sizes from a checkpoint's tensors, or from their shapes alone.

        Args:
            state_dict: tensors or shapes under the official names, without wrappers.
            num_heads: attention heads; by default the width divided by the length of the
                query norm, which is one head's width.

        Raises:
            CheckpointError: a tensor that shows a size is missing or has the wrong rank.
        """
        shapes = {name: tuple(getattr(value, "shape", value)) for name, value in state_dict.items()}
        embed_dim = _size(shapes, "aggregator.patch_embed.cls_token", 2, 3)
        positions = _size(shapes, "aggregator.patch_embed.pos_embed", 1, 3) - 1
        if positions < 1 or math.isqrt(positions) ** 2 != positions:
            raise CheckpointError(
                f"aggregator.patch_embed.pos_embed holds {positions} positions, which is no square grid; "
                "the official file holds 37 x 37."
            )
        sizes: dict[str, Any] = {
            "embed_dim": embed_dim,
            "num_heads": num_heads or embed_dim // _size(shapes, "aggregator.frame_blocks.0.attn.q_norm.weight", 0, 1),
            "mlp_ratio": _size(shapes, "aggregator.frame_blocks.0.mlp.fc1.weight", 0, 2) // embed_dim,
            "patch_size": _size(shapes, "aggregator.patch_embed.patch_embed.proj.weight", 3, 4),
            "position_grid": math.isqrt(positions),
            "backbone_depth": _count(shapes, r"aggregator\.patch_embed\.blocks\.(\d+)\."),
            "backbone_registers": _size(shapes, "aggregator.patch_embed.register_tokens", 1, 3),
            "depth": _count(shapes, r"aggregator\.(?:frame|global)_blocks\.(\d+)\."),
            "registers": _size(shapes, "aggregator.register_token", 2, 4),
            "camera_head": any(name.startswith("camera_head.") for name in shapes),
            "depth_head": any(name.startswith("depth_head.") for name in shapes),
        }
        if sizes["camera_head"]:
            sizes["camera_depth"] = _count(shapes, r"camera_head\.trunk\.(\d+)\.")
        if sizes["depth_head"]:
            sizes["depth_features"] = _size(shapes, "depth_head.scratch.layer1_rn.weight", 0, 4)
            sizes["depth_channels"] = tuple(
                _size(shapes, f"depth_head.projects.{level}.weight", 0, 4) for level in range(4)
            )
        try:
            return cls(**sizes)
        except ValueError as error:
            raise CheckpointError(f"The checkpoint's sizes fit no VGGT: {error}") from error


def _size(shapes: Shapes, name: str, axis: int, rank: int) -> int:
    """One size of a tensor that must be there, with `rank` dimensions none of which is empty."""
    if name not in shapes:
        raise CheckpointError(f"The checkpoint lacks {name}, which shows a size of the network.")
    shape = shapes[name]
    if len(shape) != rank or 0 in shape:
        raise CheckpointError(f"{name} must have {rank} dimensions, none of them empty; got {list(shape)}.")
    return shape[axis]


def _count(shapes: Shapes, pattern: str) -> int:
    """Blocks whose names match `pattern`: one more than the highest index."""
    found = [int(match.group(1)) for name in shapes if (match := re.match(pattern, name))]
    return max(found, default=-1) + 1
