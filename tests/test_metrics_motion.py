"""Flicker between neighbours, plain and along the flow: pictures whose motion is known."""

import itertools
import math

import numpy as np
import pytest
import torch

from cinescene_core.checks import ShapeError
from cinescene_core.metrics import temporal_flickering, warp_error

HEIGHT, WIDTH = 14, 18


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moved(right, down, frames=3):
    """A texture that moves by whole pixels per frame, its flow, and which pixels stay in the picture."""
    texture = noise(60, 60, 3)
    video = torch.stack([
        texture[30 - down * t : 30 - down * t + HEIGHT, 30 - right * t : 30 - right * t + WIDTH]
        for t in range(frames)
    ])  # fmt: skip
    flow = torch.tensor([right, down], dtype=torch.float64).expand(frames - 1, HEIGHT, WIDTH, 2)
    rows, columns = torch.arange(HEIGHT)[:, None] + down, torch.arange(WIDTH)[None] + right
    inside = (rows >= 0) & (rows < HEIGHT) & (columns >= 0) & (columns < WIDTH)
    return video, flow, inside.expand(frames - 1, HEIGHT, WIDTH)


@pytest.mark.parametrize(("right", "down"), [(0, 0), (3, 0), (-2, 5), (4, -1)])
def test_a_texture_that_moves_has_no_error_along_its_flow_and_much_against_it(right, down):
    video, flow, visible = moved(right, down)
    torch.testing.assert_close(
        warp_error(video, flow, visible), torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0
    )
    if right or down:
        still = warp_error(video, torch.zeros_like(flow), visible)
        assert (still - 1 / 3).abs().max() < 0.03  # the mean difference of two independent values of 0..1


def test_flicker_is_measured_whatever_the_camera_does():
    video, flow, visible = moved(3, 1, frames=4)
    level = torch.tensor([0.0, 0.05, 0.0, 0.1])[:, None, None, None]
    values = warp_error(0.5 * video + level, flow, visible)
    torch.testing.assert_close(values, torch.tensor([0.05, 0.05, 0.1], dtype=torch.float64), atol=1e-7, rtol=0)


def test_a_ramp_is_followed_between_pixels():
    # Bilinear sampling is exact on a ramp: x / 40 shifted by 1.3 to the right, y / 40 by 0.6 up.
    y, x = torch.meshgrid(torch.arange(HEIGHT).double() / 40, torch.arange(WIDTH).double() / 40, indexing="ij")
    ramp = torch.stack([x, y, x + y], dim=-1) + 0.1
    shift = torch.tensor([1.3, -0.6, 1.3 - 0.6], dtype=torch.float64)
    video = torch.stack([ramp, ramp - shift / 40])
    flow = torch.tensor([1.3, -0.6], dtype=torch.float64).expand(1, HEIGHT, WIDTH, 2)
    visible = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    visible[:, 1:, : WIDTH - 2] = True
    assert float(warp_error(video, flow, visible)) == pytest.approx(0, abs=1e-12)


def test_hidden_pixels_do_not_count_whatever_their_flow():
    video, flow, visible = moved(2, 0)
    flow, video = flow.clone(), video.clone()
    flow[~visible] = math.nan
    assert warp_error(video, flow, visible).max() < 1e-12
    nothing = torch.zeros_like(visible)
    assert warp_error(video, flow, nothing).isnan().all()


def test_flickering_is_vbenchs_on_8_bit_frames():
    frames = (noise(5, 8, 9, 3, seed=2) * 255).round()
    levels = frames.numpy().astype(np.uint8).astype(int)
    means = [np.abs(b - a).mean() for a, b in itertools.pairwise(levels)]
    assert temporal_flickering(frames / 255) == pytest.approx((255 - np.mean(means)) / 255, abs=1e-12)


def test_a_still_does_not_flicker_and_a_strobe_does_nothing_else():
    still = noise(1, 8, 8, 3).expand(4, -1, -1, -1)
    assert temporal_flickering(still) == 1
    strobe = torch.tensor([0.0, 1.0, 0.0])[:, None, None, None].expand(3, 4, 4, 3)
    assert temporal_flickering(strobe) == 0


def test_bad_input_is_refused():
    video, flow, visible = moved(2, 0)
    with pytest.raises(
        ShapeError, match=r"frames must hold at least 2 frames to compare neighbours; got 1\. Give a vid"
    ):
        temporal_flickering(video[:1])
    with pytest.raises(ShapeError, match=r"at least 2 frames to compare neighbours; got 1"):
        warp_error(video[:1], flow[:0], visible[:0])
    with pytest.raises(ShapeError, match=r"flow must have shape \[2, 14, 18, 2\]; got \[3, 14, 18, 2\]"):
        warp_error(video, torch.zeros(3, HEIGHT, WIDTH, 2), visible)
    with pytest.raises(ShapeError, match=r"visible must have shape \[2, 14, 18\]; got \[1, 14, 18\]"):
        warp_error(video, flow, visible[:1])
    with pytest.raises(ValueError, match=r"flow at visible pixels holds 448 NaN or infinite values of 896"):
        warp_error(video, flow * torch.tensor([math.nan, 1]), visible)
    everywhere = torch.ones_like(visible)
    everywhere[0] = visible[0]
    with pytest.raises(
        ValueError,
        match=r"leads 28 visible pixels of frame 1 out of the picture\. Clear them in `visible`: nothing",
    ):
        warp_error(video, flow, everywhere)
