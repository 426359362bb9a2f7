"""VGGT, the scene encoder: pictures of one place to tokens that know its geometry.

Written from a description of the network's behaviour; parameters carry the official names, so the
published files load by name. Letters: b scenes, s frames, k patches, c width inside the network.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ...checks import CheckpointError, ShapeError, check_shape
from ...types import SceneTokens
from .aggregator import Aggregator, OnBlock
from .blocks import Attention, Layers
from .camera_head import CameraHead
from .config import VGGTConfig
from .depth_head import DepthHead
from .pose_encoding import decode_poses, encode_poses
from .preprocess import resize_for_vggt, vggt_size

__all__ = [
    "VGGT",
    "Attention",
    "VGGTConfig",
    "decode_poses",
    "encode_poses",
    "resize_for_vggt",
    "vggt_fingerprint",
    "vggt_size",
]


class VGGT(nn.Module):
    """The scene encoder (a `types.SceneEncoder`), frozen, with optional camera and depth heads.

    Args:
        config: sizes, and which heads are there.
        operations: namespace of layer classes (Linear, Conv2d, ConvTranspose2d, LayerNorm).
        device: where to make the weights; "meta" makes none.
        dtype: how matrices are stored; torch's default without it. Norms, tokens, positions and
            scales, and the heads, are stored in float32 or better.
        compute_dtype: precision of matrix products; `dtype` without it. The residual stream,
            norms, rotations and heads run in float32 or better. It can differ from `dtype` only
            when the layers of `operations` cast their weights to their input.
        attention: q, k, v of [b, heads, n, c] to [b, heads, n, c].

    Raises:
        ValueError: torch's own layers were asked to compute in another precision than stored.
    """

    def __init__(
        self,
        config: VGGTConfig,
        *,
        operations: Any = torch.nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        compute_dtype: torch.dtype | None = None,
        attention: Attention = scaled_dot_product_attention,
    ) -> None:
        super().__init__()
        dtype = dtype or torch.get_default_dtype()
        compute_dtype = compute_dtype or dtype
        if operations is torch.nn and compute_dtype != dtype:
            raise ValueError(
                f"torch.nn layers compute in the precision of their weights; got dtype {dtype} and compute_dtype "
                f"{compute_dtype}. Give one of them, or operations that cast."
            )
        layers = Layers(operations, attention, torch.device(device) if device else None, dtype, compute_dtype)
        self.config = config
        self.patch_size: int = config.patch_size
        self.width: int = config.width
        self.token_offset: int = config.token_offset
        self.stream_dtype = layers.stream_dtype
        self.aggregator = Aggregator(config, layers=layers)
        if config.camera_head:
            self.camera_head = CameraHead(config, layers=layers.in_stream_dtype())
        if config.depth_head:
            self.depth_head = DepthHead(config, layers=layers.in_stream_dtype())
        self.requires_grad_(False)

    @property
    def fingerprint(self) -> str:
        """What tells these weights from others: see `vggt_fingerprint`."""
        return vggt_fingerprint(self.state_dict())

    @torch.no_grad()
    def encode(self, images: Tensor, on_block: OnBlock | None = None) -> SceneTokens:
        """Encode pictures of one place (paper section 4.1: F_i and F_c).

        The first frame of a scene is its reference: it alone has tokens of its own. The order
        of the others only orders the output.

        Args:
            images: [b, s, 3, h, w] in 0..1, sRGB; h and w multiples of the patch size.
            on_block: told (done, total) after each pair of blocks; may raise to interrupt.

        Returns:
            Tokens of the last layer in float32 or better: patch [b, s, k, 2c], camera
            [b, s, 1, 2c] and the grid. No norm has been applied to them.

        Raises:
            ShapeError: the images do not fit.
            ValueError: values outside 0..1.
        """
        (final,) = self.aggregate(images, (self.config.depth - 1,), on_block)
        return SceneTokens(final[:, :, self.token_offset :], final[:, :, :1], self.grid_of(images))

    @torch.no_grad()
    def aggregate(self, images: Tensor, layers: Sequence[int], on_block: OnBlock | None = None) -> list[Tensor]:
        """Outputs of some layers: camera token, registers, then patches; the rest is not kept.

        Args:
            images: as in `encode`.
            layers: which outputs, 0 to depth - 1; nothing behind the last of them is run.
            on_block: as in `encode`.

        Returns:
            One [b, s, 5 + k, 2c] per entry of `layers`, frame half then global half.
        """
        grid = self.grid_of(images)
        _check_values(images)
        if not layers or not all(0 <= layer < self.config.depth for layer in layers):
            raise ValueError(f"layers must be one or more of 0 to {self.config.depth - 1}; got {tuple(layers)}.")
        kept = self.aggregator(images, grid, frozenset(layers), on_block)
        return [kept[layer] for layer in layers]

    @torch.no_grad()
    def cameras(self, tokens: SceneTokens) -> Tensor:
        """Predict the cameras from encoded pictures.

        Returns:
            [iterations, b, s, 9] pose encodings, the last iteration the best (`decode_poses`).

        Raises:
            ValueError: this model was made without its camera head.
        """
        if not self.config.camera_head:
            raise ValueError("This VGGT has no camera head; load it with heads=('camera',) from a file that has one.")
        return self.camera_head(tokens.camera[:, :, 0].to(self.stream_dtype))

    @torch.no_grad()
    def depth(self, layers: Sequence[Tensor], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Predict depth from `aggregate(images, model.config.depth_layers)`.

        Args:
            layers: the four outputs, [b, s, 5 + k, 2c] each.
            grid: (rows, columns) of the k patches, as `grid_of(images)` gives them.

        Returns:
            Depth, up to the scene's scale, and its confidence (1 and up), [b, s, h, w] each.

        Raises:
            ValueError: this model was made without its depth head.
        """
        if not self.config.depth_head:
            raise ValueError("This VGGT has no depth head; load it with heads=('depth',) from a file that has one.")
        frames, tokens = layers[0].shape[1], self.token_offset + grid[0] * grid[1]
        for layer in layers:
            check_shape("layers", layer, f"b {frames} {tokens} {self.width}")
        patches = [
            rearrange(layer[:, :, self.token_offset :], "b s k c -> (b s) k c").to(self.stream_dtype)
            for layer in layers
        ]
        depth, confidence = self.depth_head(patches, grid)
        return depth.unflatten(0, (-1, frames)), confidence.unflatten(0, (-1, frames))

    def grid_of(self, images: Tensor) -> tuple[int, int]:
        """(rows, columns) of the patches of images [b, s, 3, h, w].

        Raises:
            ShapeError: not [b, s, 3, h, w], no frame, sides that do not divide into patches.
        """
        sizes = check_shape("images", images, "b s 3 h w")
        if not sizes["b"] or not sizes["s"]:
            raise ShapeError(f"images must hold at least one frame; got {list(images.shape)}.")
        patch = self.patch_size
        if sizes["h"] < patch or sizes["w"] < patch or sizes["h"] % patch or sizes["w"] % patch:
            raise ShapeError(
                f"The sides of the images must be multiples of {patch}; got {sizes['w']} x {sizes['h']}. "
                "Resize them first (resize_for_vggt)."
            )
        return sizes["h"] // patch, sizes["w"] // patch


