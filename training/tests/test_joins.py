"""The joins on channels and on views, against explicit concatenations, masks and the plain video model."""

import dataclasses

import pytest
import torch
from einops import rearrange
from fake_clips import FRAMES, HEIGHT, SMALL, WIDTH, fake_batch, filled, model_config, predict
from torch.nn.functional import conv3d, linear, scaled_dot_product_attention

from cinescene_core.checks import ShapeError
from cinescene_core.models.rotary import Rotary, apply_rotary, rotary_tables
from cinescene_core.models.wan import CineSceneTransformer
from cinescene_training.building import build_network
from cinescene_training.joins import JOINS, Streams

ROWS, COLUMNS = HEIGHT // 2, WIDTH // 2
TOKENS = FRAMES * ROWS * COLUMNS
EXACT = {"rtol": 0, "atol": 1e-11}
"""float64, values of order one: the same sums in another order."""


def begun(join, **changes):
    """A join of a transformer with random weights, as a run begins from a file."""
    transformer = filled(CineSceneTransformer(SMALL))
    return JOINS[join](transformer, model_config(join=join, **changes)), transformer


def learned(join, **changes):
    """A join whose every parameter is random."""
    return filled(build_network(model_config(join=join, **changes), 0)[0])


def doubled(batch):
    """The batch in float64."""
    scene = dataclasses.replace(
        batch.scene, **{name: getattr(batch.scene, name).double() for name in ("latents", "patch", "camera")}
    )
    tensors = {name: getattr(batch, name).double() for name in ("video", "noise", "sigma", "text", "poses")}
    return dataclasses.replace(batch, scene=scene, **tensors)


@pytest.mark.parametrize("join", JOINS)
def test_a_join_begins_as_the_video_model_it_was_made_from(join):
    network, transformer = begun(join)
    batch = doubled(fake_batch())
    with torch.no_grad():
        plain = transformer.double()(batch.noisy(), batch.sigma * 1000, batch.text, camera=batch.poses)
    torch.testing.assert_close(predict(network.double(), batch), plain, **EXACT)


@pytest.mark.parametrize("join", JOINS)
def test_a_join_shares_the_weights_it_was_made_from(join):
    network, transformer = begun(join)
    held = dict(network.transformer.named_parameters())
    for name, parameter in transformer.named_parameters():
        assert held[name].data_ptr() == parameter.data_ptr(), name


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("name", ["latents", "patch", "camera"])
def test_a_join_that_has_learned_sees_every_part_of_the_scene(join, name):
    network, batch = learned(join), fake_batch()
    other = dataclasses.replace(batch, scene=dataclasses.replace(batch.scene, **{name: getattr(batch.scene, name) + 1}))
    assert not torch.allclose(predict(network, batch), predict(network, other), atol=1e-4)


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("views", [2, 4])
def test_another_number_of_views_than_latent_frames_is_refused(join, views):
    sentence = rf"model.join '{join}' lays one view on each latent frame; got {views} views for 3 latent frames. Encode"
    with pytest.raises(ShapeError, match=sentence):
        predict(learned(join), fake_batch(views=views))


# Channels


class OfTokens(CineSceneTransformer):
    """A transformer whose embedded video is given."""

    def embed_latents(self, latents):
        return self.given


def patches(latents):
    """[b, 16, t, h, w] to the vectors of its 1 x 2 x 2 patches: [b, n, 64]."""
    return rearrange(latents, "b c t (r p) (s q) -> b (t r s) (c p q)", p=2, q=2)


def test_channels_are_joined_in_front_of_one_linear_layer():
    """Concatenate the channels of video, view and features of each token, and multiply by one matrix."""
    network, batch = learned("channel").double(), doubled(fake_batch())
    model, scene = network.transformer, batch.scene
    fused = scene.patch + scene.camera[:, :, :, None, None]
    channels = torch.cat(
        [
            patches(batch.noisy()),
            patches(scene.latents.transpose(1, 2)),
            model.scene_embed(fused, (HEIGHT, WIDTH)),
        ],
        dim=-1,
    )
    embeddings = (model.patch_embedding, network.view_embedding, network.feature_embedding)
    matrix = torch.cat([layer.weight.flatten(1) for layer in embeddings], dim=1)
    reference = OfTokens(SMALL).double()
    reference.load_state_dict(model.state_dict())
    reference.given = linear(channels, matrix, sum(layer.bias for layer in embeddings))
    with torch.no_grad():
        expected = reference(batch.noisy(), batch.sigma * 1000, batch.text, camera=batch.poses)
    torch.testing.assert_close(predict(network, batch), expected, **EXACT)


