import dataclasses
import json
import types

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from torch import nn
from weight_files import (
    ONE_HEAD,
    TWO_HEADS,
    TWO_HEADS_RECORD,
    assert_holds,
    assert_types,
    empties,
    filled_model,
    load_base,
    state,
    write,
)

from cinescene_core.checks import CheckpointError, CineSceneWarning
from cinescene_core.config import CineSceneConfig
from cinescene_core.weights import (
    fold_projector,
    load_transformer,
    read_header,
    save_transformer,
    wan_config_from,
)
from cinescene_core.weights import transformer as transformer_file
from cinescene_core.weights.wan_keys import to_diffusers, to_original

UNTRAINED = "is a base Wan model without CineScene training: it will not see the scene or follow the camera"


def shot(config, dtype=torch.float32):
    """Inputs of one step: 2 latent frames of 4 x 4, 2 views."""
    generator = torch.Generator().manual_seed(7)

    def draw(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    inputs = {"video": draw(1, 16, 2, 4, 4), "timestep": torch.tensor([700.0]), "text": draw(1, 3, config.text_width)}
    scene = (draw(1, 2, 16, 4, 4), draw(1, 2, config.feature_width, 2, 2), torch.arange(4) + 2)
    return inputs, draw(1, 2, 3, 4), scene


@torch.no_grad()
def run(model, config):
    inputs, camera, scene = shot(config, next(model.parameters()).dtype)
    return model(**inputs, camera=camera, context=model.embed_context(*scene))


# Sizes


def test_sizes_are_read_from_the_shapes(tmp_path):
    base = write(tmp_path / "wan.safetensors", state(kind="wan"))
    assert wan_config_from(read_header(base)) == ONE_HEAD
    save_transformer(tmp_path / "c.safetensors", filled_model(TWO_HEADS).state_dict(), TWO_HEADS_RECORD)
    assert wan_config_from(read_header(tmp_path / "c.safetensors")) == TWO_HEADS


def test_without_metadata_a_width_off_128_is_refused(tmp_path):
    path = write(tmp_path / "wan.safetensors", state(TWO_HEADS, "wan"))
    with pytest.raises(CheckpointError, match="its width 48 is no multiple of 128, so its number of heads is unknown"):
        load_transformer(path)


# Base and ReCamMaster files


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_base_file_keeps_its_values_and_type_and_says_what_it_cannot_do(tmp_path, dtype):
    tensors = {name: value.to(dtype) for name, value in state(kind="wan").items()}
    path = write(tmp_path / "wan.safetensors", tensors)
    with pytest.warns(CineSceneWarning, match=rf"wan.safetensors {UNTRAINED}"):
        model, config = load_transformer(path)
    assert_holds(model, tensors)
    assert_types(model, dtype)
    assert config == CineSceneConfig(num_heads=1, base_model="Wan2.1-T2V, 128 wide", scene_trained=False)
    assert not model.training


def test_the_camera_of_a_fresh_model_changes_nothing_and_the_scene_start_is_repeatable(tmp_path):
    path = write(tmp_path / "wan.safetensors", state(kind="wan"))
    (model, _), (again, _) = load_base(path), load_base(path)
    inputs, camera, _ = shot(ONE_HEAD)
    with torch.no_grad():
        assert torch.equal(model(**inputs, camera=camera), model(**inputs))
    assert torch.equal(model.scene_embed.conv.weight, again.scene_embed.conv.weight)
    # Uniform in +-1/sqrt(fan-in): the standard deviation is bound / sqrt(3); a million draws show it to 0.1 %.
    bound = (2048 * 4) ** -0.5
    assert model.scene_embed.conv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)
    assert model.scene_embed.norm.weight.unique().tolist() == [1.0]


def test_a_recammaster_file_loads_by_name(tmp_path):
    tensors = state(kind="recammaster")
    torch.save(tensors, tmp_path / "step20000.ckpt")
    with pytest.warns(CineSceneWarning, match="a ReCamMaster model without CineScene training.*not see the scene"):
        model, config = load_transformer(tmp_path / "step20000.ckpt")
    assert_holds(model, tensors)
    assert isinstance(model.blocks[0].projector, nn.Linear)
    assert torch.equal(model.blocks[1].cam_encoder.weight, tensors["blocks.1.cam_encoder.weight"])
    assert config.base_model == "ReCamMaster on Wan2.1-T2V, 128 wide"
    assert not config.scene_trained


