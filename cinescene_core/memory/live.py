"""The most memory that a piece of work has in use at once, counted on the meta device.

Nothing is computed or stored there, but every tensor has its size, and it lives as long as it would elsewhere.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SMALL_CONVOLUTION = 20480
"""Channels x frames x rows of a clip up to which PyTorch itself computes a convolution on the CPU, not oneDNN."""


def peak_bytes(work: Callable[[], object], on_cpu: bool = False) -> int:
    """The most bytes of tensors that are alive at once while `work` runs on the meta device.

    Args:
        work: makes its tensors without naming a device; what was made before it does not count.
        on_cpu: count also what the CPU's convolutions take for the moment.
    """
    with torch.no_grad(), torch.device("meta"), _FusedAttention(), _LiveBytes(on_cpu) as live:
        work()
    return live.peak


class _FusedAttention(TorchFunctionMode):
    """Attention as kernels compute it: the scores are never stored. On the meta device torch would store them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is scaled_dot_product_attention:
            query, _, values = args[:3]
            return query.new_empty(*query.shape[:-1], values.shape[-1])
        return func(*args, **(kwargs or {}))


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are made, until their last user lets go of them."""

    def __init__(self, on_cpu: bool) -> None:
        super().__init__()
        self.on_cpu = on_cpu
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Views share the memory of what they were given.
        for given in tree_leaves((args, kwargs)):
            self._meet(given, counts=False)
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            self._meet(made, counts=True)
        rearranged = func is torch.ops.aten.convolution.default and self.on_cpu
        self.peak = max(self.peak, self.now + (_convolution_bytes(args[0], args[1], result) if rearranged else 0))
        return result

    def _meet(self, value: Any, counts: bool) -> None:
        """Know the memory of a tensor until it is let go: its address then serves another."""
        if isinstance(value, Tensor) and _memory(value)._cdata not in self.known:
            memory = _memory(value)
            size = memory.nbytes() if counts else 0
            self.known.add(memory._cdata)
            self.now += size
            weakref.finalize(memory, self._forget, memory._cdata, size)

    def _forget(self, key: int, size: int) -> None:
        self.now -= size
        self.known.discard(key)


def _memory(tensor: Tensor) -> Any:
    return tensor.untyped_storage()


def _convolution_bytes(inputs: Tensor, weight: Tensor, outputs: Tensor) -> int:
    """What a convolution of more than single pixels takes on the CPU for the moment.

    oneDNN reads a rearranged copy of the input; PyTorch's own kernel, which serves a single small clip, one copy
    for each element of the kernel.
    """
    if max(weight.shape[2:]) == 1:
        return 0
    if len(inputs) > 1 or inputs.shape[:4].numel() > SMALL_CONVOLUTION:
        return inputs.nbytes
    return weight[0].numel() * outputs.shape[2:].numel() * inputs.element_size()
