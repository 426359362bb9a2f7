"""The scene encoder: parity with the official code, and what must hold whatever the weights."""

import math
import os

import numpy as np
import pytest
import torch
from golden_vggt import RECORD, case_images, error, fill, golden, hash_name, images, parameter, stream

from cinescene_core.checks import CheckpointError, ShapeError
from cinescene_core.models.vggt import VGGT, VGGTConfig
from cinescene_core.types import SceneEncoder, SceneTokens

PARITY = 1e-5  # ten times the float32 noise measured on either implementation; mistakes show at 6e-5 and up
EXACT = 1e-12  # float64 sums in another order


@pytest.fixture(scope="module")
def model():
    return fill(VGGT(VGGTConfig.tiny()))


@pytest.fixture(scope="module")
def precise():
    return fill(VGGT(VGGTConfig.tiny(), dtype=torch.float64))


# ---- parity with the official code ---------------------------------------------------------------


def test_the_fill_rule_gives_the_recorded_values():
    checks = RECORD["fill_rule"]["check_values"]
    assert hash_name("a") == 0xAF63DC4C8601EC8C
    projection = parameter("aggregator.patch_embed.patch_embed.proj.weight", (64, 3, 14, 14)).flatten()
    for key, got in (
        ("unit('aggregator.camera_token')[:3]", stream("aggregator.camera_token", 3)),
        ("param('aggregator.patch_embed.patch_embed.proj.weight',[64,3,14,14]).ravel()[:3]", projection[:3]),
        ("image('images/a',[1,3,3,28,56]).ravel()[:3]", case_images("a").flatten()[:3]),
    ):
        np.testing.assert_array_equal(np.float32(got), np.float32(checks[key]))


@pytest.mark.parametrize("case", "abcd")
def test_tokens_and_cameras_equal_the_official_code(model, case):
    pictures = case_images(case)
    tokens = model.encode(pictures)
    final = golden(f"{case}__final")
    assert error(tokens.patch, final[:, :, 5:]) < PARITY
    assert error(tokens.camera, final[:, :, :1]) < PARITY
    assert error(model.cameras(tokens), golden(f"{case}__pose")) < PARITY


@pytest.mark.parametrize("case", "abcd")
def test_the_backbone_equals_the_official_code(model, case):
    seen = []
    with torch.no_grad():
        hook = model.aggregator.patch_embed.register_forward_hook(lambda module, inputs, output: seen.append(output))
        model.encode(case_images(case))
        hook.remove()
    assert error(seen[0], golden(f"{case}__dino")) < PARITY


def test_every_token_of_the_first_and_last_layer_equals_the_official_code(model):
    first, last = model.aggregate(case_images("a"), (0, 4))
    assert error(first, golden("a__layer0")) < PARITY
    assert error(last, golden("a__final")) < PARITY


@pytest.mark.parametrize(("case", "suffix"), [("a", ""), ("c", "_frame0")])
def test_depth_equals_the_official_code(model, case, suffix):
    pictures = case_images(case)
    layers = model.aggregate(pictures, model.config.depth_layers)
    depth, confidence = model.depth(layers, model.grid_of(pictures))
    if suffix:
        depth, confidence = depth[:, 0], confidence[:, 0]
    assert error(depth[..., None], golden(f"{case}__depth{suffix}")) < PARITY
    assert error(confidence, golden(f"{case}__depth_conf{suffix}")) < PARITY


@pytest.mark.slow
@pytest.mark.skipif(
    os.environ.get("CINESCENE_SLOW") != "1", reason="fills 4.7 GB of weights, about a minute; set CINESCENE_SLOW=1"
)
def test_the_full_size_network_equals_the_official_code():
    full = VGGT(VGGTConfig(), device="meta")
    full.load_state_dict({k: parameter(k, tuple(v.shape)) for k, v in full.state_dict().items()}, assign=True)
    pictures = case_images("full")
    layers = full.aggregate(pictures, full.config.depth_layers)
    final, grid = layers[-1], full.grid_of(pictures)
    depth, confidence = full.depth(layers, grid)
    got = {
        "final_camera": final[0, :, 0],
        "final_patch0": final[0, :, 5],
        "layer4_patch_last": layers[0][0, 1, -1],
        "pose": full.cameras(SceneTokens(final[:, :, 5:], final[:, :, :1], grid)),
        "depth_row": depth[0, :, 20],
        "depth_conf_row": confidence[0, :, 20],
    }
    errors = {name: error(value, golden(f"full__{name}")) for name, value in got.items()}
    assert max(errors.values()) < PARITY, errors


