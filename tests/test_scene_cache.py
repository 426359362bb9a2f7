"""The scene cache: what it holds, what it is worth, and what it refuses."""

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from test_wan import SMALL, inputs, random_model

from cinescene_core.checks import CheckpointError, FileFormatError
from cinescene_core.models.sequence import SceneContext
from cinescene_core.scene_cache import (
    CACHE_KEY,
    SceneCache,
    StoredTensor,
    build_scene_cache,
    check_scene_cache,
    embed_scene,
    load_scene_cache,
)
from cinescene_core.types import Context

FRAMES, VIEWS = 3, 4
CONDITIONS = [({}, "cached"), ({"timestep": torch.tensor([0.0])}, "cached"), ({"text": 1}, "cached"), ({}, "per_view")]


@pytest.fixture(scope="module")
def given():
    """One video and one scene, of `test_wan`."""
    return inputs(SMALL, batch=1, frames=FRAMES, views=VIEWS)


@pytest.fixture(scope="module")
def model():
    return random_model(SMALL)


def context_of(given, slots=tuple(range(VIEWS))) -> Context:
    views = list(slots)
    return Context(
        order=tuple(range(len(views))),
        latents=given["latents"][0][views],
        features=given["features"][0][views],
        view_positions=given["positions"][views],
        feature_positions=given["positions"][[VIEWS + view for view in views]],
    )


@torch.no_grad()
def predict(model, given, scene, **options):
    return model(given["video"], given["timestep"], given["text"], camera=given["camera"], context=scene, **options)


@pytest.mark.parametrize("place", ["device", "host"])
@pytest.mark.parametrize(("change", "mode"), CONDITIONS)
def test_sampling_with_a_cache_equals_the_masked_model(model, given, change, mode, place):
    if "text" in change:
        change = {"text": given["text"].flip(1) + 1}
    context = context_of(given)
    cache = build_scene_cache(model, context, mode, place=place)
    now = given | change
    with torch.no_grad():
        wanted = predict(model, now, embed_scene(model, context), context_attention=mode)
    found = predict(model, now, cache)
    # The same sums in batches of other sizes: float32 rounding remains.
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6 * float(wanted.abs().max()))
    joint = predict(model, now, embed_scene(model, context), context_attention="joint")
    assert (found - joint).abs().max() > 1e-3 * wanted.abs().max()


def test_one_cache_serves_a_batch(model, given):
    cache = build_scene_cache(model, context_of(given), "cached")
    single = predict(model, given, cache)
    twice = {k: v if k == "positions" else v.expand(2, *v.shape[1:]) for k, v in given.items()}
    both = predict(model, twice, cache)
    for half in both:
        torch.testing.assert_close(half, single[0], rtol=0, atol=2e-6 * float(single.abs().max()))


def test_per_view_reads_each_view_as_if_it_were_alone(model, given):
    whole = build_scene_cache(model, context_of(given), "per_view")
    for view in range(VIEWS):
        alone = build_scene_cache(model, context_of(given, (view,)), "cached")
        for block, part in zip(whole.blocks, alone.blocks, strict=True):
            for stored, wanted in zip(block, part, strict=True):
                streams = stored.values.unflatten(2, (2, VIEWS, -1))[:, :, :, view].flatten(2, 3)
                torch.testing.assert_close(streams, wanted.values, rtol=0, atol=2e-6 * float(wanted.values.abs().max()))


def test_in_mode_cached_views_read_each_other(model, given):
    whole = build_scene_cache(model, context_of(given), "cached").blocks[-1].keys.values
    alone = build_scene_cache(model, context_of(given, (0,)), "cached").blocks[-1].keys.values
    first = whole.unflatten(2, (2, VIEWS, -1))[:, :, :, 0].flatten(2, 3)
    assert (first - alone).abs().max() > 1e-2 * alone.abs().max()


@pytest.mark.parametrize(
    ("stored", "relative"),
    # Half a unit in the last place: bfloat16 keeps 8 bits, float16 11, e4m3 4.
    [("float32", 0.0), ("bfloat16", 2**-8), ("float16", 2**-11), ("float8", 2**-4)],
)
def test_stored_values_are_within_a_rounding(stored, relative):
    exact = (
        torch.randn(1, 3, 500, 8, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1e-3, 1, 90])[:, None, None]
    )
    found = StoredTensor.of(exact, stored).restored(torch.device("cpu"), torch.float32)
    # What is tiny beside the largest of its head has fewer bits: e4m3's smallest step is 2**-9 of 448.
    step = exact.abs().amax(dim=(2, 3), keepdim=True) * (2**-10 / 448 if stored == "float8" else 0)
    least = 2**-25 if stored == "float16" else 0
    assert ((found - exact).abs() <= relative * exact.abs() + step + least).all()