def test_the_type_and_the_layers_can_be_chosen(tmp_path):
    class CountedLinear(nn.Linear):
        pass

    operations = types.SimpleNamespace(
        Linear=CountedLinear, Conv2d=nn.Conv2d, Conv3d=nn.Conv3d, LayerNorm=nn.LayerNorm, RMSNorm=nn.RMSNorm
    )
    tensors = state(kind="wan")
    path = write(tmp_path / "wan.safetensors", tensors)
    model, _ = load_base(path, dtype=torch.bfloat16, operations=operations)
    assert_holds(model, tensors, torch.bfloat16)
    assert isinstance(model.blocks[0].self_attn.q, CountedLinear)


# diffusers' names


def test_names_agree_with_diffusers_own_converter():
    tensors = state()
    theirs = convert_wan_transformer_to_diffusers(dict(tensors))
    ours = {to_diffusers(name): value for name, value in tensors.items()}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [to_original(to_diffusers(name)) for name in tensors] == list(tensors)


def test_diffusers_own_model_loads(tmp_path):
    theirs = WanTransformer3DModel(
        num_attention_heads=1, attention_head_dim=128, num_layers=2, ffn_dim=32, text_dim=16, freq_dim=16
    )
    path = write(tmp_path / "diffusion_pytorch_model.safetensors", theirs.state_dict())
    with pytest.warns(CineSceneWarning, match=UNTRAINED):
        model, _ = load_transformer(path)
    held = model.state_dict()
    loaded = {name: held[to_original(name)] for name in theirs.state_dict()}
    assert all(torch.equal(loaded[name], value) for name, value in theirs.state_dict().items())
    assert torch.equal(held["blocks.1.norm3.weight"], theirs.blocks[1].norm2.weight)


# CineScene files


@pytest.mark.parametrize("projector", [True, False])
def test_a_cinescene_file_comes_back_as_it_was_saved(tmp_path, projector):
    model = filled_model(TWO_HEADS, projector=projector)
    path = tmp_path / "c.safetensors"
    save_transformer(path, model.state_dict(), TWO_HEADS_RECORD)
    loaded, config = load_transformer(path)
    assert config == TWO_HEADS_RECORD
    assert config.scene_trained
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert_holds(loaded, model.state_dict())


def test_the_record_also_stands_where_comfyui_reads_it(tmp_path):
    save_transformer(tmp_path / "c.safetensors", filled_model(TWO_HEADS).state_dict(), TWO_HEADS_RECORD)
    metadata = read_header(tmp_path / "c.safetensors").metadata
    handed_on = json.loads(metadata["config"])["transformer"]["cinescene"]
    assert CineSceneConfig.from_json(json.dumps(handed_on)) == TWO_HEADS_RECORD


def test_saving_can_change_the_type(tmp_path):
    model = filled_model(TWO_HEADS)
    save_transformer(tmp_path / "c.safetensors", model.state_dict(), TWO_HEADS_RECORD, dtype=torch.bfloat16)
    stored = {name: info.dtype for name, info in read_header(tmp_path / "c.safetensors").tensors.items()}
    assert stored["blocks.0.self_attn.q.weight"] == "BF16"
    assert stored["blocks.0.cam_encoder.weight"] == "F32"
    assert_holds(load_transformer(tmp_path / "c.safetensors")[0], model.state_dict(), torch.bfloat16)


def record(**changes):
    return json.dumps(dataclasses.asdict(TWO_HEADS_RECORD) | changes)


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ({}, "has CineScene's layers but no metadata key 'cinescene'; some tool dropped it"),
        ({"cinescene": "{"}, "key 'cinescene' is not JSON"),
        ({"cinescene": record(colour="blue")}, "unknown field 'colour'"),
        ({"cinescene": record(format=2)}, "field 'format' is 2"),
        ({"cinescene": record(scene_trained="yes")}, "field 'scene_trained' must be bool"),
        (
            {"cinescene": record(context_attention="cached", context_timestep="shared")},
            "'context_attention' and 'context_timestep' contradict each other",
        ),
        ({"cinescene": record(num_heads=5)}, "metadata field 'num_heads' is 5, which does not fit its width of 48"),
        ({"cinescene": record(num_heads=16)}, "metadata field 'num_heads' is 16, which does not fit its width of 48"),
    ],
)
def test_metadata_that_is_absent_unknown_or_contradictory_is_refused(tmp_path, metadata, sentence):
    path = write(tmp_path / "c.safetensors", state(TWO_HEADS), **metadata)
    with pytest.raises(CheckpointError, match=sentence):
        load_transformer(path)


