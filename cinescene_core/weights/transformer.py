"""The transformer's checkpoints in and out: base Wan2.1, ReCamMaster and CineScene files."""

import dataclasses
import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..checks import CheckpointError, CineSceneWarning
from ..config import CineSceneConfig, WanConfig
from ..files import atomic_write
from ..models.conditioning import start_conditioning
from ..models.precision import parameter_dtype
from ..models.wan import CineSceneTransformer
from .files import Header, TensorInfo, difference, load_tensors, read_header
from .metadata import HOST_KEY, TRANSFORMER_KEY
from .quantised import dequantise, main_dtype, without_scales
from .recognise import FileKind, original_names, require
from .wan_keys import has_diffusers_names, to_original

TRANSFORMER_KINDS = (FileKind.WAN_T2V, FileKind.WAN_DIFFUSERS, FileKind.RECAMMASTER, FileKind.CINESCENE)
"""Files that `load_transformer` accepts."""
WAN_HEAD_WIDTH = 128
"""Width of an attention head in every Wan2.1 release."""

# Layers that a file may lack: they start fresh.
_STARTABLE: dict[FileKind, tuple[str, ...]] = {
    FileKind.WAN_T2V: ("cam_encoder", "scene_embed"),
    FileKind.WAN_DIFFUSERS: ("cam_encoder", "scene_embed"),
    FileKind.RECAMMASTER: ("scene_embed",),
}
_UNTRAINED = {
    FileKind.RECAMMASTER: "a ReCamMaster model without CineScene training: it follows the camera of a source video, "
    "but it will not see the scene",
    FileKind.WAN_T2V: "a base Wan model without CineScene training: it will not see the scene or follow the camera",
}
_UNTRAINED[FileKind.WAN_DIFFUSERS] = _UNTRAINED[FileKind.WAN_T2V]
_BASE_MODELS = {(1536, 30): "Wan2.1-T2V-1.3B", (5120, 40): "Wan2.1-T2V-14B"}


