"""The transformer's sequence: runs of tokens, a scene behind the video, and who attends to whom."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch
from einops import rearrange
from torch import Tensor

from ..config import ContextAttention

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""q, k, v of [b, heads, n, c] to [b, heads, n, c]."""


STREAMS = 2
"""Context frames of a view: its image I_t and its features F_t."""


class Groups(NamedTuple):
    """Who attends to whom in a segment of [streams, views, n] tokens: those of a view to each other alone."""

    streams: int
    views: int


class Segment(NamedTuple):
    """A run of tokens that share one timestep."""

    length: int
    modulation: Tensor
    """[b, 6, d]: shift, scale and gate of self-attention, then of the feed-forward."""
    groups: Groups | None = None
    """Where its tokens attend only to their group and do not read the prompt. Such a segment stands last."""


class SceneContext(NamedTuple):
    """Embedded scene tokens, ready to stand behind the video tokens."""

    tokens: Tensor
    """[b, n, d]: I_t then F_t."""
    positions: Tensor
    """[2v] temporal positions on the CPU, one per context frame."""
    num_views: int
    """v."""
    size: tuple[int, int]
    """Rows and columns of tokens per context frame."""

    def groups(self, mode: ContextAttention) -> Groups | None:
        """Who attends to whom among its tokens; None for everyone to everyone, the video included."""
        if mode == "joint":
            return None
        return Groups(1, 1) if mode == "cached" else Groups(len(self.positions) // self.num_views, self.num_views)


class KeysValues(NamedTuple):
    """What one block's self-attention reads of tokens that it has seen before."""

    keys: Tensor
    """[b, heads, n, c], normalised and rotated."""
    values: Tensor
    """[b, heads, n, c]."""


class SceneMemory(Protocol):
    """A context that was read before (`CineSceneTransformer.read_context`), wherever it is kept."""

    def layers(self, device: torch.device, dtype: torch.dtype) -> Iterator[KeysValues]:
        """What the video reads in each block."""
        ...


def contain(attention: Attention, num_open: int, groups: Groups | None) -> Attention:
    """Attention in which the tokens behind the first `num_open` attend only to their group.

    The open ones attend to all. This is the mask of context modes `cached` and `per_view`, in two calls
    instead of a mask, so every attention backend computes it.
    """
    if groups is None:
        return attention
    streams, views = groups

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch = len(q)
        grouped = (
            rearrange(x[:, :, num_open:], "b heads (s v n) c -> (b v) heads (s n) c", s=streams, v=views)
            for x in (q, k, v)
        )
        read_own = rearrange(attention(*grouped), "(b v) heads (s n) c -> b heads (s v n) c", b=batch, s=streams)
        if num_open == 0:
            return read_own
        return torch.cat([attention(q[:, :, :num_open], k, v), read_own], dim=2)

    return attend
