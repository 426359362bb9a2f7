"""What the backbone, the aggregator and the camera head are made of.

Letters: b batch, n tokens, d width, h heads, c channels of a head.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from einops import rearrange
from torch import Tensor, nn

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""q, k, v of [b, heads, n, c] to [b, heads, n, c]."""

ROPE_BASE = 100.0


@dataclass(frozen=True)
class Layers:
    """Makes every layer of the network, and knows which precision belongs where.

    Matrix products run in `compute_dtype`. The residual stream, the norms, the rotations and
    everything small that is read directly (tokens, positions, scales) stay in `stream_dtype`.
    """

    operations: Any
    """Namespace of layer classes: `torch.nn`, or a host's own."""
    attention: Attention
    device: torch.device | None
    dtype: torch.dtype
    """How matrices are stored."""
    compute_dtype: torch.dtype
    """What activations are cast to before each matrix product."""

    @property
    def stream_dtype(self) -> torch.dtype:
        """The computing precision, float32 at least."""
        return torch.promote_types(self.compute_dtype, torch.float32)

    def in_stream_dtype(self) -> Self:
        """The same maker for parts that run in full precision."""
        return dataclasses.replace(self, dtype=self.stream_dtype, compute_dtype=self.stream_dtype)

    def linear(self, inputs: int, outputs: int) -> Any:
        return self.operations.Linear(inputs, outputs, device=self.device, dtype=self.dtype)

    def conv(self, inputs: int, outputs: int, kernel_size: int, **options: Any) -> Any:
        return self.operations.Conv2d(inputs, outputs, kernel_size, device=self.device, dtype=self.dtype, **options)

    def conv_transpose(self, inputs: int, outputs: int, kernel_size: int, stride: int) -> Any:
        return self.operations.ConvTranspose2d(
            inputs, outputs, kernel_size, stride=stride, device=self.device, dtype=self.dtype
        )

    def layer_norm(self, width: int, eps: float) -> Any:
        return self.operations.LayerNorm(width, eps=eps, device=self.device, dtype=self.stream_dtype)

    def parameter(self, *shape: int, std: float) -> nn.Parameter:
        """A parameter read directly, freshly drawn with deviation `std`."""
        return nn.Parameter(std * torch.randn(shape, device=self.device, dtype=self.stream_dtype))

    def scale(self, width: int, value: float) -> nn.Parameter:
        return nn.Parameter(torch.full((width,), value, device=self.device, dtype=self.stream_dtype))


def cast_like(parameter: Tensor, activation: Tensor) -> Tensor:
    """Bring a parameter that is read directly to the activation's device and precision."""
    return parameter.to(device=activation.device, dtype=activation.dtype)


class Rotation(NamedTuple):
    """Cosines and sines that turn one frame's tokens: [n, 2, c/4] each, rows then columns."""

    cos: Tensor
    sin: Tensor

    def repeat(self, frames: int) -> "Rotation":
        """The same positions for every frame of a scene: [frames * n, 2, c/4]."""
        return Rotation(self.cos.repeat(frames, 1, 1), self.sin.repeat(frames, 1, 1))


def grid_rotation(
    grid: tuple[int, int], token_offset: int, head_width: int, *, device: torch.device, dtype: torch.dtype
) -> Rotation:
    """Rotary positions of one frame: the patch in row r and column c stands at (r + 1, c + 1).

    The `token_offset` tokens in front stand at (0, 0) and are not turned. Row positions turn
    the first half of a head's channels, column positions the second.
    """
    patches = torch.cartesian_prod(*(torch.arange(1, size + 1, device=device, dtype=dtype) for size in grid))
    positions = torch.cat([patches.new_zeros(token_offset, 2), patches])  # [n, 2]
    pairs = head_width // 4
    frequencies = ROPE_BASE ** (-torch.arange(pairs, device=device, dtype=dtype) / pairs)
    angles = positions[..., None] * frequencies
    return Rotation(angles.cos(), angles.sin())


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn the heads x [b, h, n, c]: in each half, channel j pairs with channel j + c/4."""
    first, second = rearrange(x, "b h n (side pair c) -> pair b h n side c", side=2, pair=2)
    turned = [first * rotation.cos - second * rotation.sin, second * rotation.cos + first * rotation.sin]
    return rearrange(turned, "pair b h n side c -> b h n (side pair c)")


class SelfAttention(nn.Module):
    """Multi-head self-attention; with `qk_norm`, query and key are normalised per head and turned."""

    def __init__(self, width: int, num_heads: int, *, qk_norm: bool, layers: Layers) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.compute_dtype = layers.compute_dtype
        self.attention = layers.attention
        self.qkv = layers.linear(width, 3 * width)
        if qk_norm:
            self.q_norm, self.k_norm = (layers.layer_norm(width // num_heads, 1e-5) for _ in range(2))
        self.qk_norm = qk_norm
        self.proj = layers.linear(width, width)

    def forward(self, x: Tensor, rotation: Rotation | None) -> Tensor:
        """Mix the tokens x [b, n, d]."""
        qkv = self.qkv(x.to(self.compute_dtype))
        q, k, v = rearrange(qkv, "b n (three h c) -> three b h n c", three=3, h=self.num_heads)
        if self.qk_norm:
            q, k = self._prepare(self.q_norm, q, rotation, x.dtype), self._prepare(self.k_norm, k, rotation, x.dtype)
        return self.proj(rearrange(self.attention(q, k, v), "b h n c -> b n (h c)"))

    def _prepare(self, norm: nn.Module, heads: Tensor, rotation: Rotation | None, precise: torch.dtype) -> Tensor:
        """Normalise and turn query or key [b, h, n, c] in the stream's precision."""
        normed = norm(heads.to(precise))
        return (normed if rotation is None else rotate(normed, rotation)).to(heads.dtype)


class Mlp(nn.Module):
    """Two matrices with an exact GELU between them."""

    def __init__(self, width: int, hidden: int, outputs: int, *, layers: Layers) -> None:
        super().__init__()
        self.compute_dtype = layers.compute_dtype
        self.fc1 = layers.linear(width, hidden)
        self.fc2 = layers.linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[b, n, width] to [b, n, outputs]."""
        return self.fc2(nn.functional.gelu(self.fc1(x.to(self.compute_dtype))))


class LayerScale(nn.Module):
    """A learned factor per channel on what a block adds to the stream."""

    def __init__(self, width: int, initial: float, *, layers: Layers) -> None:
        super().__init__()
        self.gamma = layers.scale(width, initial)

    def forward(self, x: Tensor, update: Tensor) -> Tensor:
        """x + gamma * update, in the precision of x."""
        return torch.addcmul(x, update.to(x.dtype), cast_like(self.gamma, x))


class Block(nn.Module):
    """A pre-norm transformer block; the stream it returns has the precision it came in."""

    def __init__(
        self, width: int, num_heads: int, mlp_ratio: int, *, eps: float, qk_norm: bool, scale: float, layers: Layers
    ) -> None:
        super().__init__()
        self.norm1 = layers.layer_norm(width, eps)
        self.attn = SelfAttention(width, num_heads, qk_norm=qk_norm, layers=layers)
        self.ls1 = LayerScale(width, scale, layers=layers)
        self.norm2 = layers.layer_norm(width, eps)
        self.mlp = Mlp(width, mlp_ratio * width, width, layers=layers)
        self.ls2 = LayerScale(width, scale, layers=layers)

    def forward(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        """[b, n, d] to [b, n, d]."""
        x = self.ls1(x, self.attn(self.norm1(x), rotation))
        return self.ls2(x, self.mlp(self.norm2(x)))
