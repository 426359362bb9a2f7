"""fp8 files: weights stored as weight = fp8 value x scale, turned back into ordinary numbers.

Scales are named `<layer>.scale_weight` (with a marker tensor `scaled_fp8`) or `<layer>.weight_scale` (with
`comfy_quant` records or the metadata key `_quantization_metadata`). Scales of inputs only serve
fp8 arithmetic and are ignored. ComfyUI keeps such weights in fp8 itself; this is for everyone else.
"""

import json
from collections.abc import Mapping

import torch
from torch import Tensor

from ..checks import CheckpointError
from ..models.precision import parameter_dtype
from .files import Header

FP8_TYPES = ("F8_E4M3", "F8_E5M2")
FLOAT_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_WEIGHT_SCALES = (".scale_weight", ".weight_scale")
_IGNORED = (".scale_input", ".input_scale", ".comfy_quant")
_MARKER = "scaled_fp8"


def without_scales(header: Header) -> Header:
    """The model's own tensors: the header without scales and quantisation records.

    Raises:
        CheckpointError: the weights are quantised in another way than per-tensor or per-row fp8.
    """
    scales = {name for name in header.tensors if name.endswith(_WEIGHT_SCALES)}
    extras = {name for name in header.tensors if name.endswith(_IGNORED) or name == _MARKER}
    plain = header.without(scales | extras)
    for name, info in plain.tensors.items():
        if info.dtype not in FP8_TYPES and info.dtype not in FLOAT_TYPES:
            _refuse(header, name, info.dtype)
    for name in scales:
        dtype, shape = header.tensors[name]
        weight = plain.tensors.get(_weight_of(name))
        rows = weight.shape[0] if weight and weight.shape else 1
        if weight and (dtype not in FLOAT_TYPES or shape not in ((), (1,), (rows,), (rows, 1))):
            _refuse(header, name, f"{dtype} blocks")
    return plain


def dequantise(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Multiply weights by their scales and give everything its type in a model of precision `dtype`.

    Values are copied, so that nothing depends on the file any more; `tensors` is emptied on the way.
    """
    scales = {_weight_of(name): tensors.pop(name) for name in list(tensors) if name.endswith(_WEIGHT_SCALES)}
    for name in list(tensors):
        if name.endswith(_IGNORED) or name == _MARKER:
            del tensors[name]
    plain = {}
    for name in list(tensors):
        value = tensors.pop(name)
        if name in scales:
            scale = scales[name].float()
            scale = scale.reshape(-1, *(1,) * (value.ndim - 1)) if scale.numel() > 1 else scale.reshape(())
            value = value.float() * scale.to(value.device)
        plain[name] = value.to(parameter_dtype(name, dtype), copy=True)
    return plain


def main_dtype(header: Header) -> torch.dtype:
    """The type most of a file's values have; fp8 counts as bfloat16, which holds every fp8 value exactly."""
    counts: dict[torch.dtype, int] = {}
    for dtype, shape in header.tensors.values():
        plain = torch.bfloat16 if dtype in FP8_TYPES else FLOAT_TYPES[dtype]
        counts[plain] = counts.get(plain, 0) + int(torch.Size(shape).numel())
    return max(counts, key=lambda plain: counts[plain])


def _weight_of(scale: str) -> str:
    return scale.rpartition(".")[0] + ".weight"


def _refuse(header: Header, name: str, stored: str) -> None:
    record = _formats(header.metadata)
    known = f", format {' and '.join(record)}" if record else ""
    raise CheckpointError(
        f"{header.path.name} is quantised in a way only ComfyUI's own loader reads ({name} is {stored}{known}). "
        "Use the bf16, fp16 or fp8 file of the same model."
    )


def _formats(metadata: Mapping[str, str]) -> list[str]:
    try:
        layers = json.loads(metadata.get("_quantization_metadata", "{}")).get("layers", {})
        return sorted({str(layer["format"]) for layer in layers.values()})
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