def test_view_latents_widen_the_patch_embedding_to_32_channels():
    """Without features: one patch embedding over the channels of noisy video and view latents."""
    network, batch = learned("channel", features="none").double(), doubled(fake_batch())
    model, scene = network.transformer, batch.scene
    weight = torch.cat([model.patch_embedding.weight, network.view_embedding.weight], dim=1)
    bias = model.patch_embedding.bias + network.view_embedding.bias
    wide = conv3d(torch.cat([batch.noisy(), scene.latents.transpose(1, 2)], dim=1), weight, bias, stride=(1, 2, 2))
    reference = OfTokens(SMALL).double()
    reference.load_state_dict(model.state_dict())
    reference.given = wide.flatten(2).transpose(1, 2)
    with torch.no_grad():
        expected = reference(batch.noisy(), batch.sigma * 1000, batch.text, camera=batch.poses)
    torch.testing.assert_close(predict(network, batch), expected, **EXACT)


@pytest.mark.parametrize("name", ["latents", "patch", "camera"])
def test_a_view_is_added_to_its_own_latent_frame_alone(name):
    network, scene = learned("channel"), fake_batch().scene
    values = getattr(scene, name).clone()
    values[:, 1] += 1
    with torch.no_grad():
        before = network.embed_scene(scene, FRAMES).tokens
        after = network.embed_scene(dataclasses.replace(scene, **{name: values}), FRAMES).tokens
    touched = (after != before).any(dim=-1).unflatten(1, (FRAMES, -1)).any(dim=-1)
    assert touched.tolist() == [[False, True, False]] * 2


# Views


def masked(q, k, v, may):
    return scaled_dot_product_attention(q, k, v, attn_mask=may)


def token_axes(num_streams):
    """Stream and frame of each token of [video | I_t | F_t]."""
    number = torch.arange(num_streams * TOKENS)
    return number // TOKENS, number % TOKENS // (ROWS * COLUMNS)


def streams_of(num_streams):
    rotary = rotary_tables(torch.arange(num_streams), ROWS, COLUMNS, SMALL.head_width, torch.device("cpu"))
    return Streams(num_streams, FRAMES, rotary)


@pytest.mark.parametrize("num_streams", [2, 3])
def test_attention_within_streams_is_a_mask_that_hides_the_others(num_streams):
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, num_streams * TOKENS, 6, generator=generator, dtype=torch.float64)
    stream, _ = token_axes(num_streams)
    expected = masked(q, k, v, stream[:, None] == stream[None])
    torch.testing.assert_close(streams_of(num_streams).within(q, k, v), expected, **EXACT)


def test_the_view_attention_is_a_mask_that_hides_other_frames():
    """Over the whole sequence: same frame only, turned by (stream, row, column)."""
    network = learned("view").double()
    layer, streams = network.transformer.blocks[0].view_attn, streams_of(3)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 3 * TOKENS, SMALL.width, generator=generator, dtype=torch.float64)
    stream, frame = token_axes(3)
    places = [int(s) * ROWS * COLUMNS + i % (ROWS * COLUMNS) for i, s in enumerate(stream)]
    turned = Rotary(streams.rotary.cos[places], streams.rotary.sin[places])

    q, k, v = layer.norm_q(layer.q(tokens)), layer.norm_k(layer.k(tokens)), layer.v(tokens)
    q, k, v = (rearrange(x, "b n (heads c) -> b heads n c", heads=SMALL.num_heads) for x in (q, k, v))
    read = masked(apply_rotary(q, turned), apply_rotary(k, turned), v, frame[:, None] == frame[None])
    expected = layer.o(rearrange(read, "b heads n c -> b n (heads c)"))

    meeting = streams.gather(tokens)
    ours = streams.spread(layer(meeting, meeting, streams, streams.rotary))
    torch.testing.assert_close(ours, expected, **EXACT)