def _check_values(images: Tensor) -> None:
    """Require floating point in 0..1; NaN is outside."""
    if not images.is_floating_point():
        raise ValueError(f"images must be floating point in 0..1; got {images.dtype}. Convert and divide by 255.")
    if not images.is_meta:
        low, high = (float(value) for value in images.aminmax())
        if not (low >= 0.0 and high <= 1.0):
            raise ValueError(
                f"images must lie in 0..1; got {low:g} to {high:g}. The ImageNet normalisation is done inside."
            )


def vggt_fingerprint(state_dict: Mapping[str, Tensor]) -> str:
    """16 hex digits that tell one VGGT's weights from another's.

    A SHA-256 over a few small tensors in bf16, so that a float32 file and its bf16 conversion
    agree.

    Raises:
        CheckpointError: a tensor the fingerprint needs is missing.
    """
    depth = VGGTConfig.from_state_dict(state_dict).depth
    digest = hashlib.sha256()
    for name in (
        "aggregator.camera_token",
        "aggregator.register_token",
        "aggregator.patch_embed.cls_token",
        "aggregator.patch_embed.pos_embed",
        f"aggregator.global_blocks.{depth - 1}.norm1.weight",
        f"aggregator.global_blocks.{depth - 1}.norm2.weight",
    ):
        if name not in state_dict:
            raise CheckpointError(f"The checkpoint lacks {name}, which its fingerprint needs.")
        tensor = state_dict[name].detach().to(device="cpu", dtype=torch.bfloat16).contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]
