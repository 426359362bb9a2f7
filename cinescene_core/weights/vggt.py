"""The scene encoder's files: official ones in, a smaller one out.

The official file keeps 5 GB of float32 for five parts of which CineScene needs one; a converted
file keeps that part, its matrices in bf16, in 1.8 GB.
"""

import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..checks import CheckpointError
from ..files import atomic_write
from ..models.vggt import VGGT, Attention, VGGTConfig, vggt_fingerprint
from .files import Header, difference, load_tensors, read_header
from .recognise import FileKind, require

__all__ = ["METADATA_KEY", "convert_vggt", "load_vggt", "vggt_fingerprint"]

METADATA_KEY = "cinescene_vggt"
"""Where a converted file keeps its JSON record: format, licence, source, fingerprint."""
FILE_FORMAT = 1
HEADS = ("camera", "depth")
NEEDED = (
    "Use model.safetensors or model.pt of facebook/VGGT-1B (or VGGT-1B-Commercial), "
    "or a file written by 'cinescene convert-vggt'."
)

OnTensor = Callable[[int, int], None]
"""Told (done, total) after each tensor; whatever it raises ends the work."""


def load_vggt(
    path: str | os.PathLike[str],
    *,
    heads: Collection[str] = (),
    prefix: str = "",
    dtype: torch.dtype | None = None,
    compute_dtype: torch.dtype | None = None,
    operations: Any = torch.nn,
    attention: Attention = scaled_dot_product_attention,
    device: torch.device | str = "cpu",
    on_tensor: OnTensor | None = None,
) -> VGGT:
    """Load the scene encoder; sizes come from the file.

    The file's names and shapes are compared with the network before any value is read. Parts
    that were not asked for (point and track heads, among others) are not read at all.

    Args:
        path: official or converted file, .safetensors or .pt.
        heads: which of "camera" and "depth" to load as well.
        prefix: read only names that start with this, and drop it ("vggt." of a bundle).
        dtype: how matrices are stored; as in the file without it. The rest is float32.
        compute_dtype: see `VGGT`.
        operations: namespace of layer classes.
        attention: see `VGGT`.
        device: where the weights go.
        on_tensor: progress.

    Raises:
        CheckpointError: not such a file; the sentence says what is missing, and what is needed.
        ValueError: an unknown head.
    """
    config, tensors = _read(Path(path), heads, prefix)
    dtype = dtype or tensors["aggregator.frame_blocks.0.attn.qkv.weight"].dtype
    if not dtype.is_floating_point or dtype.itemsize < 2:
        raise CheckpointError(
            f"{Path(path).name} is stored as {dtype}, in which the scene encoder cannot compute. {NEEDED}"
        )
    # Made without memory, then given the file's tensors one by one: nothing is held twice.
    model = VGGT(
        config, operations=operations, device="meta", dtype=dtype, compute_dtype=compute_dtype, attention=attention
    )
    stored = _stored_dtypes(config, dtype)
    model.load_state_dict(_cast(tensors, stored, device, on_tensor), strict=True, assign=True)
    return model.requires_grad_(False)


def convert_vggt(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    heads: Collection[str] = (),
    licence: str = "unknown",
    on_tensor: OnTensor | None = None,
) -> str:
    """Write the aggregator alone, its matrices in bf16, as safetensors.

    Norms, tokens, positions, scales and heads stay in float32, as `load_vggt` keeps them: the
    converted file loads to exactly what the source loads to in bf16.

    Args:
        source: a file `load_vggt` reads.
        target: the .safetensors file to write.
        heads: which of "camera" and "depth" to keep.
        licence: under which the source was received; kept in the file's metadata.
        on_tensor: progress.

    Returns:
        The fingerprint, the same for source and target.

    Raises:
        CheckpointError: the source is not such a file.
        ValueError: the target is the source, or is not named .safetensors.
        OSError: the target cannot be written; no half-made file is left.
    """
    source, target = Path(source), Path(target)
    if target.suffix != ".safetensors":
        raise ValueError(f"A converted VGGT file is written as safetensors; got {target.name}. Name it .safetensors.")
    if target.exists() and source.exists() and target.samefile(source):
        raise ValueError(f"{target} is the source itself. Choose another name for the converted file.")
    config, tensors = _read(source, heads, "")
    with atomic_write(target) as temporary:
        converted = _cast(tensors, _stored_dtypes(config, torch.bfloat16), "cpu", on_tensor)
        fingerprint = vggt_fingerprint(converted)
        record = {"format": FILE_FORMAT, "licence": licence, "source": source.name, "fingerprint": fingerprint}
        save_file(converted, temporary, metadata={METADATA_KEY: json.dumps(record, sort_keys=True)})
    return fingerprint


def _read(path: Path, heads: Collection[str], prefix: str) -> tuple[VGGTConfig, dict[str, Tensor]]:
    """The sizes of a file's network, and the tensors of its wanted parts, mapped to the file."""
    unknown = sorted(set(heads) - set(HEADS))
    if unknown:
        raise ValueError(f"heads may name 'camera' and 'depth'; got {unknown}.")
    header = read_header(path)
    header = header.part(prefix) if prefix else header
    if not any(name.startswith("aggregator.") for name in header.tensors):
        require(header, {FileKind.VGGT}, "the scene encoder")
    if METADATA_KEY in header.metadata:
        _check_record(header)
    for head in heads:
        if not any(name.startswith(f"{head}_head.") for name in header.tensors):
            raise CheckpointError(
                f"{path.name} holds no {head} head; load it without one, or take another file. {NEEDED}"
            )
    parts = ("aggregator.", *(f"{head}_head." for head in heads))
    shapes = {name: info.shape for name, info in header.tensors.items() if name.startswith(parts)}
    try:
        config = VGGTConfig.from_state_dict(shapes)
        fault = ""
    except CheckpointError as error:
        config = VGGTConfig(camera_head="camera" in heads, depth_head="depth" in heads)
        fault = f"{error} "
    expected = {name: tuple(value.shape) for name, value in VGGT(config, device="meta").state_dict().items()}
    if fault or shapes != expected:
        raise CheckpointError(
            f"{path.name} is no VGGT that can be loaded: {fault}{difference(expected, shapes)}. {NEEDED}"
        )
    tensors = load_tensors(path, prefix=prefix)
    return config, {name: tensors[name] for name in expected}


def _check_record(header: Header) -> None:
    """Refuse a converted file of a later format."""
    try:
        version = json.loads(header.metadata[METADATA_KEY])["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{header.path.name}: the metadata key '{METADATA_KEY}' has no readable 'format'. Convert the file again."
        ) from error
    if version != FILE_FORMAT:
        raise CheckpointError(
            f"{header.path.name}: metadata field 'format' is {version!r}; this version knows {FILE_FORMAT}. "
            "Update CineScene, or convert the file again."
        )


def _stored_dtypes(config: VGGTConfig, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """How a network whose matrices have `dtype` keeps each tensor."""
    model = VGGT(config, device="meta", dtype=dtype)
    return {name: value.dtype for name, value in model.state_dict().items()}


def _cast(
    tensors: Mapping[str, Tensor],
    dtypes: Mapping[str, torch.dtype],
    device: torch.device | str,
    on_tensor: OnTensor | None,
) -> dict[str, Tensor]:
    """Copies of the tensors, no longer mapped to their file."""
    copies = {}
    for done, (name, tensor) in enumerate(tensors.items(), start=1):
        copies[name] = tensor.to(device=device, dtype=dtypes[name], copy=True).contiguous()
        if on_tensor is not None:
            on_tensor(done, len(tensors))
    return copies
