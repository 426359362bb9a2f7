"""How the network is shown the scene, what it starts from, and what of it trains."""

import dataclasses

import pytest
import torch
from fake_clips import FRAMES, ONE_HEAD, SMALL, fake_batch, filled, model_config, predict, write_file
from safetensors.torch import save_file

from cinescene_core.checks import CheckpointError, CineSceneWarning
from cinescene_core.config import CineSceneConfig, WanConfig
from cinescene_core.context import temporal_positions
from cinescene_core.models.wan import CineSceneTransformer
from cinescene_training.config import PAPER_TRAINABLE, ModelConfig
from cinescene_training.network import build_network, build_transformer, mark_trainable

MODES = [("joint", "zero", "sequential"), ("joint", "shared", "paired"), ("cached", "zero", "single")]


def network_of(seed=0, **changes):
    """A small network whose every parameter is random, as a run builds it."""
    return filled(build_network(model_config(**changes), seed)[0])


def of_core(network, batch, features, *, attention="joint", timestep="zero", positions="sequential"):
    """The velocity that core computes for a scene with given fused features [b, v, c, rows, columns]."""
    model, views = network.transformer, batch.scene.latents.shape[1]
    slots = torch.cat(temporal_positions(positions, FRAMES, views))
    level = batch.sigma * 1000
    with torch.no_grad():
        return model(
            batch.noisy(),
            level,
            batch.text,
            camera=batch.poses,
            context=model.embed_context(batch.scene.latents, features, slots),
            context_timestep=level if timestep == "shared" else None,
            context_attention=attention,
        )


@pytest.mark.parametrize(("attention", "timestep", "positions"), MODES)
def test_the_papers_way_is_the_transformer_that_the_pack_runs(attention, timestep, positions):
    network = network_of(context_attention=attention, context_timestep=timestep, positions=positions)
    batch = fake_batch(views=4)
    fused = batch.scene.patch + batch.scene.camera[:, :, :, None, None]
    expected = of_core(network, batch, fused, attention=attention, timestep=timestep, positions=positions)
    assert torch.equal(predict(network, batch), expected)


def test_one_feature_alone_is_shown_as_if_it_were_the_sum():
    batch = fake_batch(views=4)
    image, camera = network_of(features="image"), network_of(features="camera")
    assert torch.equal(predict(image, batch), of_core(image, batch, batch.scene.patch))
    everywhere = batch.scene.camera[:, :, :, None, None].expand(-1, -1, -1, 3, 5)
    assert torch.equal(predict(camera, batch), of_core(camera, batch, everywhere))


def changed(batch, **fields):
    return dataclasses.replace(batch, scene=dataclasses.replace(batch.scene, **fields))


@pytest.mark.parametrize(
    ("features", "blind_to"),
    [("fused", ()), ("image", ("camera",)), ("camera", ("patch",)), ("none", ("patch", "camera")), ("separate", ())],
)
def test_what_an_ablation_hides_changes_nothing_and_what_it_shows_does(features, blind_to):
    network, batch, other = network_of(features=features), fake_batch(views=4), fake_batch(views=4, seed=5)
    velocity = predict(network, batch)
    for name in ("latents", "patch", "camera"):
        same = torch.equal(predict(network, changed(batch, **{name: getattr(other.scene, name)})), velocity)
        assert same == (name in blind_to), name


def test_without_features_the_views_stand_where_they_stood():
    """The transformer of the paper with its image tokens alone, put together by hand."""
    network, batch = network_of(features="none"), fake_batch(views=4)
    context = network.embed_scene(batch.scene, FRAMES)
    pictures = batch.scene.latents.transpose(1, 2)  # [b, 16, v, h, w]: a video of the views
    assert torch.equal(context.tokens, network.transformer.embed_latents(pictures))
    assert context.positions.tolist() == [3, 4, 5, 6]


def test_separate_tokens_stand_behind_each_other_and_have_an_embedding_each():
    network, batch = network_of(features="separate"), fake_batch(views=4)
    context = network.embed_scene(batch.scene, FRAMES)
    images, patches, cameras = context.tokens.chunk(3, dim=1)
    everywhere = batch.scene.camera[:, :, :, None, None].expand(-1, -1, -1, 3, 5)
    assert torch.equal(patches, network.transformer.scene_embed(batch.scene.patch, (4, 6)))
    assert torch.equal(cameras, network.camera_embed(everywhere, (4, 6)))
    assert images.shape == patches.shape
    assert context.positions.tolist() == list(range(3, 15))  # video 0..2, then 4 views three times


