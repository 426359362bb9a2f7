"""The Wan VAE's original parameter names and diffusers' names for them, both ways.

The original numbers the decoder's layers in one row; diffusers groups them by stage: three
residual layers, then the upsampling that all stages but the last have.
"""

import re
from collections.abc import Iterable

STAGE_LAYERS = 4
"""Layers of a decoder stage: Wan's two residual layers, one more, and the upsampling."""

# (original, diffusers); a name's beginning, then the layer, then what stands inside the layer.
_FRONTS = (
    ("conv1.", "quant_conv."),
    ("conv2.", "post_quant_conv."),
    *(
        (f"{half}.{original}", f"{half}.{diffusers}")
        for half in ("encoder", "decoder")
        for original, diffusers in (
            ("conv1.", "conv_in."),
            ("middle.0.", "mid_block.resnets.0."),
            ("middle.1.", "mid_block.attentions.0."),
            ("middle.2.", "mid_block.resnets.1."),
            ("head.0.", "norm_out."),
            ("head.2.", "conv_out."),
        )
    ),
    ("encoder.downsamples.", "encoder.down_blocks."),
)
_LAYERS = (
    ("residual.0.", "norm1."),
    ("residual.2.", "conv1."),
    ("residual.3.", "norm2."),
    ("residual.6.", "conv2."),
    ("shortcut.", "conv_shortcut."),
)
_UPSAMPLES = re.compile(r"decoder\.upsamples\.(\d+)\.")
_UP_BLOCKS = re.compile(r"decoder\.up_blocks\.(\d+)\.(?:resnets\.(\d+)|upsamplers\.0)\.")


def to_diffusers(name: str) -> str:
    """diffusers' name of an original parameter."""
    if match := _UPSAMPLES.match(name):
        stage, layer = divmod(int(match[1]), STAGE_LAYERS)
        place = "upsamplers.0" if layer == STAGE_LAYERS - 1 else f"resnets.{layer}"
        return f"decoder.up_blocks.{stage}.{place}.{_inside(name[match.end() :], 0, 1)}"
    return _rename(name, 0, 1)


def to_original(name: str) -> str:
    """The original name of a diffusers parameter."""
    if match := _UP_BLOCKS.match(name):
        layer = int(match[2]) if match[2] else STAGE_LAYERS - 1
        return f"decoder.upsamples.{STAGE_LAYERS * int(match[1]) + layer}.{_inside(name[match.end() :], 1, 0)}"
    return _rename(name, 1, 0)


def has_diffusers_names(names: Iterable[str]) -> bool:
    """Whether a Wan VAE's names are diffusers'."""
    return any(name.startswith("decoder.up_blocks.") for name in names)


def _rename(name: str, source: int, target: int) -> str:
    for pair in _FRONTS:
        if name.startswith(pair[source]):
            return pair[target] + _inside(name[len(pair[source]) :], source, target)
    return name


def _inside(rest: str, source: int, target: int) -> str:
    """Rename what stands inside a layer; a number may stand in front ("7.residual.0.gamma")."""
    index = re.match(r"\d+\.", rest)
    front, rest = (index[0], rest[index.end() :]) if index else ("", rest)
    for pair in _LAYERS:
        if rest.startswith(pair[source]):
            return front + pair[target] + rest[len(pair[source]) :]
    return front + rest