# ---- names and sizes -----------------------------------------------------------------------------


def manifest(size):
    """Every key of the official file with its shape, without the point and track heads."""
    return {
        pattern.replace("{i}", str(i)): tuple(shape)
        for pattern, shape, count in RECORD["state_dict"][size]
        for i in range(count)
        if pattern.startswith(("aggregator.", "camera_head.", "depth_head."))
    }


@pytest.mark.parametrize(("size", "config"), [("full", VGGTConfig()), ("tiny", VGGTConfig.tiny())])
def test_parameters_have_the_official_names_and_shapes(size, config):
    state = VGGT(config, device="meta").state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == manifest(size)


@pytest.mark.parametrize("part", ["aggregator", "camera_head", "depth_head"])
def test_the_full_network_has_the_official_number_of_parameters(part):
    state = VGGT(VGGTConfig(), device="meta").state_dict()
    sizes = [value.numel() for name, value in state.items() if name.startswith(f"{part}.")]
    assert len(sizes) == RECORD["state_dict"]["counts"][part]
    assert sum(sizes) == RECORD["state_dict"]["parameters"][part]


@pytest.mark.parametrize("config", [VGGTConfig(), VGGTConfig.tiny(), VGGTConfig(camera_head=False, depth_head=False)])
def test_sizes_are_read_back_from_shapes(config):
    state = VGGT(config, device="meta").state_dict()
    assert VGGTConfig.from_state_dict(state) == config
    assert VGGTConfig.from_state_dict({name: list(value.shape) for name, value in state.items()}) == config


def test_the_depth_head_reads_the_layers_of_the_official_configurations():
    assert VGGTConfig().depth_layers == (4, 11, 17, 23)
    assert VGGTConfig.tiny().depth_layers == tuple(RECORD["tiny_config"]["depth_head"]["intermediate_layer_idx"])


@pytest.mark.parametrize(
    ("name", "shape", "sentence"),
    [
        ("aggregator.patch_embed.pos_embed", None, "lacks aggregator.patch_embed.pos_embed"),
        ("aggregator.patch_embed.pos_embed", (1, 13, 64), "12 positions, which is no square grid"),
        ("aggregator.register_token", (2, 4, 64), "must have 4 dimensions"),
        ("aggregator.frame_blocks.0.attn.q_norm.weight", (0,), "none of them empty"),
        ("aggregator.frame_blocks.0.attn.q_norm.weight", (20,), "must divide into 3 heads"),
        ("aggregator.frame_blocks.0.attn.q_norm.weight", (128,), "must divide into 0 heads"),
    ],
)
def test_shapes_that_fit_no_network_are_refused(name, shape, sentence):
    shapes = manifest("tiny") | {name: shape}
    shapes = {key: value for key, value in shapes.items() if value is not None}
    with pytest.raises(CheckpointError, match=sentence):
        VGGTConfig.from_state_dict(shapes)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="must divide into 5 heads"):
        VGGTConfig(embed_dim=64, num_heads=5)


# ---- properties ----------------------------------------------------------------------------------


def scene(frames, name="property"):
    return images(name, (1, frames, 3, 28, 42)).double()


def test_reordering_the_other_frames_reorders_the_tokens(precise):
    order = [0, 3, 1, 4, 2]
    pictures = scene(5)
    tokens, shuffled = precise.encode(pictures), precise.encode(pictures[:, order])
    assert error(shuffled.patch, tokens.patch[:, order]) < EXACT
    assert error(shuffled.camera, tokens.camera[:, order]) < EXACT


def test_the_first_frame_is_the_reference_of_all_others(precise):
    pictures = scene(3)
    order = [1, 0, 2]
    tokens, other = precise.encode(pictures), precise.encode(pictures[:, order])
    assert error(other.patch[:, 2], tokens.patch[:, 2]) > 1e-3
    assert error(other.patch[:, 0], tokens.patch[:, 1]) > 1e-3


def test_scenes_of_one_batch_do_not_see_each_other(precise):
    both = torch.cat([scene(3, "one"), scene(3, "two")])
    together = precise.encode(both)
    for i in range(2):
        alone = precise.encode(both[i : i + 1])
        assert error(together.patch[i : i + 1], alone.patch) < EXACT
        assert error(together.camera[i : i + 1], alone.camera) < EXACT


def test_one_kept_layer_equals_that_layer_of_all(model):
    pictures = case_images("a")
    every = model.aggregate(pictures, range(5))
    for layer in range(5):
        assert torch.equal(model.aggregate(pictures, (layer,))[0], every[layer])


