"""What the network starts from, and what of it trains."""

import pytest
import torch
from fake_clips import ONE_HEAD, SMALL, model_config, write_file
from safetensors.torch import save_file

from cinescene_core.checks import CheckpointError
from cinescene_core.config import CineSceneConfig, WanConfig
from cinescene_core.models.wan import CineSceneTransformer
from cinescene_training.building import build_network, build_transformer, mark_trainable
from cinescene_training.config import PAPER_TRAINABLE, ModelConfig


def built_from(path, **changes):
    return build_transformer(ModelConfig(start_from=path, **changes), 0)


@pytest.mark.parametrize("kind", ["wan", "recammaster"])
def test_a_base_file_keeps_its_weights_and_begins_as_it_is(tmp_path, kind):
    path = tmp_path / "base.safetensors"
    held = write_file(path, kind)
    model, record = built_from(path)  # without a warning, which would be an error: to train it is the point
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
