"""Who computes attention: PyTorch, or a faster kernel that is installed beside it."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..checks import check_choice
from ..config import ATTENTION_BACKENDS, AttentionBackend
from .sequence import Attention

PACKAGES: dict[AttentionBackend, str] = {"sage": "sageattention", "flash": "flash_attn"}
"""What must be installed for a backend; PyTorch's own needs nothing."""


def check_attention(
    name: AttentionBackend, device: torch.device | str, dtype: torch.dtype, *, compiled: bool = False
) -> None:
    """Require an attention that can compute a transformer of that type there.

    Raises:
        ValueError: what `attention_backend` refuses; a kernel for cards in 16 bits, and this is neither; SageAttention
            in compiled blocks, which are one graph each.
    """
    attention_backend(name)
    if name == "sdpa":
        return
    kind = str(dtype).removeprefix("torch.")
    if torch.device(device).type != "cuda" or dtype.itemsize != 2:
        raise ValueError(
            f"attention '{name}' computes in 16 bits on CUDA cards; the transformer is {kind} on {device}. Use 'sdpa'."
        )
    if name == "sage" and compiled:
        raise ValueError("SageAttention cannot be part of a compiled graph. Use 'sdpa', or do not compile.")


def attention_backend(name: AttentionBackend) -> Attention:
    """The attention function of a backend, for `CineSceneTransformer.forward`.

    Args:
        name: `sdpa`: PyTorch's own, exact; `sage`: SageAttention, 8-bit, for CUDA cards since 2020; `flash`:
            FlashAttention, exact, in 16 bits only.

    Raises:
        ValueError: an unknown name, or a package that is not installed.
    """
    check_choice("attention", name, ATTENTION_BACKENDS)
    if name == "sdpa":
        return scaled_dot_product_attention
    package = PACKAGES[name]
    if find_spec(package) is None:
        raise ValueError(f"attention '{name}' needs the package {package}, which is not installed. Use 'sdpa'.")
    return _sage() if name == "sage" else _flash()


def _sage() -> Attention:
    from sageattention import sageattn  # type: ignore[import-not-found, import-untyped, unused-ignore]

    call: Callable[..., Tensor] = sageattn

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return call(q, k, v, tensor_layout="HND", is_causal=False)

    return attention


def _flash() -> Attention:
    from flash_attn import flash_attn_func  # type: ignore[import-not-found, import-untyped, unused-ignore]

    call: Any = flash_attn_func

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        result: Tensor = call(*(x.transpose(1, 2) for x in (q, k, v)))  # it wants [b, n, heads, c]
        return result.transpose(1, 2)

    return attention