def test_the_second_embedding_starts_from_the_seed_and_unlike_the_first():
    weights = [build_network(model_config(features="separate"), seed)[0].camera_embed.conv.weight for seed in (3, 3, 4)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    network = build_network(model_config(features="separate"), 3)[0]
    assert not torch.equal(network.transformer.scene_embed.conv.weight, network.camera_embed.conv.weight)


def test_hidden_images_leave_the_features_where_they_were():
    network, batch = network_of(), fake_batch(views=4)
    whole = network.embed_scene(batch.scene, FRAMES)
    features = network.embed_scene(changed(batch, images_shown=False).scene, FRAMES)
    half = whole.tokens.shape[1] // 2
    assert torch.equal(features.tokens, whole.tokens[:, half:])
    assert torch.equal(features.positions, whole.positions[4:])


def test_without_a_camera_the_path_changes_nothing():
    batch = fake_batch()
    elsewhere = dataclasses.replace(batch, poses=batch.poses + 1)
    blind, seeing = network_of(camera=False), network_of()
    assert torch.equal(predict(blind, batch), predict(blind, elsewhere))
    assert not torch.equal(predict(seeing, batch), predict(seeing, elsewhere))


def built_from(path, **changes):
    return build_transformer(ModelConfig(start_from=path, **changes), 0)


@pytest.mark.parametrize("kind", ["wan", "recammaster"])
def test_a_base_file_keeps_its_weights_and_begins_as_it_is(tmp_path, kind):
    path = tmp_path / "base.safetensors"
    held = write_file(path, kind)
    with pytest.warns(CineSceneWarning, match="without CineScene training"):
        model, record = built_from(path)
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in held.items())
    assert not record.scene_trained
    started = {"wan": ("cam_encoder", "projector"), "recammaster": ()}[kind]
    for name, parameter in model.named_parameters():
        if any(f".{layer}." in name for layer in started):
            identity = torch.eye(128) if name.endswith("projector.weight") else torch.zeros_like(parameter)
            assert torch.equal(parameter, identity), name
    assert all(value.dtype == torch.float32 for value in state.values())


def test_a_folded_checkpoint_goes_on_with_projectors_at_identity(tmp_path):
    path = tmp_path / "trained.safetensors"
    held = write_file(path, "cinescene", CineSceneConfig(num_heads=1))
    folded = {name: value for name, value in held.items() if ".projector." not in name}
    save_file(folded, path, metadata={"cinescene": CineSceneConfig(num_heads=1).to_json()})
    model, record = built_from(path)
    plain = CineSceneTransformer(ONE_HEAD, projector=False)
    plain.load_state_dict(folded)
    video, text = torch.randn(1, 16, 2, 4, 4), torch.randn(1, 3, 16)
    with torch.no_grad():
        ours, theirs = model(video, torch.tensor([700.0]), text), plain(video, torch.tensor([700.0]), text)
    assert record.scene_trained
    assert torch.equal(ours, theirs)  # a multiplication by one and a sum with zeros are exact


@pytest.mark.parametrize(
    ("trained", "wanted"),
    [
        ({}, {"context_attention": "cached"}),
        ({"context_attention": "cached"}, {}),
        ({"context_timestep": "shared"}, {}),
        ({"positions": "paired"}, {}),
    ],
)
def test_a_checkpoint_of_another_mode_is_refused_with_both_modes(tmp_path, trained, wanted):
    path = tmp_path / "trained.safetensors"
    write_file(path, "cinescene", CineSceneConfig(num_heads=1, **trained))
    name = next(iter(trained | wanted))
    standard = {"context_attention": "joint", "context_timestep": "zero", "positions": "sequential"}
    had, run = trained.get(name, standard[name]), wanted.get(name, standard[name])
    sentence = f"was trained with {name} '{had}', but this run wants '{run}'. Set model.{name} to '{had}'"
    with pytest.raises(CheckpointError, match=sentence):
        built_from(path, **wanted)


# Parameters by the arithmetic of the layers, in millions; the paper's list is supplement B's.
ONE_BILLION, FOURTEEN = WanConfig(), WanConfig(width=5120, num_layers=40, num_heads=40, ffn_width=13824)


@pytest.mark.parametrize(("sizes", "trained", "total"), [(ONE_BILLION, 1.19, 1.50), (FOURTEEN, 10.95, 15.38)])
def test_the_papers_list_is_most_of_the_network(sizes, trained, total):
    """1.19 of 1.50 billion, and 10.95 billion: counts of Wan2.1's sizes with CineScene's layers."""
    model = CineSceneTransformer(sizes, device="meta")
    mark_trainable(model, PAPER_TRAINABLE)
    d, f, layers = sizes.width, sizes.ffn_width, sizes.num_layers
    attention, feed_forward = 4 * d * d + 4 * d + 2 * d, 2 * d * f + f + d
    camera, projector, scene = 12 * d + d, d * d + d, 2048 * 4 * d + d + 2 * d
    counted = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert counted == layers * (attention + feed_forward + camera + projector) + scene
    assert counted / 1e9 == pytest.approx(trained, abs=0.005)
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(total, abs=0.005)


def test_exactly_the_papers_layers_train():
    model = CineSceneTransformer(SMALL)
    mark_trainable(model, PAPER_TRAINABLE)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    rest = {name.split(".")[2] if name.startswith("blocks.") else name.split(".")[0] for name in trained}
    assert rest == {"self_attn", "projector", "ffn", "cam_encoder", "scene_embed"}
    frozen = {name.split(".", 2)[-1] for name in set(dict(model.named_parameters())) - trained}
    assert {"modulation", "norm3.weight", "cross_attn.q.weight", "weight"} <= frozen
    mark_trainable(model, ("all",))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_layer_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"model.trainable names 'attn3', but no layer of the network is called so"):
        mark_trainable(CineSceneTransformer(SMALL), ("ffn", "attn3"))


def test_guidance_and_another_join_are_refused_together():
    with pytest.raises(ValueError, match=r"needs model\.join 'frame'; got 'view'"):
        build_network(model_config(join="view", features="none"), 0, guided=True)


def test_without_a_scene_the_place_is_not_read():
    network, batch = network_of(join="none"), fake_batch(views=4)
    with torch.no_grad():
        plain = network.transformer(batch.noisy(), batch.sigma * 1000, batch.text, camera=batch.poses)
    assert torch.equal(predict(network, batch), plain)