@pytest.mark.parametrize(
    ("stored", "bits", "error"), [("bfloat16", 16, 0.01), ("float16", 16, 0.002), ("float8", 8, 0.1)]
)
def test_fewer_bits_cost_little(model, given, stored, bits, error):
    context = context_of(given)
    exact = build_scene_cache(model, context, "cached")
    small = build_scene_cache(model, context, "cached", stored=stored)
    scales = 4 * SMALL.num_heads * 2 * SMALL.num_layers if stored == "float8" else 0
    assert small.num_bytes == exact.num_bytes * bits // 32 + scales
    wanted, found = predict(model, given, exact), predict(model, given, small)
    assert 0 < (found - wanted).pow(2).mean().sqrt() < error * wanted.pow(2).mean().sqrt()


def test_a_joint_checkpoint_has_no_cache(model, given):
    with pytest.raises(CheckpointError, match=r"trained with context_attention 'joint'.*Film without a cache"):
        build_scene_cache(model, context_of(given), "joint")


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float8"])
def test_a_file_gives_the_same_cache(model, given, stored, tmp_path):
    cache = build_scene_cache(model, context_of(given), "cached", stored=stored)
    cache.save(tmp_path / "cache.safetensors")
    loaded = load_scene_cache(tmp_path / "cache.safetensors")
    assert loaded.identity == cache.identity
    assert loaded.num_bytes == cache.num_bytes
    assert torch.equal(predict(model, given, loaded), predict(model, given, cache))
    check_scene_cache(loaded, model, context_of(given), "cached")


def test_a_cache_serves_nothing_else(model, given):
    context = context_of(given)
    cache = build_scene_cache(model, context, "cached")
    check_scene_cache(cache, model, context, "cached")
    other = random_model(SMALL)
    with torch.no_grad():
        other.blocks[1].self_attn.k.weight += 1e-3
    with pytest.raises(CheckpointError, match="made by the model"):
        check_scene_cache(cache, other, context, "cached")
    with pytest.raises(CheckpointError, match="made in the context mode cached, but the shot needs per_view"):
        check_scene_cache(cache, model, context, "per_view")
    later = dataclasses.replace(
        context, view_positions=context.view_positions + 1, feature_positions=context.feature_positions + 1
    )
    swapped = [0, 2, 1, 3]
    reordered = dataclasses.replace(
        context, order=tuple(swapped), latents=context.latents[swapped], features=context.features[swapped]
    )
    for changed, sentence in (
        (
            dataclasses.replace(context, latents=context.latents + 1),
            r"made of the scene [0-9a-f]{16}, but the shot needs",
        ),
        (reordered, r"made of its views in the order 0 1 2 3, but the shot needs 0 2 1 3"),
        (
            later,
            r"for another number of frames: with the scene at (\d+) to .*, but the shot needs .*Make the cache again",
        ),
    ):
        with pytest.raises(CheckpointError, match=sentence):
            check_scene_cache(cache, model, changed, "cached")


@pytest.fixture
def saved(model, given, tmp_path):
    path = tmp_path / "cache.safetensors"
    build_scene_cache(model, context_of(given), "cached").save(path)
    return path


def test_a_truncated_file_is_refused(saved):
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(FileFormatError, match=r"cache\.safetensors is truncated: 100 of its .* Make the cache again\."):
        load_scene_cache(saved)


def rewritten(path, change):
    with safe_open(path, "pt") as file:
        record = json.loads(file.metadata()[CACHE_KEY])
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
    change(record, tensors)
    save_file(tensors, path, metadata={CACHE_KEY: json.dumps(record)})
    return path


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda record, _: record.update(format=2), "scene cache of format 2; this version reads 1. Update CineScene"),
        (lambda record, _: record.update(more=1), "record does not fit .*'more'.* Make it again"),
        (lambda record, _: record.pop("blocks"), "record cannot be read .*blocks.* Make it again"),
        (lambda _, tensors: tensors.pop("blocks.0.keys"), "holds 3 tensors where a scene cache of 2 blocks holds 4"),
        (lambda record, _: record.update(blocks=10**12), "holds 4 tensors where a scene cache of 1000000000000 blocks"),
        (lambda record, _: record.update(stored="int4"), "stored must be one of float32, .*; got 'int4'"),
        (lambda record, _: record.update(stored="float16"), r"blocks.* is torch.float32 of .* holds torch.float16 of"),
        (
            lambda _, tensors: tensors.update({"blocks.1.values": tensors["blocks.1.values"][:, :, 1:].contiguous()}),
            r"blocks\.1\.values is torch\.float32 of .*\[1, heads, tokens, channels\]\. Make the cache again",
        ),
    ],
)
def test_a_file_of_another_make_is_refused(saved, change, sentence):
    with pytest.raises(FileFormatError, match=sentence):
        load_scene_cache(rewritten(saved, change))


def test_another_file_is_refused(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(FileFormatError, match=r"other\.safetensors is no scene cache"):
        load_scene_cache(tmp_path / "other.safetensors")


def test_the_embedded_scene_is_what_the_network_embeds(model, given):
    embedded = embed_scene(model, context_of(given))
    wanted: SceneContext = model.embed_context(given["latents"], given["features"], given["positions"])
    assert torch.equal(embedded.tokens, wanted.tokens)
    assert embedded.size == (3, 5)
    assert isinstance(build_scene_cache(model, context_of(given), "cached"), SceneCache)
