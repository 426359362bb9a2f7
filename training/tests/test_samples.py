"""Draws: the same for one number everywhere, and distributed as the recipe says."""

import dataclasses
import itertools
import math

import pytest
import torch
from tiny_run import tiny_config

from cinescene_core.latents import normalise_latents
from cinescene_training.config import ObjectiveConfig, RunConfig
from cinescene_training.data.cache import EncodedCache
from cinescene_training.samples import (
    PADDING,
    RankedNumbers,
    TrainingSamples,
    ValidationSamples,
    draw_sample,
    draw_slots,
    item_of,
    shares,
    stack,
)


@pytest.fixture(scope="module")
def cache(studio):
    return EncodedCache(studio / "cache", "train")


def draw(cache, config, number):
    return draw_sample(cache.sample(0), cache.empty_text(), config, number)


def test_a_pass_over_the_data_takes_every_item_once_in_an_order_of_its_own():
    passes = [[item_of(number, 20, seed=3) for number in range(20 * n, 20 * n + 20)] for n in range(3)]
    assert all(sorted(one) == list(range(20)) for one in passes)
    assert passes[0] != passes[1] != passes[2]


def test_devices_and_micro_batches_share_the_samples_of_a_step(tmp_path):
    whole = RunConfig(folder=tmp_path, steps=3, batch_size=12, micro_batch=12)
    shared = RunConfig(folder=tmp_path, steps=3, batch_size=12, micro_batch=2, devices=3)
    per_rank = [list(RankedNumbers(shared, rank, 0)) for rank in range(3)]
    assert all(len(one) == len(RankedNumbers(shared, 0, 0)) == 6 for one in per_rank)
    for step, (wanted,) in enumerate(zip(RankedNumbers(whole, 0, 0), strict=True)):
        found = [number for rank in per_rank for batch in rank[2 * step : 2 * step + 2] for number in batch]
        assert sorted(found) == wanted
    assert list(RankedNumbers(shared, 1, 2)) == per_rank[1][4:]


def test_the_noise_levels_are_bent_by_the_shift(cache, tmp_path):
    config = tiny_config(tmp_path, objective={"shift": 15.0})
    sigmas = torch.cat([draw(cache, config, number).sigma for number in range(4000)])
    # u uniform: the median is 15 * 0.5 / (1 + 14 * 0.5), and sigma > 0.9 where u > 0.9 / (0.9 + 15 * 0.1).
    assert float(sigmas.median()) == pytest.approx(7.5 / 8, abs=0.01)
    assert float((sigmas > 0.9).double().mean()) == pytest.approx(1 - 0.9 / 2.4, abs=0.03)


def test_prompts_are_dropped_as_often_as_said(cache, tmp_path):
    config = tiny_config(tmp_path, objective={"text_dropout": 0.25})
    empty = cache.empty_text()
    dropped = [torch.equal(draw(cache, config, number).text[0], empty) for number in range(1000)]
    # A binomial of 1000: three deviations are 0.041.
    assert sum(dropped) / 1000 == pytest.approx(0.25, abs=0.041)


def test_a_sample_is_the_flow_between_its_clip_and_its_noise(cache, tmp_path):
    sample = draw(cache, tiny_config(tmp_path), 5)
    clip = cache.sample(0)
    assert torch.equal(sample.video, normalise_latents(clip.latents[None]))
    clean, noise = (dataclasses.replace(sample, sigma=torch.tensor([level])).noisy() for level in (0.0, 1.0))
    assert torch.equal(clean, sample.video)
    assert torch.equal(noise, sample.noise)
    assert abs(float(sample.noise.mean())) < 4 / math.sqrt(sample.noise.numel())
    assert float(sample.noise.std()) == pytest.approx(1, abs=0.1)
    again, other = draw(cache, tiny_config(tmp_path), 5), draw(cache, tiny_config(tmp_path), 6)
    assert torch.equal(sample.noise, again.noise)
    assert not torch.equal(sample.noise, other.noise)


def test_the_start_view_stays_and_every_order_of_the_others_comes():
    orders = [tuple(draw_slots(4, ObjectiveConfig(), seed=0, number=number)) for number in range(300)]
    assert {order[0] for order in orders} == {0}
    assert {order[1:] for order in orders} == set(itertools.permutations((1, 2, 3)))
    ordered = ObjectiveConfig(order="ordered")
    assert all(draw_slots(4, ordered, 0, number) == [0, 1, 2, 3] for number in range(20))


def test_images_and_features_stand_in_the_same_slots(cache, tmp_path):
    clip = cache.sample(0)
    sample = draw(cache, tiny_config(tmp_path), 7)
    slots = draw_slots(3, ObjectiveConfig(), 0, 7)
    rows, columns = clip.tokens.grid
    for slot, view in enumerate(slots):
        assert torch.equal(sample.scene.latents[0, slot], normalise_latents(clip.view_latents[view][None])[0])
        patch = clip.tokens.patch[view].T.reshape(-1, rows, columns)
        assert torch.equal(sample.scene.patch[0, slot], patch)
        assert torch.equal(sample.scene.camera[0, slot], clip.tokens.camera[view, 0])


def test_progressive_training_hides_the_images_first(cache, tmp_path):
    config = tiny_config(
        tmp_path, objective={"order": "progressive", "progressive_share": 0.5}, run={"steps": 6, "batch_size": 4}
    )
    shown = [draw(cache, config, number).scene.images_shown for number in range(24)]
    assert shown == [False] * 12 + [True] * 12


def test_batches_are_their_samples_one_after_the_other(cache, tmp_path):
    samples = TrainingSamples(cache, tiny_config(tmp_path))
    batch = stack([samples[2], samples[9]])
    assert batch.names == samples[2].names + samples[9].names
    for i, number in enumerate((2, 9)):
        one = samples[number]
        for name in ("video", "noise", "sigma", "text", "poses"):
            assert torch.equal(getattr(batch, name)[i : i + 1], getattr(one, name)), name
        assert torch.equal(batch.scene.patch[i : i + 1], one.scene.patch)
    assert torch.equal(batch.to(torch.device("cpu")).scene.latents, batch.scene.latents)


@pytest.mark.parametrize(("count", "devices", "at_once"), [(6, 8, 1), (6, 4, 2), (7, 3, 2), (12, 1, 4), (1, 2, 3)])
def test_every_device_has_as_many_held_out_batches_and_every_sample_counts_once(count, devices, at_once):
    per_device = shares(count, devices, at_once)
    assert len({len(batches) for batches in per_device}) == 1
    numbers = sorted(number for batches in per_device for batch in batches for number in batch)
    assert [number for number in numbers if number < count] == list(range(count))
    assert all(len(batch) == at_once for batches in per_device for batch in batches)


def test_padding_is_a_sample_without_a_name(studio, tmp_path):
    samples = ValidationSamples(EncodedCache(studio / "cache", "validation"), tiny_config(tmp_path))
    padding = samples[len(samples) + 1]
    assert padding.names == (PADDING,)
    assert torch.equal(padding.noise, samples[1].noise)


def test_validation_repeats_its_noise_at_every_level(studio, tmp_path):
    samples = ValidationSamples(EncodedCache(studio / "cache", "validation"), tiny_config(tmp_path))
    assert len(samples) == 2 * 2
    assert torch.equal(samples[0].noise, samples[1].noise)
    assert not torch.equal(samples[0].noise, samples[2].noise)
    assert [float(samples[number].sigma) for number in range(4)] == pytest.approx([0.3, 0.9, 0.3, 0.9])
