"""Wan2.1's original parameter names and diffusers' names for them, both ways.

The affine norm of cross-attention is `norm3` in the original and `norm2` in diffusers. Names that
neither side renames, CineScene's and ReCamMaster's among them, pass through.
"""

import re
from collections.abc import Iterable

# Beginnings of names: (original, diffusers). The first match counts.
_OUTSIDE_BLOCKS = (
    ("text_embedding.0.", "condition_embedder.text_embedder.linear_1."),
    ("text_embedding.2.", "condition_embedder.text_embedder.linear_2."),
    ("time_embedding.0.", "condition_embedder.time_embedder.linear_1."),
    ("time_embedding.2.", "condition_embedder.time_embedder.linear_2."),
    ("time_projection.1.", "condition_embedder.time_proj."),
    ("head.head.", "proj_out."),
    ("head.modulation", "scale_shift_table"),
)
_ATTENTIONS = (("self_attn", "attn1"), ("cross_attn", "attn2"))
_PROJECTIONS = (("q.", "to_q."), ("k.", "to_k."), ("v.", "to_v."), ("o.", "to_out.0."), ("", ""))
_INSIDE_BLOCKS = (
    *((f"{a}.{p}", f"{b}.{q}") for a, b in _ATTENTIONS for p, q in _PROJECTIONS),
    ("norm3.", "norm2."),
    ("norm2.", "norm3."),
    ("ffn.0.", "ffn.net.0.proj."),
    ("ffn.2.", "ffn.net.2."),
    ("modulation", "scale_shift_table"),
)
_BLOCK = re.compile(r"(?:vace_)?blocks\.\d+\.")


def to_diffusers(name: str) -> str:
    """diffusers' name of an original parameter."""
    return _rename(name, 0, 1)


def to_original(name: str) -> str:
    """The original name of a diffusers parameter."""
    return _rename(name, 1, 0)


def has_diffusers_names(names: Iterable[str]) -> bool:
    """Whether a Wan transformer's names are diffusers'."""
    return "blocks.0.attn1.to_q.weight" in set(names)


def _rename(name: str, source: int, target: int) -> str:
    block = _BLOCK.match(name)
    front, rest = (block[0], name[block.end() :]) if block else ("", name)
    for pair in _INSIDE_BLOCKS if block else _OUTSIDE_BLOCKS:
        if rest.startswith(pair[source]):
            return front + pair[target] + rest[len(pair[source]) :]
    return name
