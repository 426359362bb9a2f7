"""Latent arithmetic, worked out by hand."""

import pytest
import torch

from cinescene_core.config import LATENT_MEAN, LATENT_STD
from cinescene_core.latents import denormalise_latents, latent_frames, latent_shape, normalise_latents


@pytest.mark.parametrize(("frames", "latent"), [(1, 1), (5, 2), (9, 3), (77, 20), (81, 21)])
def test_the_first_frame_stands_alone_and_the_others_go_in_fours(frames, latent):
    groups = [[0], *(list(range(start, start + 4)) for start in range(1, frames, 4))]
    assert [frame for group in groups for frame in group] == list(range(frames))
    assert latent_frames(frames) == len(groups) == latent


@pytest.mark.parametrize(("frames", "sentence"), [(0, "Use 1 or 5"), (4, "Use 1 or 5"), (76, "Use 73 or 77")])
def test_other_lengths_are_refused(frames, sentence):
    with pytest.raises(ValueError, match=rf"num_frames must be 4n \+ 1.*got {frames}\. {sentence}"):
        latent_frames(frames)


def test_the_papers_shot():
    # 77 frames of 672 x 384: 20 latent frames of 84 x 48, in 16 channels.
    assert latent_shape(77, 672, 384) == (16, 20, 48, 84)
    with pytest.raises(ValueError, match=r"multiples of 16 .* got 680 x 384\. Use 672 x 384"):
        latent_shape(77, 680, 384)


def test_a_latent_at_its_mean_is_zero_and_one_deviation_above_is_one():
    mean, std = torch.tensor(LATENT_MEAN), torch.tensor(LATENT_STD)
    raw = torch.stack([mean, mean + std, mean - 2 * std]).view(3, 16, 1, 1)
    # Means and deviations have four decimals: sums and quotients of a few units round in the seventh digit.
    expected = torch.tensor([0.0, 1.0, -2.0]).view(3, 1, 1, 1).expand(3, 16, 1, 1)
    torch.testing.assert_close(normalise_latents(raw), expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(denormalise_latents(expected), raw, rtol=0, atol=2e-6)


def test_single_channels_by_hand():
    zeros = normalise_latents(torch.zeros(1, 16, 1, 1))
    assert zeros[0, 0].item() == pytest.approx(0.7571 / 2.8184, rel=1e-6)
    assert zeros[0, 7].item() == pytest.approx(-1.5508 / 2.0743, rel=1e-6)
    ones = denormalise_latents(torch.ones(1, 16, 1, 1))
    assert ones[0, 15].item() == pytest.approx(1.9160 - 0.2921, rel=1e-6)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_the_channels_may_stand_anywhere(axis):
    raw = torch.randn(2, 16, 3, 4, generator=torch.Generator().manual_seed(0))
    moved = raw.movedim(1, axis)
    assert torch.equal(normalise_latents(moved, axis), normalise_latents(raw).movedim(1, axis))
    assert torch.equal(denormalise_latents(moved, axis), denormalise_latents(raw).movedim(1, axis))


def test_half_precision_is_computed_in_float32():
    raw = torch.linspace(-3, 3, 32).view(2, 16, 1, 1).bfloat16()
    assert normalise_latents(raw).dtype == torch.float32
    assert torch.equal(normalise_latents(raw), normalise_latents(raw.float()))