def test_missing_unknown_and_misshapen_tensors_are_reported_exactly(tmp_path):
    tensors = state(TWO_HEADS)
    del tensors["blocks.1.cam_encoder.bias"], tensors["scene_embed.norm.weight"]
    tensors |= empties({"blocks.1.extra.weight": (1,), "blocks.0.ffn.2.bias": (7,)})
    path = write(tmp_path / "c.safetensors", tensors, cinescene=TWO_HEADS_RECORD.to_json())
    with pytest.raises(CheckpointError) as caught:
        load_transformer(path)
    assert str(caught.value) == (
        "c.safetensors is a CineScene checkpoint, but its tensors do not fit the transformer: "
        "2 missing: blocks.1.cam_encoder.bias, scene_embed.norm.weight; 1 not known: blocks.1.extra.weight; "
        "1 of another shape: blocks.0.ffn.2.bias is [7] where [48] is needed. Download or export the file again."
    )


def test_a_base_file_may_lack_only_the_new_layers(tmp_path):
    tensors = state(kind="wan")
    del tensors["blocks.1.norm3.weight"]
    with pytest.raises(CheckpointError, match=r"do not fit the transformer: 1 missing: blocks\.1\.norm3\.weight\."):
        load_transformer(write(tmp_path / "wan.safetensors", tensors))
    tensors = state(kind="recammaster")
    del tensors["blocks.1.cam_encoder.weight"]
    with pytest.raises(CheckpointError, match=r"1 missing: blocks\.1\.cam_encoder\.weight\."):
        load_transformer(write(tmp_path / "recam.safetensors", tensors))


def test_a_tensor_that_shows_a_size_is_named_when_it_is_missing(tmp_path):
    tensors = state(kind="wan")
    del tensors["text_embedding.0.weight"]
    with pytest.raises(CheckpointError, match=r"lacks a usable tensor 'text_embedding.0.weight'"):
        load_transformer(write(tmp_path / "wan.safetensors", tensors))


def test_a_file_that_could_not_be_loaded_is_not_written(tmp_path):
    path = tmp_path / "c.safetensors"
    path.write_text("older")
    with pytest.raises(CheckpointError, match=r"c.safetensors .* 4 missing: scene_embed.conv.weight"):
        save_transformer(path, state(TWO_HEADS, "recammaster") | {}, TWO_HEADS_RECORD)
    assert path.read_text() == "older"


def test_a_full_disk_leaves_nothing_under_the_final_name(tmp_path, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("I/O error: No space left on device (os error 28)")  # safetensors' own words

    monkeypatch.setattr(transformer_file, "save_file", full)
    with pytest.raises(OSError, match=r"Cannot write .*c.safetensors: the disk is full"):
        save_transformer(tmp_path / "c.safetensors", state(TWO_HEADS), TWO_HEADS_RECORD)
    assert list(tmp_path.iterdir()) == []


# Folding


def test_folding_the_projector_changes_nothing_but_the_names(tmp_path):
    model = filled_model(TWO_HEADS)
    folded = fold_projector(model.state_dict())
    assert set(model.state_dict()) - set(folded) == {
        f"blocks.{n}.projector.{part}" for n in range(2) for part in ("weight", "bias")
    }
    save_transformer(tmp_path / "c.safetensors", folded, TWO_HEADS_RECORD)
    loaded, _ = load_transformer(tmp_path / "c.safetensors")
    # One rounding of each folded weight to float32 over two layers of values around 1.
    torch.testing.assert_close(run(loaded, TWO_HEADS), run(model, TWO_HEADS), rtol=0, atol=1e-5)


def test_a_folded_layer_is_the_two_layers_in_a_row():
    block = filled_model(TWO_HEADS).blocks[0].double()
    folded = fold_projector({f"blocks.0.{name}": value for name, value in block.state_dict().items()})
    x = torch.randn(5, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    got = nn.functional.linear(x, folded["blocks.0.self_attn.o.weight"], folded["blocks.0.self_attn.o.bias"])
    torch.testing.assert_close(got, block.projector(block.self_attn.o(x)), rtol=0, atol=1e-12)
    assert fold_projector(folded).keys() == folded.keys()


def test_a_wrong_file_is_refused_by_the_loader(tmp_path):
    path = write(tmp_path / "style.safetensors", empties(["blocks.0.self_attn.q.lora_A.weight"]))
    with pytest.raises(CheckpointError) as caught:
        load_transformer(path)
    assert str(caught.value) == (
        "style.safetensors is a LoRA; CineScene's transformer needs a CineScene checkpoint, a ReCamMaster model or "
        "a Wan2.1 text-to-video model. Load it with a LoRA loader, on top of the model."
    )