def test_layers_come_in_the_order_they_were_asked_for(model):
    first, last = model.aggregate(case_images("a"), (0, 3))
    swapped = model.aggregate(case_images("a"), (3, 0))
    assert torch.equal(swapped[0], last)
    assert torch.equal(swapped[1], first)


def test_depth_of_many_frames_equals_each_alone(precise):
    pictures = scene(9)
    grid = precise.grid_of(pictures)
    layers = precise.aggregate(pictures, precise.config.depth_layers)
    depth, confidence = precise.depth(layers, grid)
    for frame in (0, 7, 8):
        alone = precise.depth([layer[:, frame : frame + 1] for layer in layers], grid)
        assert error(depth[:, frame : frame + 1], alone[0]) < EXACT
        assert error(confidence[:, frame : frame + 1], alone[1]) < EXACT


def test_progress_is_told_after_each_pair_and_can_interrupt(model):
    calls = []
    model.encode(case_images("d"), lambda done, total: calls.append((done, total)))
    assert calls == [(i, 5) for i in range(1, 6)]

    def stop(done, total):
        calls.append(done)
        if done == 2:
            raise KeyboardInterrupt

    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        model.encode(case_images("d"), stop)
    assert calls == [1, 2]


def test_no_gradient_is_recorded(model):
    tokens = model.encode(case_images("d").requires_grad_())
    assert not tokens.patch.requires_grad
    assert not any(value.requires_grad for value in model.parameters())


def test_a_given_attention_function_does_all_the_attending():
    shapes = []

    def attention(q, k, v):
        shapes.append(tuple(q.shape))
        return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v

    own = fill(VGGT(VGGTConfig.tiny(), attention=attention))
    assert error(own.encode(case_images("a")).patch, golden("a__final")[:, :, 5:]) < PARITY
    # 2 backbone blocks over 1 + 4 + 8 tokens, then 5 pairs over one frame and over all three.
    assert shapes == [(3, 4, 13, 16)] * 2 + [(3, 4, 13, 16), (1, 4, 39, 16)] * 5


def test_it_is_a_scene_encoder(model):
    encoder: SceneEncoder = model
    assert (encoder.patch_size, encoder.width) == (14, 128)
    tokens = encoder.encode(case_images("c"))
    assert tokens.grid == (5, 3)


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pictures", "kind", "sentence"),
    [
        (torch.zeros(3, 3, 28, 28), ShapeError, r"images must have shape \[b, s, 3, h, w\]; got \[3, 3, 28, 28\]"),
        (torch.zeros(1, 3, 28, 28, 3), ShapeError, r"images must have shape \[b, s, 3, h, w\]"),
        (torch.zeros(1, 0, 3, 28, 28), ShapeError, "at least one frame"),
        (torch.zeros(1, 1, 3, 28, 30), ShapeError, "multiples of 14; got 30 x 28"),
        (torch.zeros(1, 1, 3, 0, 28), ShapeError, "multiples of 14; got 28 x 0"),
        (torch.zeros(1, 1, 3, 28, 28, dtype=torch.uint8), ValueError, "divide by 255"),
        (torch.full((1, 1, 3, 28, 28), 255.0), ValueError, r"must lie in 0\.\.1; got 255 to 255"),
        (torch.full((1, 1, 3, 28, 28), -0.5), ValueError, r"must lie in 0\.\.1"),
        (torch.full((1, 1, 3, 28, 28), math.nan), ValueError, r"must lie in 0\.\.1; got nan"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(model, pictures, kind, sentence):
    with pytest.raises(kind, match=sentence):
        model.encode(pictures)


@pytest.mark.parametrize("layers", [(), (5,), (-1, 2)])
def test_layers_that_do_not_exist_are_refused(model, layers):
    with pytest.raises(ValueError, match="layers must be one or more of 0 to 4"):
        model.aggregate(case_images("d"), layers)


def test_absent_heads_say_how_to_get_them(model):
    bare = VGGT(VGGTConfig(camera_head=False, depth_head=False), device="meta")
    pictures = case_images("d")
    with pytest.raises(ValueError, match=r"no camera head; load it with heads=\('camera',\)"):
        bare.cameras(model.encode(pictures))
    with pytest.raises(ValueError, match=r"no depth head; load it with heads=\('depth',\)"):
        bare.depth(model.aggregate(pictures, model.config.depth_layers), model.grid_of(pictures))


def test_depth_refuses_layers_of_another_grid(model):
    layers = model.aggregate(case_images("a"), model.config.depth_layers)
    with pytest.raises(ShapeError, match=r"layers must have shape \[b, 3, 11, 128\]"):
        model.depth(layers, (2, 3))
