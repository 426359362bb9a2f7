import json

import pytest
import torch
from weight_files import TWO_HEADS, TWO_HEADS_RECORD, assert_holds, assert_types, load_base, state, write

from cinescene_core.checks import CheckpointError
from cinescene_core.weights import load_transformer
from cinescene_core.weights.wan_keys import to_diffusers

FP8 = torch.float8_e4m3fn


def quantised(tensors, scale_name, *, rows=False, dtype=FP8):
    """Scaled fp8 as tools write it: every linear weight of a block, one scale each or one a row."""
    stored, plain = {}, {}
    for name, value in tensors.items():
        if not (name.startswith("blocks.") and name.endswith(".weight") and value.ndim == 2):
            stored[name] = plain[name] = value
            continue
        top = value.abs().amax(dim=1, keepdim=True) if rows else value.abs().max()
        scale = (top / torch.finfo(dtype).max).float()
        stored[name] = (value / scale).to(dtype)
        stored[name.replace(".weight", scale_name)] = scale
        plain[name] = stored[name].float() * scale
    return stored, plain


def comfy_record(tensors):
    """A quantisation record per layer, as ComfyUI stores it: JSON in a uint8 tensor."""
    record = torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)
    layers = [name.removesuffix(".weight_scale") for name in tensors if name.endswith(".weight_scale")]
    return {f"{layer}.comfy_quant": record.clone() for layer in layers}


@pytest.mark.parametrize("style", ["scale_weight", "weight_scale", "per row", "e5m2", "diffusers"])
def test_scaled_fp8_is_the_original_within_its_rounding(tmp_path, style):
    tensors = state(TWO_HEADS)
    dtype = torch.float8_e5m2 if style == "e5m2" else FP8
    stored, plain = quantised(
        tensors,
        ".scale_weight" if style == "scale_weight" else ".weight_scale",
        rows=style == "per row",
        dtype=dtype,
    )
    if style == "scale_weight":
        stored |= {"scaled_fp8": torch.zeros(2, dtype=FP8), "blocks.0.ffn.0.scale_input": torch.tensor(0.5)}
        stored = {f"model.diffusion_model.{name}": value for name, value in stored.items()}
    else:
        stored |= {"blocks.0.ffn.0.input_scale": torch.tensor(0.5), **comfy_record(stored)}
    if style == "diffusers":
        stored = {to_diffusers(name): value for name, value in stored.items()}
    path = write(tmp_path / "fp8.safetensors", stored, cinescene=TWO_HEADS_RECORD.to_json())

    model, _ = load_transformer(path, dtype=torch.float32)
    assert_holds(model, plain)
    held = model.state_dict()
    changed = [name for name in tensors if not torch.equal(held[name], tensors[name])]
    assert len(changed) == 2 * 12  # q, k, v, o twice, ffn twice, cam_encoder and projector in each block
    # Half a unit in the last place: 2**-4 relative with 3 mantissa bits, 2**-3 with 2; below the
    # smallest normal number, half of the smallest one times the scale.
    mantissa_bits, smallest = {FP8: (3, 2**-9), torch.float8_e5m2: (2, 2**-16)}[dtype]
    for name in changed:
        floor = smallest / 2 * tensors[name].abs().max().item() / torch.finfo(dtype).max
        torch.testing.assert_close(held[name], tensors[name], rtol=2 ** -(mantissa_bits + 1), atol=floor)


def test_fp8_files_become_bfloat16_unless_told_otherwise(tmp_path):
    plain_fp8 = {n: v.to(FP8) if v.ndim == 2 else v for n, v in state(kind="wan").items()}  # cast without scales
    model, _ = load_base(write(tmp_path / "wan.safetensors", plain_fp8))
    assert_types(model, torch.bfloat16)
    assert_holds(model, plain_fp8, torch.bfloat16)


@pytest.mark.parametrize("how", ["nvfp4", "int8", "mxfp8"])
def test_other_quantisations_are_refused_from_the_header(tmp_path, how):
    tensors, name = state(TWO_HEADS), "blocks.0.ffn.0.weight"
    record = {"layers": {"blocks.0.ffn.0": {"format": how}}}
    if how == "mxfp8":
        tensors[name] = tensors[name].to(FP8)
        tensors["blocks.0.ffn.0.weight_scale"] = torch.zeros(40, 2, dtype=torch.uint8)
    else:
        tensors[name] = torch.zeros(
            40, 24 if how == "nvfp4" else 48, dtype=torch.uint8 if how == "nvfp4" else torch.int8
        )
    path = write(
        tmp_path / "q.safetensors",
        tensors,
        cinescene=TWO_HEADS_RECORD.to_json(),
        _quantization_metadata=json.dumps(record),
    )
    with pytest.raises(CheckpointError, match=rf"q.safetensors is quantised in a way .* format {how}\). Use the bf16"):
        load_transformer(path)