def load_transformer(
    path: str | os.PathLike[str],
    *,
    prefix: str = "",
    operations: ModuleType | Any = nn,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> tuple[CineSceneTransformer, CineSceneConfig]:
    """Load the transformer from a base Wan2.1, ReCamMaster or CineScene file.

    Names may be Wan's original ones or diffusers'. Values may be bf16, fp16, fp32 or scaled fp8. All
    checks happen on the header; only then are values read. Layers that a base file lacks get
    their initial values, and a `CineSceneWarning` says what the model will not do.

    Args:
        path: the file.
        prefix: the part of a bundle to read ("transformer.").
        operations: namespace the layers are made from.
        dtype: type of every parameter; None is the one most of the file has, bfloat16 for fp8.
        device: where the parameters go.

    Returns:
        The network in evaluation mode, and what it was trained with; `scene_trained` is False
        for base files.

    Raises:
        CheckpointError: another kind of file, a damaged one, missing, unknown or misshapen
            tensors, or metadata that is absent, unknown or contradictory.
    """
    file = read_transformer(path, prefix, dtype)
    model = _empty_model(file.header, operations)
    model.load_state_dict(file.fresh, assign=True, strict=False)
    model.load_state_dict(dequantise(file.tensors, file.dtype), assign=True, strict=not file.fresh)
    return model.to(device).eval(), file.config


class TransformerFile(NamedTuple):
    """A transformer's file, checked and read, in Wan's original names."""

    header: Header
    """Without the scales of quantised weights."""
    tensors: dict[str, Tensor]
    """As stored, scales included."""
    fresh: dict[str, Tensor]
    """Initial values of the layers that a base file lacks; empty for a CineScene checkpoint."""
    dtype: torch.dtype
    """Precision of the model."""
    config: CineSceneConfig
    """What it was trained with."""


def read_transformer(
    path: str | os.PathLike[str], prefix: str = "", dtype: torch.dtype | None = None
) -> TransformerFile:
    """Check and read a transformer's file without making the network; see `load_transformer`.

    Raises:
        CheckpointError: as `load_transformer`.

    Warns:
        CineSceneWarning: what a base file will not do.
    """
    header = read_header(path).part(prefix) if prefix else read_header(path)
    kind = require(header, TRANSFORMER_KINDS, "CineScene's transformer")
    header = without_scales(original_names(header))
    config = scene_config_from(header, kind)
    dtype = main_dtype(header) if dtype is None else dtype
    fresh = _fresh_layers(header, kind, dtype)
    tensors = load_tensors(path, prefix=prefix)
    if has_diffusers_names(tensors):
        tensors = {to_original(name): tensors.pop(name) for name in list(tensors)}
    if kind in _UNTRAINED:
        warnings.warn(f"{header.path.name} is {_UNTRAINED[kind]}.", CineSceneWarning, stacklevel=3)
    return TransformerFile(header, tensors, fresh, dtype, config)


def _fresh_layers(header: Header, kind: FileKind, dtype: torch.dtype) -> dict[str, Tensor]:
    """Compare a file with the transformer; give the layers that a base file lacks their initial values.

    Args:
        header: of a file in `TRANSFORMER_KINDS`, with `original_names` and without scales.
        kind: what it is.
        dtype: type of the new values.

    Returns:
        The new layers by name; empty for a CineScene checkpoint.

    Raises:
        CheckpointError: names or shapes differ otherwise.
    """
    model = _empty_model(header)
    missing = _check_tensors(header, model, kind)
    empty = {name: torch.empty(shape, dtype=parameter_dtype(name, dtype)) for name, shape in missing.items()}
    model.load_state_dict(empty, assign=True, strict=False)
    start_conditioning(model)
    return {name: model.get_parameter(name).detach() for name in missing}


def wan_config_from(header: Header) -> WanConfig:
    """Read the transformer's sizes from the shapes in a header (Wan's original names).

    The number of heads is not visible in any shape: it comes from CineScene's metadata, else it
    follows from Wan's head width of 128.

    Raises:
        CheckpointError: a tensor that shows a size is missing, or the number of heads does not fit.
    """
    width = _side(header, "patch_embedding.weight", 0)
    if TRANSFORMER_KEY in header.metadata:
        heads = CineSceneConfig.from_json(header.metadata[TRANSFORMER_KEY]).num_heads
        problem = f"metadata field 'num_heads' is {heads}, which does not fit its width of {width}"
    else:
        heads = max(width // WAN_HEAD_WIDTH, 1)
        problem = f"its width {width} is no multiple of {WAN_HEAD_WIDTH}, so its number of heads is unknown"
        heads = heads if width % WAN_HEAD_WIDTH == 0 else 0
    if heads < 1 or width % heads or width // heads % 2:
        raise CheckpointError(f"{header.path.name}: {problem}. Export the checkpoint again.")
    blocks = [int(found[1]) for name in header.tensors if (found := re.match(r"blocks\.(\d+)\.", name))]
    scene_embed = header.tensors.get("scene_embed.conv.weight")
    return WanConfig(
        width=width,
        num_layers=max(blocks, default=0) + 1,
        num_heads=heads,
        ffn_width=_side(header, "blocks.0.ffn.0.weight", 0),
        text_width=_side(header, "text_embedding.0.weight", 1),
        frequency_width=_side(header, "time_embedding.0.weight", 1),
        feature_width=_side(header, "scene_embed.conv.weight", 1) if scene_embed else WanConfig.feature_width,
    )


def scene_config_from(header: Header, kind: FileKind) -> CineSceneConfig:
    """What a checkpoint was trained with: its metadata, or for base files the defaults that fit its sizes.

    Raises:
        CheckpointError: a CineScene file whose metadata is absent, unknown or contradictory.
    """
    if kind is FileKind.CINESCENE:
        if TRANSFORMER_KEY not in header.metadata:
            raise CheckpointError(
                f"{header.path.name} has CineScene's layers but no metadata key '{TRANSFORMER_KEY}'; "
                "some tool dropped it on saving. Use the original file."
            )
        return CineSceneConfig.from_json(header.metadata[TRANSFORMER_KEY])
    sizes = wan_config_from(header)
    base = _BASE_MODELS.get((sizes.width, sizes.num_layers), f"Wan2.1-T2V, {sizes.width} wide")
    name = f"ReCamMaster on {base}" if kind is FileKind.RECAMMASTER else base
    return CineSceneConfig(num_heads=sizes.num_heads, base_model=name, scene_trained=False)


def save_transformer(
    path: str | os.PathLike[str],
    state_dict: Mapping[str, Tensor],
    config: CineSceneConfig,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a CineScene checkpoint: one safetensors file in Wan's original names.

    Args:
        path: the file to write.
        state_dict: of a `CineSceneTransformer`; `fold_projector` it first for export.
        config: what it was trained with; stored under `TRANSFORMER_KEY`, and under `HOST_KEY`
            as ComfyUI's own loader passes it on.
        dtype: type of the stored values; None keeps each as it is.

    Raises:
        CheckpointError: `load_transformer` would refuse the result.
        OSError: the file cannot be written; no half-made file is left.
    """
    tensors = {
        name: value.detach().to("cpu", parameter_dtype(name, dtype) if dtype else None).contiguous()
        for name, value in state_dict.items()
    }
    infos = {name: TensorInfo("F32", tuple(value.shape)) for name, value in tensors.items()}
    header = Header(Path(path), {TRANSFORMER_KEY: config.to_json(), HOST_KEY: comfyui_metadata(config)}, infos)
    _check_tensors(header, _empty_model(header), FileKind.CINESCENE)
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata=dict(header.metadata))


def comfyui_metadata(config: CineSceneConfig) -> str:
    """What stands under `HOST_KEY`: ComfyUI hands each entry of "transformer" to the model it makes."""
    return json.dumps({"transformer": {TRANSFORMER_KEY: dataclasses.asdict(config)}}, sort_keys=True)


def fold_projector(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fold ReCamMaster's `projector` into `self_attn.o`, exactly: two linear layers in a row are one.

    W = Wp Wo and b = Wp bo + bp, multiplied in float64 and stored as `o` was.

    Args:
        state_dict: of a `CineSceneTransformer` with or without projectors.

    Returns:
        The state dict without `blocks.N.projector.*`.
    """
    folded = {name: value for name, value in state_dict.items() if ".projector." not in name}
    for name, weight in state_dict.items():
        if not name.endswith(".projector.weight"):
            continue
        block = name.removesuffix("projector.weight")
        bias = state_dict[f"{block}projector.bias"].double()
        output, shift = (state_dict[f"{block}self_attn.o.{part}"] for part in ("weight", "bias"))
        folded[f"{block}self_attn.o.weight"] = (weight.double() @ output.double()).to(output.dtype)
        folded[f"{block}self_attn.o.bias"] = (weight.double() @ shift.double() + bias).to(shift.dtype)
    return folded


def _empty_model(header: Header, operations: ModuleType | Any = nn) -> CineSceneTransformer:
    """The network a header describes, without storage."""
    projector = any(".projector." in name for name in header.tensors)
    return CineSceneTransformer(wan_config_from(header), projector=projector, operations=operations, device="meta")


def _check_tensors(header: Header, model: nn.Module, kind: FileKind) -> dict[str, tuple[int, ...]]:
    """Compare a header with the model; return the new layers that a base file lacks.

    Raises:
        CheckpointError: names or shapes differ otherwise.
    """
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: info.shape for name, info in header.tensors.items()}
    startable = _STARTABLE.get(kind, ())
    missing = {
        name: shape
        for name, shape in expected.items()
        if name not in found and any(layer in name.split(".") for layer in startable)
    }
    problem = difference({name: shape for name, shape in expected.items() if name not in missing}, found)
    if problem:
        raise CheckpointError(
            f"{header.path.name} is {kind.value}, but its tensors do not fit the transformer: {problem}. "
            "Download or export the file again."
        )
    return missing


def _side(header: Header, name: str, axis: int) -> int:
    """One side of a tensor's shape."""
    shape = header.tensors[name].shape if name in header.tensors else ()
    if len(shape) <= axis or not shape[axis]:
        raise CheckpointError(
            f"{header.path.name} lacks a usable tensor '{name}' (shape {list(shape)}), which shows the model's size. "
            "Download or export the file again."
        )
    return shape[axis]