def hidden_after(network, batch):
    """Tokens of the streams behind the last block: [b, m, n, d]."""
    kept = []
    handle = network.transformer.blocks[-1].register_forward_hook(lambda module, inputs, output: kept.append(output))
    predict(network, batch)
    handle.remove()
    return kept[0].unflatten(1, (-1, TOKENS))


def test_before_the_view_attention_learns_the_scene_streams_are_clean_and_have_no_camera():
    """Neither noise, its level nor the path reaches I_t and F_t; the prompt does."""
    network, _ = begun("view")
    batch = fake_batch()
    before = hidden_after(network, batch)
    assert before.shape[1] == 3
    for name in ("noise", "sigma", "poses"):
        other = dataclasses.replace(batch, **{name: getattr(batch, name) * 0.5 + 0.1})
        after = hidden_after(network, other)
        assert torch.equal(after[:, 1:], before[:, 1:]), name
        assert not torch.equal(after[:, 0], before[:, 0]), name
    read = hidden_after(network, dataclasses.replace(batch, text=batch.text + 1))
    assert not torch.allclose(read[:, 1:], before[:, 1:])


def test_once_it_has_learned_the_streams_meet():
    network, batch = learned("view"), fake_batch()
    before = hidden_after(network, batch)
    after = hidden_after(network, dataclasses.replace(batch, noise=batch.noise + 1))
    assert not torch.allclose(after[:, 1:], before[:, 1:])


def test_every_stream_stands_at_the_videos_own_frames():
    context = learned("view").embed_scene(fake_batch().scene, FRAMES)
    assert context.positions.tolist() == [0, 1, 2, 0, 1, 2]


def test_the_view_attention_starts_as_a_silent_copy_of_self_attention():
    network, _ = begun("view")
    for block in network.transformer.blocks:
        for layer in ("q", "k", "v", "norm_q", "norm_k"):
            ours, theirs = getattr(block.view_attn, layer), getattr(block.self_attn, layer)
            assert torch.equal(ours.weight, theirs.weight)
            assert ours.weight.data_ptr() != theirs.weight.data_ptr()
        assert not block.view_attn.o.weight.any()
        assert not block.view_attn.o.bias.any()
        assert torch.equal(block.view_modulation, block.modulation[:, :3])


def gradients(network, batch):
    network.zero_grad()
    network(batch.noisy(), batch.sigma, batch.text, batch.poses, batch.scene).square().mean().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("join", JOINS)
def test_checkpointed_blocks_give_the_same_gradients_and_hold_the_view_attention(join):
    network, batch = learned(join), fake_batch()
    runs = []
    for block in network.transformer.blocks:
        layer = block.view_attn if join == "view" else block.self_attn
        layer.register_forward_hook(lambda module, inputs, output: runs.append(1))
    whole = gradients(network, batch)
    assert len(runs) == SMALL.num_layers
    network.transformer.gradient_checkpointing = True
    again = gradients(network, batch)
    assert len(runs) == 3 * SMALL.num_layers  # forward, and once more on the way back
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize(
    ("join", "first"),
    [("channel", ("view_embedding.weight", "feature_embedding.weight")), ("view", ("blocks.2.view_attn.o.weight",))],
)
def test_the_new_layers_learn_from_the_first_step(join, first):
    network, _ = begun(join)
    found = gradients(network, fake_batch())
    for ending in first:
        (name,) = (name for name in found if name.endswith(ending))
        assert found[name].abs().max() > 1e-6, name


@pytest.mark.parametrize("join", JOINS)
def test_a_trained_join_is_rebuilt_from_its_state(join):
    network, batch = learned(join), fake_batch()
    other, _ = build_network(model_config(join=join), seed=9)
    other.load_state_dict(network.state_dict())
    assert torch.equal(predict(other, batch), predict(network, batch))
