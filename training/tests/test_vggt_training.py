"""Training of the scene encoder: exact views, and runs that learn, resume and export."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from cinescene_core.cameras import inverse_pose
from cinescene_core.checks import CheckpointError
from cinescene_core.models.vggt import VGGTConfig
from cinescene_core.weights import load_tensors
from cinescene_core.weights.vggt import METADATA_KEY, load_vggt
from cinescene_training.config import OptimiserConfig, RunConfig
from cinescene_training.encoders.batches import ViewsConfig, baseline_poses, drawn_count, ring_poses, view_batch
from cinescene_training.encoders.fitting import RECORD_KEY, write_network
from cinescene_training.encoders.vggt_loss import (
    CAMERA_WEIGHT,
    camera_loss,
    depth_loss,
)
from cinescene_training.encoders.vggt_module import UNUSED, VGGTModule, VGGTTrainingConfig, fit_vggt, vggt_tensors
from cinescene_training.render.places import sample_places
from cinescene_training.settings import SettingsError, build, read_settings

CONFIGS = Path(__file__).parents[1] / "configs"
CPU = torch.device("cpu")
VIEWS = ViewsConfig(
    width=64, height=32, vggt_width=56, vggt_height=28, view_counts=(2, 3), fov_degrees=(80.0, 100.0), supersampling=1
)
SIZES = VGGTConfig(
    embed_dim=32, num_heads=2, position_grid=4, backbone_depth=1, depth=2, camera_depth=1,
    depth_features=8, depth_channels=(4, 4, 8, 8),
)  # fmt: skip


def config_for(folder, **changes):
    run = RunConfig(
        folder=folder, steps=4, batch_size=2, micro_batch=2, seed=3, accelerator="cpu", precision="32-true", workers=0,
        checkpoint_every=2, log_every=1,
    )  # fmt: skip
    optimiser = OptimiserConfig(learning_rate=2e-3, warmup_steps=2, schedule="cosine", ema_decay=0.9)
    settings = {
        "name": "test", "run": run, "optimiser": optimiser, "sizes": SIZES, "views": VIEWS, "layer_scale": 0.3,
        "validation_every": 4, "validation_samples": 2, "dtype": "float32", "exported_heads": ("camera", "depth"),
    }  # fmt: skip
    return VGGTTrainingConfig(**(settings | changes))


# The views


def test_a_ring_is_an_even_turn_about_one_point_in_random_order():
    poses = ring_poses(6, torch.Generator().manual_seed(4))
    relative = inverse_pose(poses[:1]) @ poses
    assert float(poses[:, :3, 3].abs().max()) == 0
    yaw = torch.rad2deg(torch.atan2(relative[:, 0, 2], relative[:, 2, 2])) % 360
    turns = [round(float(angle)) % 360 for angle in yaw]
    assert turns[0] == 0
    assert sorted(turns) == [0, 60, 120, 180, 240, 300]
    assert turns != sorted(turns)


def test_baseline_views_stand_apart_inside_the_room_and_clear_of_its_walls():
    place = sample_places([12], "room")
    poses = baseline_poses(12, "room", 40, torch.Generator().manual_seed(0))
    inside = (place.room_from_world[0] @ poses)[:, :3, 3]
    width, height, depth = place.size[0].double()
    assert (inside[:, 0].abs() < width).all()
    assert (inside[:, 2].abs() < depth).all()
    assert ((inside[:, 1] < 0) & (inside[:, 1] > -height)).all()
    assert float(torch.pdist(inside).max()) > 1.0


def test_a_sample_follows_from_its_number_whatever_company_it_has():
    together = view_batch(VIEWS, "train", 3, [7, 8], 3, CPU)
    alone = view_batch(VIEWS, "train", 3, [8], 3, CPU)
    torch.testing.assert_close(alone.images[0], together.images[1], atol=0, rtol=0)
    torch.testing.assert_close(alone.truth.encoding[0], together.truth.encoding[1], atol=0, rtol=0)
    assert (together.images[0] - together.images[1]).abs().mean() > 0.02
    other_run = view_batch(VIEWS, "train", 4, [8], 3, CPU)
    assert (other_run.images[0] - alone.images[0]).abs().mean() > 0.02


def test_squeezed_pictures_keep_their_true_lens():
    # 64 x 32 at 90 degrees is 53.13 degrees high; the encoder's 56 x 42 shows the same, squeezed.
    views = dataclasses.replace(VIEWS, vggt_height=42, fov_degrees=(90.0, 90.0))
    truth = view_batch(views, "validation", 0, [0], 2, CPU).truth
    assert truth.depth.shape == (1, 2, 42, 56)
    assert torch.rad2deg(truth.encoding[0, 0, 7:]).tolist() == pytest.approx([53.1301, 90.0], abs=1e-3)


def test_one_count_of_views_is_drawn_per_step_and_every_count_comes():
    counts = [drawn_count((2, 4, 8), 0, step) for step in range(60)]
    assert set(counts) == {2, 4, 8}
    assert counts == [drawn_count((2, 4, 8), 0, step) for step in range(60)]


# Training


def test_echoes_show_the_same_geometry_in_other_colours(tmp_path):
    module = VGGTModule(config_for(tmp_path, views=dataclasses.replace(VIEWS, echoes=2)))
    first, second = module.training_scenes([0, 1]), module.training_scenes([2, 3])
    assert second.truth is first.truth
    torch.testing.assert_close(first.images.sort(dim=2).values, second.images.sort(dim=2).values, atol=0, rtol=0)
    assert not torch.equal(first.images, second.images)
    assert module.training_scenes([4, 5]).truth is not first.truth


def test_gradients_reach_every_trained_parameter(tmp_path):
    module = VGGTModule(config_for(tmp_path))
    module.log = lambda *args, **kwargs: None
    module.training_step([0, 1], 0).backward()
    untouched = [
        name
        for name, parameter in module.network.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().any()
    ]
    assert untouched == [UNUSED]
    assert not dict(module.network.named_parameters())[UNUSED].requires_grad


def test_the_loss_falls_on_scenes_it_sees_again_and_again(tmp_path):
    module = VGGTModule(config_for(tmp_path))
    batch = module.scenes([0, 1], "train", 3)
    optimiser = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=3e-3)
    camera, depth = [], []
    for _ in range(40):
        cameras, distance, confidence = module(batch.images)
        losses = (camera_loss(cameras, batch.truth.encoding), depth_loss(distance, confidence, batch.truth))
        optimiser.zero_grad()
        (CAMERA_WEIGHT * losses[0] + losses[1]).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        camera.append(losses[0].item())
        depth.append(losses[1].item())
    assert camera[-1] < 0.15 * camera[0]
    assert depth[-1] < 0.3 * depth[0]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """The file of a run of four steps, and the module it was written from."""
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VGGTModule, "on_fit_end", lambda self: made.append(self))
        path = fit_vggt(config_for(tmp_path_factory.mktemp("whole")))
    return path, made[0]


def test_a_run_stopped_and_resumed_writes_the_same_file_to_the_last_bit(tmp_path, whole_run):
    whole, stopped = load_tensors(whole_run[0]), config_for(tmp_path)
    halfway = load_tensors(fit_vggt(stopped, stop_at=2))
    assert not torch.equal(halfway["camera_head.embed_pose.weight"], whole["camera_head.embed_pose.weight"])
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    resumed = load_tensors(fit_vggt(stopped, resume=checkpoint))
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    with pytest.raises(CheckpointError, match=r"was trained with layer_scale = 0\.3, but this run says 0\.5"):
        fit_vggt(dataclasses.replace(stopped, layer_scale=0.5), resume=checkpoint)
    other = dataclasses.replace(stopped, views=dataclasses.replace(stopped.views, ring_share=0.125))
    with pytest.raises(CheckpointError, match=r"was trained with views\.ring_share = .*, but this run says 0\.125"):
        fit_vggt(other, resume=checkpoint)
    (tmp_path / "half.ckpt").write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"half\.ckpt cannot be read as a checkpoint"):
        fit_vggt(stopped, resume=tmp_path / "half.ckpt")


def test_a_gradient_that_is_not_finite_ends_the_run_before_a_file_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("cinescene_training.encoders.vggt_module.camera_loss", lambda *_: torch.tensor(math.nan))
    monkeypatch.setattr("cinescene_training.encoders.vggt_module.depth_loss", lambda depth, *_: depth.mean() * math.nan)
    with pytest.raises(FloatingPointError, match=r"The gradient of step 1 is not finite"):
        fit_vggt(config_for(tmp_path))
    assert not list(tmp_path.glob("*.safetensors"))


def test_what_is_written_loads_and_answers_as_what_was_trained(whole_run):
    path, module = whole_run
    model, network = load_vggt(path, heads=("camera", "depth")), module.network
    images = torch.rand(1, 2, 3, 28, 56, generator=torch.Generator().manual_seed(0))
    tokens = model.encode(images)
    torch.testing.assert_close(tokens.patch, network.encode(images).patch, atol=0, rtol=0)
    torch.testing.assert_close(model.cameras(tokens), network.cameras(tokens), atol=0, rtol=0)
    cameras, depth, _ = module(images)
    torch.testing.assert_close(cameras, model.cameras(tokens), atol=1e-6, rtol=1e-5)
    layers = model.aggregate(images, model.config.depth_layers)
    torch.testing.assert_close(depth, model.depth(layers, (2, 4))[0], atol=1e-6, rtol=1e-5)
    with safe_open(path, "pt") as file:
        record = json.loads(file.metadata()[RECORD_KEY])
        assert json.loads(file.metadata()[METADATA_KEY])["fingerprint"] == model.fingerprint
    assert record["seed"] == 3
    assert record["config"]["views"]["view_counts"] == [2, 3]
    assert set(record) == {"name", "config", "identity", "seed", "commit", "machine", "torch", "measured"}
    assert 0 < record["measured"]["validation/rotation_degrees"] <= 180


def test_training_goes_on_from_a_file(tmp_path, whole_run):
    path, trained = whole_run
    module = VGGTModule(config_for(tmp_path, sizes=None, start_from=path))
    assert module.network.fingerprint == trained.network.fingerprint
    assert all(parameter.requires_grad for name, parameter in module.network.named_parameters() if name != UNUSED)


def test_heads_are_left_out_and_matrices_rounded_when_the_run_says_so(whole_run):
    tensors = vggt_tensors(whole_run[1].network, (), torch.bfloat16)
    assert all(name.startswith("aggregator.") for name in tensors)
    assert tensors["aggregator.frame_blocks.0.attn.qkv.weight"].dtype == torch.bfloat16
    assert tensors["aggregator.frame_blocks.0.norm1.weight"].dtype == torch.float32
    assert tensors["aggregator.patch_embed.pos_embed"].dtype == torch.float32


def test_a_file_without_heads_cannot_be_trained_on(tmp_path, whole_run):
    path = write_network(tmp_path / "small.safetensors", vggt_tensors(whole_run[1].network, (), torch.float32), {})
    with pytest.raises(CheckpointError, match=r"small.safetensors holds no camera head"):
        VGGTModule(config_for(tmp_path, sizes=None, start_from=path))


# Configurations


@pytest.mark.parametrize("name", ["vggt_rooms.yaml", "vggt_debug.yaml"])
def test_the_shipped_configurations_can_be_built(name):
    config = build(VGGTTrainingConfig, read_settings(CONFIGS / name))
    assert config.task == "vggt"
    assert config.views.vggt_width % config.sizes.patch_size == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start_from": Path("vggt.pt")}, "give either 'start_from' or 'sizes'"),
        ({"sizes": dataclasses.replace(SIZES, depth_head=False)}, "must have camera_head and depth_head"),
        ({"layer_scale": 0.0}, "layer_scale must be a positive number"),
    ],
)
def test_runs_that_cannot_be_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        config_for(tmp_path, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"view_counts": ()}, "view_counts must name one count of views or more"),
        ({"fov_degrees": (90.0, 60.0)}, "fov_degrees must be the least and the largest"),
        ({"ring_share": 1.5}, "ring_share must be 0 to 1; got 1.5"),
    ],
)
def test_views_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(VIEWS, **change)


def test_an_unknown_field_is_named():
    with pytest.raises(SettingsError, match=r"There is no field 'views\.views'"):
        build(VGGTTrainingConfig, {"name": "x", "run": {"folder": "x"}, "views": {"views": 3}})
