"""`torch.compile` for the transformer, block by block."""

from collections.abc import Iterable

import torch
from torch import nn

MAX_GRAPHS = 64
"""Graphs of one block: each length, size and number of views that is filmed has its own."""


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Compile blocks in place, each as one graph; the first call of each kind takes up to a minute.

    All blocks of a transformer are alike and share what is compiled for the first. Names and values of the parameters
    stay. A block that does not fit into one graph is an error. What is compiled already stays so.

    torch's limit of graphs, 8 for the whole process, is raised to `MAX_GRAPHS`.
    """
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, MAX_GRAPHS)
    for block in blocks:
        if block._compiled_call_impl is None:
            block.compile(fullgraph=True)


def is_compiled(blocks: Iterable[nn.Module]) -> bool:
    """Whether `compile_blocks` was here. Compiled blocks need not call hooks that are registered on them later."""
    return any(block._compiled_call_impl is not None for block in blocks)
