"""How the network is shown the scene."""

import dataclasses

import pytest
import torch
from fake_clips import FRAMES, fake_batch, filled, model_config, predict

from cinescene_core.context import temporal_positions
from cinescene_training.building import build_network

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


def test_without_a_scene_the_place_is_not_read():
    network, batch = network_of(join="none"), fake_batch(views=4)
    with torch.no_grad():
        plain = network.transformer(batch.noisy(), batch.sigma * 1000, batch.text, camera=batch.poses)
    assert torch.equal(predict(network, batch), plain)
